"""Bounds that a run must keep, for scripts: `--min-decode-speedup`, `--min-alpha`, `--max-quality-drop`.

A bound is kept where the whole 95 % interval keeps it, so that noise alone does not pass a change that loses. What was
not measured keeps nothing, and an INVALID run keeps nothing either.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fastvlm_bench import metrics
from fastvlm_bench.analysis.arms import Arm, arms
from fastvlm_bench.analysis.batches import batch_size
from fastvlm_bench.analysis.differences import IDENTICAL
from fastvlm_bench.analysis.quality import Quality
from fastvlm_bench.analysis.round_sums import sum_rounds
from fastvlm_bench.analysis.statistics import Estimate, ratio_of_totals
from fastvlm_bench.analysis.summary import Row, summarise
from fastvlm_bench.analysis.verdict import invalid_reasons, row_reasons
from fastvlm_bench.errors import FloorMissed, UsageError
from fastvlm_bench.records.record import Run

MOST_SPEEDUP = 1000
"""A bound of as much is a slip of the hand."""
POINTS = 100
"""What a metric's own scale of 0 to 1 has of points."""


@dataclass(frozen=True)
class Floors:
    """decode_speedup: the least. alpha: the least, a share. quality_drop: the most, in points of 100. None: not asked.

    UsageError for values that no run could keep, or every run would.
    """

    decode_speedup: float | None = None
    alpha: float | None = None
    quality_drop: float | None = None

    def __post_init__(self) -> None:
        if self.decode_speedup is not None and not 0 < self.decode_speedup < MOST_SPEEDUP:
            raise UsageError(f"--min-decode-speedup is {self.decode_speedup:g}; it must be above 0 and below "
                             f"{MOST_SPEEDUP}, such as 1.2")  # fmt: skip
        if self.alpha is not None and not 0 < self.alpha <= 1:
            raise UsageError(f"--min-alpha is {self.alpha:g}; it must be above 0 and at most 1, such as 0.7")
        if self.quality_drop is not None and not 0 <= self.quality_drop <= 100:
            raise UsageError(f"--max-quality-drop is {self.quality_drop:g}; it must be 0 to 100, points of 100")

    def __bool__(self) -> bool:
        return bool(self.named)

    @property
    def named(self) -> str:
        """The bounds that are asked, as the user typed them; "" for none."""
        own = (("--min-decode-speedup", self.decode_speedup), ("--min-alpha", self.alpha),
               ("--max-quality-drop", self.quality_drop))  # fmt: skip
        return ", ".join(f"{option} {value:g}" for option, value in own if value is not None)


def require(runs: Sequence[Run], floors: Floors, sweep: Path | None = None) -> None:
    """FloorMissed if any compared method of any suite misses a bound: it names method, suite, interval and option.

    sweep: the folder of the runs of several batch sizes; then each miss names its size, too.
    """
    missed = [
        f"batch size {batch_size(run)}: {text}" if sweep else text for run in runs for text in misses(run, floors)
    ]
    if missed:
        more = f"; and {len(missed) - 3} more" if len(missed) > 3 else ""
        raise FloorMissed(f"{'; '.join(missed[:3])}{more}; everything is kept in {sweep or runs[0].folder}")


def misses(run: Run, floors: Floors) -> Iterator[str]:
    """A piece of text for each bound that is missed. The reference and `control` are asked nothing.

    An INVALID run misses every bound, and so does the row of another library's loop that has a fault; the text says
    why. So does a bound that no method of the run is asked.
    """
    if not floors:
        return
    rows, own, status = summarise(run), arms(run), str(run.meta["status"])
    if reasons := invalid_reasons(run, rows, own, status):
        yield f"the run is INVALID and keeps no bound, {floors.named}: {_first(reasons)}"
    asked = [(row, arm) for row, arm in zip(rows, own, strict=True)
             if row.method != row.reference and row.settings.compared]  # fmt: skip
    if not asked:
        yield f"no method was measured beside the reference, so nothing keeps {floors.named}"
    elif floors.alpha is not None and not any(row.settings.drafts for row, _ in asked):
        yield f"no method that drafts was measured, so nothing keeps --min-alpha {floors.alpha:g}"
    for row, arm in asked:
        where = _where(row)
        if row.settings.foreign and (faults := tuple(row_reasons(run, row, status))):
            yield f"{where}: its numbers are of no use and keep no bound, {floors.named}: {_first(faults)}"
        for text in _row_misses(row, arm, floors):
            yield f"{where}: {text}"


