"""The fastest cell of a sweep, and which other cells cannot be told from it."""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

from fastvlm_bench.analysis.arms import Arm, arms, pairs
from fastvlm_bench.analysis.batches import by_batch
from fastvlm_bench.analysis.speedup import FEWEST_SAMPLES, decode_seconds, e2e_seconds
from fastvlm_bench.analysis.statistics import (
    CONFIDENCE,
    Estimate,
    geometric_mean_ratio,
    holm,
    log_error,
    p_of_one,
    t_quantile,
)
from fastvlm_bench.analysis.summary import Row, summarise
from fastvlm_bench.records.record import Run

Seconds = Mapping[str, float]
"""Sample -> seconds of one cell."""
BEST, SLOWER, CANNOT_TELL, NOT_RANKED = "best", "slower than the best", "cannot be told from the best", "not ranked"


@dataclass(frozen=True)
class Cell:
    """One cell on one suite. verdict: one of the four words above.

    to_best: its seconds / the best cell's on the samples that both measured; above 1, the best is faster. holm_p: of
    "as fast as the best", adjusted over all pairs of ranked cells. Both None for the best and for what is not ranked.
    """

    row: Row
    head: str | None
    exit_layer: int
    gamma: int
    stop_below: float
    verdict: str
    to_best: Estimate | None = None
    holm_p: float | None = None


@dataclass(frozen=True)
class BestCell:
    """What a sweep found on one suite.

    measure: "decode", or "end-to-end" where no answer has a second token. best: None where nothing could be ranked.
    interval: the best cell's speed-up with an interval that holds although the cell was chosen among `ranked`.
    """

    suite: str
    measure: str
    cells: tuple[Cell, ...]
    best: Cell | None
    interval: Estimate | None
    ranked: int

    @property
    def beats_standard(self) -> bool:
        """Whether the best cell is faster than standard decoding by its `interval`, from 5 images on."""
        found = self.interval
        return found is not None and found.low is not None and found.low > 1 and found.independent >= FEWEST_SAMPLES

    @property
    def alike(self) -> tuple[Cell, ...]:
        """The cells that cannot be told from the best one, the fastest first."""
        own = [cell for cell in self.cells if cell.verdict == CANNOT_TELL]
        return tuple(sorted(own, key=lambda cell: -speed(cell, self.measure)))


def speed(cell: Cell, measure: str) -> float:
    """The speed-up by which cells are ranked; 0 where it was not measured."""
    estimate = estimate_of(cell, measure)
    return 0.0 if estimate is None else estimate.value


def estimate_of(cell: Cell, measure: str) -> Estimate | None:
    """The cell's speed-up over the reference, with its own interval."""
    own = cell.row.speedup
    return own.decode_speedup_geomean if measure == "decode" else own.e2e_speedup_geomean


def is_sweep(run: Run) -> bool:
    """Whether a run was made by `sweep`."""
    return bool(run.meta.get("sweep"))


def best_cells(run: Run, rows: Sequence[Row] | None = None) -> list[BestCell]:
    """What a sweep found, suite by suite. rows: the run's, where they are known."""
    rows = summarise(run) if rows is None else rows
    own, found = arms(run), []
    for suite in (suite["name"] for suite in run.meta["suites"]):
        here = {arm.method["label"]: arm for arm in own if arm.suite["name"] == suite}
        found.append(_of_suite(suite, here, run.meta["reference"], [row for row in rows if row.suite == suite]))
    return found


def _of_suite(suite: str, own: Mapping[str, Arm], reference: str, rows: Sequence[Row]) -> BestCell:
    swept = [row for row in rows if row.method != reference and is_cell(own[row.method].method)]
    decoded = any(row.speedup.decode_speedup_geomean for row in swept)
    measure = "decode" if decoded else "end-to-end"
    cells = [_cell(row, own[row.method], NOT_RANKED) for row in swept]
    ranked = [cell for cell in cells if speed(cell, measure) and _honest(cell.row)]
    whole = [cell for cell in ranked if not cell.row.counts.samples_failed]
    ranked = whole or ranked
    if not ranked:
        return BestCell(suite, measure, tuple(cells), None, None, 0)
    images: dict[str, Hashable] = {}
    seconds = [_seconds(own[c.row.method], own[reference], decoded, c.row.settings.sampled, images) for c in ranked]
    told = compared(seconds, images)
    top = max(range(len(ranked)), key=lambda place: speed(ranked[place], measure))
    verdicts = {id(ranked[top]): replace(ranked[top], verdict=BEST)}
    for place, cell in enumerate(ranked):
        if place != top:
            ratio, p = told[min(place, top), max(place, top)]
            if place > top and ratio is not None:
                ratio = inverse(ratio)
            slower = p is not None and p <= 1 - CONFIDENCE
            verdicts[id(cell)] = replace(cell, verdict=SLOWER if slower else CANNOT_TELL, to_best=ratio, holm_p=p)
    done = tuple(verdicts.get(id(cell), cell) for cell in cells)
    return BestCell(suite, measure, done, verdicts[id(ranked[top])],
                    widened(estimate_of(ranked[top], measure), len(ranked)), len(ranked))  # fmt: skip


