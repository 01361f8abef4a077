"""Puts the lines of one batch together again, because seconds belong to a batch and never to one of its samples.

The samples of a batch were decoded in the same forward passes, so they are one observation: ratios and their intervals
are taken over batches. So are the turns of a sample: a later one is asked after the answers to the earlier ones.
"""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from fastvlm_bench.analysis.arms import Arm, Measured, Pair, Pairs, medians
from fastvlm_bench.errors import UsageError
from fastvlm_bench.records.record import Run


def check_batches(size: int, **single: object) -> None:
    """UsageError if an option that works on single samples only is given with a batch size above 1.

    single: the values of such options, by name. One that is None, False or 0 is not given.
    """
    for name, given in single.items():
        if given and size > 1:
            raise UsageError(f"--{name} is for single samples; leave it out, or use --batch-size 1")


def batch_size(run: Run) -> int:
    """How many samples a run decoded at a time; 1 for records that were made before there were batches."""
    return int(run.meta["config"].get("batch_size") or 1)


def batch_of(line: Mapping[str, Any]) -> int | None:
    """The number of the line's batch within its suite; None for a sample that was decoded alone."""
    batch = line.get("batch")
    return None if batch is None else int(batch["id"])


def observation(sample: Measured) -> str:
    """What the sample's seconds belong to: the sample with all its turns, by its id, or "batch 3"."""
    number = batch_of(sample.lines[0])
    return sample.dialog if number is None else f"batch {number}"


def speaks(line: Mapping[str, Any]) -> bool:
    """Whether the line stands for a whole observation: a sample decoded alone, or row 0 of a batch for all its rows."""
    return "batch" not in line or line["batch"]["row"] == 0


def whole(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A method's lines of one batch as a single line: the first row's, with the batch's own seconds."""
    first = lines[0]
    return {**first, **({name: first["batch"][name] for name in ("ttft_s", "decode_s")} if "batch" in first else {})}


def by_batch(paired: Sequence[Pair]) -> list[Pair]:
    """One pair per observation: a batch as a whole, a sample with all its turns, or a sample that has one turn."""
    if isinstance(paired, Pairs) and paired.single:
        return paired
    if all(batch_of(ours.lines[0]) is None and "dialog" not in ours.lines[0] for ours, _ in paired):
        return Pairs(paired, single=True)
    groups: dict[Any, list[Pair]] = {}
    for ours, theirs in paired:
        number = batch_of(ours.lines[0])
        groups.setdefault(("alone", ours.dialog) if number is None else number, []).append((ours, theirs))
    return [
        pairs[0]
        if len(pairs) == 1 and batch_of(pairs[0][0].lines[0]) is None
        else (_together([a for a, _ in pairs]), _together([b for _, b in pairs]))
        for pairs in groups.values()
    ]


def _together(samples: Sequence[Measured]) -> Measured:
    """The samples of a batch, or the turns of a sample, as one `Measured`.

    It has one line per repeat that all of them have, with the sums over the rows or turns.
    """
    common = set[int].intersection(*({line["repeat"] for line in sample.lines} for sample in samples))
    lines = tuple(
        {
            "repeat": rows[0]["repeat"], "invocation": rows[0].get("invocation"),
            "token_ids": [token for row in rows for token in row["token_ids"]],
            "ttft_s": sum(row["ttft_s"] for row in rows), "decode_s": sum(row["decode_s"] for row in rows),
        }
        for rows in zip(*([line for line in sample.lines if line["repeat"] in common] for sample in samples),
                        strict=True)
    )  # fmt: skip
    first = samples[0]
    return Measured(observation(first), first.image_id, (), lines, **medians(lines), answers=len(samples))


def latencies(arm: Arm) -> list[Measured]:
    """The samples whose seconds are latencies of a request: those that were decoded alone."""
    if arm.single:
        return list(arm.measured.values())
    return [sample for sample in arm.measured.values() if batch_of(sample.lines[0]) is None]


def waits(arm: Arm) -> list[tuple[float, float]]:
    """How long requests wait: (seconds to the first tokens, seconds to the last token) of each batch or single sample.

    Both are medians over the repeats, and upper bounds: a row that ends early could be answered sooner.
    """
    found = []
    for sample in arm.measured.values():
        if speaks(sample.lines[0]):
            parts = [line.get("batch") or line for line in sample.lines]
            found.append((median(p["ttft_s"] for p in parts), median(p["ttft_s"] + p["decode_s"] for p in parts)))
    return found