def _row_misses(row: Row, arm: Arm, floors: Floors) -> Iterator[str]:
    if floors.decode_speedup is not None:
        found = row.speedup.decode_speedup_geomean
        if found is None or found.low is None or found.low < floors.decode_speedup:
            yield (f"decode speed-up {_told(found)} is not shown to be at least --min-decode-speedup "
                   f"{floors.decode_speedup:g}")  # fmt: skip
    if floors.alpha is not None and row.settings.drafts:
        found = alpha_of(arm)
        if found is None or found.low is None or found.low < floors.alpha:
            yield f"α {_told(found)} is not shown to be at least --min-alpha {floors.alpha:g}"
    if floors.quality_drop is not None:
        for text in _drops(row, floors.quality_drop / POINTS):
            yield f"{text} is not shown to stay within --max-quality-drop {floors.quality_drop:g}"


def _where(row: Row) -> str:
    """The method and the suite; where samples failed, how many."""
    failed = f" ({row.counts.samples_failed} of {row.counts.samples} samples failed)"
    return f"{row.method} on {row.suite}{failed if row.counts.samples_failed else ''}"


def _first(reasons: Sequence[str]) -> str:
    return reasons[0] + (f", and {len(reasons) - 1} more reasons" if len(reasons) > 1 else "")


def alpha_of(arm: Arm) -> Estimate | None:
    """Σ accepted / Σ tested with its interval over images; None where nothing was tested."""
    own = [(sum_rounds(sample.lines), sample.image_id) for sample in arm.measured.values()]
    return ratio_of_totals([sums.accepted for sums, _ in own], [sums.tested for sums, _ in own],
                           [image for _, image in own])  # fmt: skip


def _drops(row: Row, most: float) -> Iterator[str]:
    """What is said of each metric whose loss may be more than `most` of its own scale, and where none was measured.

    A metric that may lack a value and says why, such as CIDEr-D of one image, is passed over, unless no other has one.
    """
    if not row.counts.samples_paired:
        yield "quality (not measured: no sample has a pair)"
        return
    told = [quality for quality in row.quality if not _excused(quality)]
    if not told:
        why = "; ".join(f"{quality.metric}: {quality.reason}" for quality in row.quality) or "the suite has no metric"
        yield f"quality (not measured: {why})"
    for quality in told:
        if (said := _dropped(quality, most)) is not None:
            yield f"{quality.metric} {said}"


def _excused(quality: Quality) -> bool:
    """Whether the metric declares that it may lack a value, and says why it has none."""
    lacks = quality.value is None and bool(quality.reason) and not quality.failure
    return lacks and metrics.kind_of(quality.metric).may_lack


def _dropped(quality: Quality, most: float) -> str | None:
    """What is said of a metric whose loss may be more than `most` of its own scale; None where it is not.

    A pooled one without an interval cannot keep the bound unless all texts are the same.
    """
    delta = quality.delta
    if delta is None:
        return f"(not measured: {quality.failure or quality.reason or 'no difference could be computed'})"
    if quality.verdict == IDENTICAL or quality.changed == 0:
        return None
    kind = metrics.kind_of(quality.metric)
    worst = delta.low if kind.higher_is_better else delta.high
    loss = None if worst is None else -worst if kind.higher_is_better else worst
    if loss is not None and loss <= most:
        return None
    points = f"changed by {_told(delta, POINTS)} points of {POINTS}"
    return points if kind.scale == POINTS else f"{points}, {_told(delta, kind.scale)} as tables print it ({kind.unit}),"


def _told(estimate: Estimate | None, scale: float = 1.0) -> str:
    if estimate is None:
        return "(not measured)"
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value * scale:.3g} (too few samples for an interval)"
    return f"{estimate.value * scale:.3g} [{estimate.low * scale:.3g}, {estimate.high * scale:.3g}]"
