"""Bounds that a run must keep, for scripts: `--min-decode-speedup`, `--min-alpha`, `--max-quality-drop`.

A bound is kept where the whole 95 % interval keeps it, so that noise alone does not pass a change that loses.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fastvlm_bench import metrics
from fastvlm_bench.analysis.arms import Arm, arms, sum_rounds
from fastvlm_bench.analysis.differences import IDENTICAL
from fastvlm_bench.analysis.quality import Quality
from fastvlm_bench.analysis.statistics import Estimate, ratio_of_totals
from fastvlm_bench.analysis.summary import Row, summarise
from fastvlm_bench.errors import FloorMissed, UsageError
from fastvlm_bench.records.record import Run


@dataclass(frozen=True)
class Floors:
    """decode_speedup: the least. alpha: the least, a share. quality_drop: the most, in points of 100. None: not asked.

    UsageError for values that no run could keep, or every run would.
    """

    decode_speedup: float | None = None
    alpha: float | None = None
    quality_drop: float | None = None

    def __post_init__(self) -> None:
        if self.decode_speedup is not None and not 0 < self.decode_speedup < 1000:
            raise UsageError(f"--min-decode-speedup is {self.decode_speedup:g}; it must be above 0, such as 1.2")
        if self.alpha is not None and not 0 < self.alpha <= 1:
            raise UsageError(f"--min-alpha is {self.alpha:g}; it must be above 0 and at most 1, such as 0.7")
        if self.quality_drop is not None and not 0 <= self.quality_drop <= 100:
            raise UsageError(f"--max-quality-drop is {self.quality_drop:g}; it must be 0 to 100, points of 100")

    def __bool__(self) -> bool:
        return (self.decode_speedup, self.alpha, self.quality_drop) != (None, None, None)


def require(runs: Sequence[Run], floors: Floors) -> None:
    """FloorMissed if any compared method of any suite misses a bound: it names method, suite, interval and option."""
    missed = [text for run in runs for text in misses(run, floors)] if floors else []
    if missed:
        more = f"; and {len(missed) - 3} more" if len(missed) > 3 else ""
        raise FloorMissed(f"{'; '.join(missed[:3])}{more}; everything is kept in {runs[0].folder}")


def misses(run: Run, floors: Floors) -> Iterator[str]:
    """A piece of text for each bound that is missed. The reference and `control` are asked nothing."""
    for row, arm in zip(summarise(run), arms(run), strict=True):
        if row.method == row.reference or not row.settings.compared:
            continue
        where = f"{row.method} on {row.suite}"
        if floors.decode_speedup is not None:
            found = row.speedup.decode_speedup_geomean
            if found is None or found.low is None or found.low < floors.decode_speedup:
                yield (f"{where}: decode speed-up {_told(found)} does not stay above --min-decode-speedup "
                       f"{floors.decode_speedup:g}")  # fmt: skip
        if floors.alpha is not None and _drafts(row):
            found = alpha_of(arm)
            if found is None or found.low is None or found.low < floors.alpha:
                yield f"{where}: α {_told(found)} does not stay above --min-alpha {floors.alpha:g}"
        if floors.quality_drop is not None:
            for quality in row.quality:
                if (told := _dropped(quality, floors.quality_drop / 100)) is not None:
                    yield (f"{where}: {quality.metric} {told} does not stay within --max-quality-drop "
                           f"{floors.quality_drop:g}")  # fmt: skip


def alpha_of(arm: Arm) -> Estimate | None:
    """Σ accepted / Σ tested with its interval over images; None where nothing was tested."""
    own = [(sum_rounds(sample.lines), sample.image_id) for sample in arm.measured.values()]
    return ratio_of_totals([sums.accepted for sums, _ in own], [sums.tested for sums, _ in own],
                           [image for _, image in own])  # fmt: skip


def _drafts(row: Row) -> bool:
    """Whether the method is one that has an α: one that tested nothing though it drafts misses the bound."""
    return row.acceptance.undrafted is not None or row.acceptance.alpha is not None


def _dropped(quality: Quality, most: float) -> str | None:
    """What is said of a metric whose loss may be more than `most` of its own scale; None where it is not.

    A metric without a value, such as CIDEr-D of one image, says nothing and is passed over; a pooled one without an
    interval cannot keep the bound unless all texts are the same.
    """
    delta = quality.delta
    if delta is None or quality.verdict == IDENTICAL or quality.changed == 0:
        return None
    worst = delta.low if metrics.kind_of(quality.metric).higher_is_better else delta.high
    loss = None if worst is None else -worst if metrics.kind_of(quality.metric).higher_is_better else worst
    if loss is not None and loss <= most:
        return None
    return f"changed by {_told(delta, 100)} points"


def _told(estimate: Estimate | None, scale: float = 1.0) -> str:
    if estimate is None:
        return "(not measured)"
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value * scale:.3g} (too few samples for an interval)"
    return f"{estimate.value * scale:.3g} [{estimate.low * scale:.3g}, {estimate.high * scale:.3g}]"
