"""Lines of a batch, put together again: seconds are a property of the batch, never of one of its samples.

A batch's samples were decoded in the same passes, so they are one observation: ratios and their intervals are taken
over batches, as means over questions are taken over images.
"""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from fastvlm_bench.arms import Arm, Measured
from fastvlm_bench.record import Run


def batch_size(run: Run) -> int:
    """How many samples a run decoded at a time; 1 for runs that know no batches."""
    return int(run.meta["config"].get("batch_size") or 1)


def batch_of(line: Mapping[str, Any]) -> int | None:
    """The batch's number within its suite; None for a sample that was decoded alone."""
    batch = line.get("batch")
    return None if batch is None else int(batch["id"])


def whole_seconds(line: Mapping[str, Any]) -> float | None:
    """Seconds from the request to the last token: of the batch, told by its first row (None for the other rows)."""
    batch = line.get("batch")
    if batch is None:
        return float(line["ttft_s"] + line["decode_s"])
    return float(batch["ttft_s"] + batch["decode_s"]) if batch["row"] == 0 else None


def by_batch(paired: Sequence[tuple[Measured, Measured]]) -> list[tuple[Measured, Measured]]:
    """One pair a batch instead of one a sample; pairs of samples that were decoded alone stay as they are."""
    groups: dict[Any, list[tuple[Measured, Measured]]] = {}
    for ours, theirs in paired:
        number = batch_of(ours.lines[0])
        groups.setdefault(("alone", ours.sample_id) if number is None else number, []).append((ours, theirs))
    return [
        pairs[0]
        if batch_of(pairs[0][0].lines[0]) is None
        else (_together([a for a, _ in pairs]), _together([b for _, b in pairs]))
        for pairs in groups.values()
    ]


def _together(samples: Sequence[Measured]) -> Measured:
    """The samples of a batch as one: sums over its rows, medians over the repeats."""
    first = samples[0]

    def seconds(*names: str) -> float:
        lines = zip(*(sample.lines for sample in samples), strict=True)
        return median(sum(line[name] for line in rows for name in names) for rows in lines)

    return Measured(
        f"batch {batch_of(first.lines[0])}", first.image_id, (), first.lines, sum(s.tokens for s in samples),
        seconds("ttft_s"), seconds("decode_s"), seconds("ttft_s", "decode_s"),
    )  # fmt: skip


def latencies(arm: Arm) -> list[Measured]:
    """The samples whose seconds are latencies: those that were decoded alone."""
    return [sample for sample in arm.measured.values() if batch_of(sample.lines[0]) is None]


def waits(arm: Arm) -> list[tuple[float, float]]:
    """(seconds to the first tokens, seconds to the last) of each batch or single sample: what its requests wait.

    Medians over the repeats. A row that ends early could be answered sooner; nobody waits longer.
    """
    found = []
    for sample in arm.measured.values():
        if (batch_of(sample.lines[0]) is None) or sample.lines[0]["batch"]["row"] == 0:
            parts = [line.get("batch") or line for line in sample.lines]
            found.append((median(p["ttft_s"] for p in parts), median(p["ttft_s"] + p["decode_s"] for p in parts)))
    return found
