"""The group `counts` of a row: how many samples were measured, how often, and how many of them have a pair."""

from collections.abc import Sequence
from dataclasses import dataclass

from fastvlm_bench.analysis.arms import Arm, Pair, Pairs, by_dialog, whole_id


@dataclass(frozen=True)
class Counts:
    """samples: planned. samples_ok: measured in every repeat. samples_failed: failed in any repeat.

    samples_paired: measured in this arm and in the reference, 0 for the reference itself. samples_one_token: pairs that
    have no decoding phase in one arm or both. A sample of several turns counts once, with all of them; turns: planned
    turns, as many as samples where each has one. repeats: measurements of a sample. invocations: processes that
    measured.
    """

    samples: int
    turns: int
    samples_ok: int
    samples_failed: int
    samples_paired: int
    samples_one_token: int
    repeats: int
    invocations: int


def counts_of(arm: Arm, paired: Sequence[Pair] | None) -> Counts:
    """The counts of an arm. paired: (ours, the reference's), None for the reference itself."""
    if isinstance(paired, Pairs) and paired.single:
        decoding = [ours.decodes and theirs.decodes for ours, theirs in paired]
    else:
        decoding = [_decodes(pairs) for pairs in by_dialog(paired or ())]
    return Counts(
        samples=len({whole_id(sample) for sample in arm.suite["samples"]}),
        turns=len(arm.suite["samples"]),
        samples_ok=len(arm.measured if arm.single else {sample.dialog for sample in arm.measured.values()}),
        samples_failed=len(
            {whole_id(sample) for sample in arm.suite["samples"] if sample["sample_id"] in arm.failed}
            if arm.failed
            else ()
        ),
        samples_paired=len(decoding),
        samples_one_token=sum(not decodes for decodes in decoding),
        repeats=arm.repeats,
        invocations=len({line.get("invocation") or 0 for line in arm.lines()}),
    )


def _decodes(pairs: Sequence[Pair]) -> bool:
    """Whether a sample has a decoding phase in both arms, in any turn of each."""
    return any(ours.decodes for ours, _ in pairs) and any(theirs.decodes for _, theirs in pairs)
