"""The group `counts` of a row: how many samples were measured, how often, and how many of them have a pair."""

from collections.abc import Sequence
from dataclasses import dataclass

from fastvlm_bench.analysis.arms import Arm, Pair


@dataclass(frozen=True)
class Counts:
    """samples: planned. samples_ok: measured in every repeat. samples_failed: failed in any repeat.

    samples_paired: measured in this arm and in the reference, 0 for the reference itself. samples_one_token: pairs that
    have no decoding phase in one arm or both. repeats: measurements of a sample. invocations: processes that measured.
    """

    samples: int
    samples_ok: int
    samples_failed: int
    samples_paired: int
    samples_one_token: int
    repeats: int
    invocations: int


def counts_of(arm: Arm, paired: Sequence[Pair] | None) -> Counts:
    """The counts of an arm. paired: (ours, the reference's), None for the reference itself."""
    paired = paired or ()
    return Counts(
        samples=len(arm.suite["samples"]),
        samples_ok=len(arm.measured),
        samples_failed=len(arm.failed),
        samples_paired=len(paired),
        samples_one_token=sum(not (ours.decodes and theirs.decodes) for ours, theirs in paired),
        repeats=arm.repeats,
        invocations=len({line.get("invocation") or 0 for line in arm.lines()}),
    )