def is_cell(method: Mapping[str, Any]) -> bool:
    """Whether a method of run.json is a cell: it has an exit layer, γ and stop_below, and drafts chains."""
    options = method.get("options") or {}
    return {"exit_layer", "gamma", "stop_below"} <= options.keys() and (options.get("topk") or 1) == 1


def _cell(row: Row, arm: Arm, verdict: str) -> Cell:
    options = arm.method["options"]
    return Cell(row, options.get("head"), int(options["exit_layer"]), int(options["gamma"]),
                float(options["stop_below"]), verdict)  # fmt: skip


def _honest(row: Row) -> bool:
    """Whether its tokens are the target's own: what is fast because it says something else does not win."""
    return not row.sameness.violations and not row.sameness.unsteady


def _seconds(arm: Arm, reference: Arm, decode: bool, sampled: bool, images: dict[str, Hashable]) -> dict[str, float]:
    """Seconds of a cell on each sample (or batch) that the reference measured, too; `images` is filled in."""
    found = {}
    for ours, theirs in by_batch(pairs(arm, reference)):
        if not decode or (ours.decodes and theirs.decodes):
            found[ours.sample_id] = (decode_seconds if decode else e2e_seconds)(ours, sampled)
            images[ours.sample_id] = ours.image_id
    return found


# ------------------------------------------------------------------------------------------ statistics


def compared(
    seconds: Sequence[Seconds], images: Mapping[str, Hashable]
) -> dict[tuple[int, int], tuple[Estimate | None, float | None]]:
    """(i, j), i < j -> (ratio of the seconds of i to those of j, p adjusted by Holm's method over all pairs).

    All pairs are adjusted for, not those with the winner alone: the winner was chosen by the same measurements, so any
    pair might have been its pair. Without 5 images in common p is None, and the pair is not counted.
    """
    ratios = {pair: _ratio(seconds[pair[0]], seconds[pair[1]], images) for pair in combinations(range(len(seconds)), 2)}
    tested = {pair: p for pair, found in ratios.items()
              if found is not None and found.independent >= FEWEST_SAMPLES
              and (p := p_of_one(found)) is not None}  # fmt: skip
    adjusted = dict(zip(tested, holm(list(tested.values())), strict=True))
    return {pair: (found, adjusted.get(pair)) for pair, found in ratios.items()}


def widened(estimate: Estimate | None, cells: int) -> Estimate | None:
    """A geometric mean ratio with the t interval of the level 1 - 0.05 / cells, instead of 0.95.

    All cells' intervals of this level hold together with 95 % (Bonferroni), so that of the winner does, too, although
    it won for being measured as the fastest.
    """
    if estimate is None or (error := log_error(estimate)) is None:
        return estimate
    reach = math.exp(t_quantile(1 - (1 - CONFIDENCE) / (2 * cells), estimate.independent - 1) * error)
    return replace(estimate, low=estimate.value / reach, high=estimate.value * reach)


def _ratio(first: Seconds, second: Seconds, images: Mapping[str, Hashable]) -> Estimate | None:
    both = [sample for sample in first if sample in second]
    return geometric_mean_ratio(
        [first[sample] for sample in both], [second[sample] for sample in both], [images[sample] for sample in both]
    )


def inverse(estimate: Estimate) -> Estimate:
    """The reciprocal of a ratio, with its interval."""
    low, high = (None if bound is None else 1 / bound for bound in (estimate.high, estimate.low))
    return Estimate(1 / estimate.value, low, high, estimate.n, estimate.groups)
