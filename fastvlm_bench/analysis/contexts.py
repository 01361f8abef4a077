"""Acceptance and speed by the length of the context: how a method does after short prompts, and after long ones.

The context of a round is what the target has read when it begins: the prompt, its image tokens included, and the new
tokens before it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastvlm_bench.analysis.arms import Arm, Measured, arms
from fastvlm_bench.analysis.batches import batch_of
from fastvlm_bench.analysis.shares import share_of
from fastvlm_bench.analysis.statistics import Estimate, divide, geometric_mean_ratio
from fastvlm_bench.records.record import Run


@dataclass(frozen=True)
class ContextRow:
    """One method on the rounds whose context has `context_from` .. `context_to` tokens.

    samples, images: with such a round. tokens: that these rounds emitted. s_per_token: their seconds per token; None
    for batches. alpha: accepted / tested. decode_speedup: the geometric mean over samples of the reference's seconds
    per token divided by the method's, both within this range. Both intervals are over images.
    """

    suite: str
    method: str
    context_from: int
    context_to: int
    samples: int
    images: int
    tokens: int
    rounds: int
    s_per_token: float | None
    alpha: Estimate | None
    decode_speedup: Estimate | None


@dataclass
class _Sums:
    """Of one sample, with all its turns and repeats, in one range."""

    image_id: str
    tested: int = 0
    accepted: int = 0
    tokens: int = 0
    rounds: int = 0
    seconds: float | None = field(default=0.0)


Ranges = dict[int, dict[str, _Sums]]
"""k -> sample -> its sums over the rounds with a context of 2^k .. 2^(k+1) - 1 tokens."""


def context_rows(run: Run, suite: str) -> list[ContextRow]:
    """Rows by range, then method, the reference first; [] for records that do not tell the prompts' lengths."""
    own = [(arm, _ranges(arm)) for arm in arms(run) if arm.suite["name"] == suite]
    reference = next((found for arm, found in own if arm.method["label"] == run.meta["reference"]), {})
    known = sorted({k for _, found in own for k in found})
    return [
        _row(arm, k, found[k], reference.get(k) if found is not reference else None)
        for k in known for arm, found in own if k in found
    ]  # fmt: skip


def _ranges(arm: Arm) -> Ranges:
    found: Ranges = {}
    for sample in arm.measured.values():
        for line in sample.lines:
            if line.get("prompt_tokens"):
                _add(found, sample, line)
    return found


def _add(found: Ranges, sample: Measured, line: Mapping[str, Any]) -> None:
    alone = batch_of(line) is None
    for context, round_, seconds in rounds_with_context(line):
        sums = found.setdefault(context.bit_length() - 1, {}).setdefault(sample.dialog, _Sums(sample.image_id))
        sums.tested += round_[1]
        sums.accepted += round_[2]
        sums.tokens += round_[3]
        sums.rounds += 1
        sums.seconds = sums.seconds + seconds if alone and sums.seconds is not None else None


def rounds_with_context(line: Mapping[str, Any]) -> Iterator[tuple[int, Sequence[Any], float]]:
    """(context in tokens, the round, its seconds) of each round of a line.

    The seconds of the decoding are shared out by those inside the rounds' passes, so that they add up to decode_s.
    """
    inside = sum(round_[4] + round_[5] for round_ in line["rounds"])
    place = 1  # the prefill gives the first token
    for round_ in line["rounds"]:
        part = (round_[4] + round_[5]) / inside if inside > 0 else 1 / len(line["rounds"])
        yield line["prompt_tokens"] + place, round_, line["decode_s"] * part
        place += round_[3]


def _row(arm: Arm, k: int, own: Mapping[str, _Sums], reference: Mapping[str, _Sums] | None) -> ContextRow:
    sums = list(own.values())
    seconds = [one.seconds for one in sums]
    pairs = [(theirs.seconds / theirs.tokens, ours.seconds / ours.tokens, ours.image_id)
             for name, ours in own.items() if (theirs := (reference or {}).get(name)) is not None
             and ours.seconds and theirs.seconds]  # fmt: skip
    return ContextRow(
        arm.suite["name"], arm.method["label"], 1 << k, (2 << k) - 1, len(own),
        len({one.image_id for one in sums}), sum(one.tokens for one in sums), sum(one.rounds for one in sums),
        None if None in seconds else divide(sum(s or 0.0 for s in seconds), sum(one.tokens for one in sums)),
        share_of(_by_image(sums).values()) if any(one.tested for one in sums) else None,
        geometric_mean_ratio([a for a, _, _ in pairs], [b for _, b, _ in pairs], [image for *_, image in pairs]),
    )  # fmt: skip


def _by_image(sums: Sequence[_Sums]) -> dict[str, tuple[int, int]]:
    """(accepted, tested) of each image."""
    found: dict[str, tuple[int, int]] = {}
    for one in sums:
        accepted, tested = found.get(one.image_id, (0, 0))
        found[one.image_id] = accepted + one.accepted, tested + one.tested
    return found
