"""What is printed of a sweep: grids, the best cell, those that cannot be told from it, the line to copy; its CSV."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fastvlm_bench.analysis.best_cell import (
    BEST,
    CANNOT_TELL,
    BestCell,
    Cell,
    best_cells,
    estimate_of,
)
from fastvlm_bench.analysis.speedup import FEWEST_SAMPLES
from fastvlm_bench.analysis.statistics import CONFIDENCE, Estimate
from fastvlm_bench.analysis.summary import Row
from fastvlm_bench.records.record import Run
from fastvlm_bench.report.csv_text import to_csv
from fastvlm_bench.report.layout import NOTHING, Cells, draw, say
from fastvlm_bench.report.numbers import number, ratio

if TYPE_CHECKING:
    from rich.console import Console

MARKS = {BEST: " *", CANNOT_TELL: " ="}
WIDEST = 10
"""From this half-width on, an interval says nothing worth its digits."""
MOST_NAMED, MOST_REASONS = 6, 3
"""Most cells that a sentence names, and most reasons."""
LEGEND = ("decode speed-up over standard ± its 95 % interval's wider half, and α; * is the best, = cannot be told "
          "from it")  # fmt: skip


def place_name(cell: Cell) -> str:
    """Where a cell's draft stands: "exit 2 mlp"."""
    return f"exit {cell.exit_layer} {cell.head or 'raw'}"


def cell_name(cell: Cell) -> str:
    """A cell in few words: "exit 2 mlp γ4 stop 0.3"."""
    return f"{place_name(cell)} γ{cell.gamma} stop {cell.stop_below:g}"


def print_grids(console: "Console", found: BestCell) -> None:
    """The grid of one suite: a table for each stop_below, exits and heads down, γ across."""
    for stop in sorted({cell.stop_below for cell in found.cells}):
        own = [cell for cell in found.cells if cell.stop_below == stop]
        names = tuple(dict.fromkeys(place_name(cell) for cell in own))
        columns = []
        for gamma in sorted({cell.gamma for cell in own}):
            here = {place_name(cell): cell for cell in own if cell.gamma == gamma}
            columns.append(Cells(f"γ {gamma}", tuple(_shown(here.get(name), found.measure) for name in names)))
        console.print()
        draw(console, Cells(f"stop {stop:g}" if stop else "never stops", names, "left"), columns)
    legend = LEGEND if found.measure == "decode" else LEGEND.replace("decode", "end-to-end")
    say(console, f"\n{legend}", "dim")


def _shown(cell: Cell | None, measure: str) -> str:
    if cell is None:
        return NOTHING
    alpha = f"α {number(cell.row.acceptance.alpha)}"
    failed = f"\n{cell.row.counts.samples_failed} failed" if cell.row.counts.samples_failed else ""
    return f"{_with_reach(estimate_of(cell, measure))}{MARKS.get(cell.verdict, '  ')}\n{alpha}  {failed}"


def _with_reach(estimate: Estimate | None) -> str:
    if estimate is None:
        return NOTHING
    if estimate.low is None or estimate.high is None or estimate.independent < FEWEST_SAMPLES:
        return f"{estimate.value:.2f}"
    reach = max(estimate.high - estimate.value, estimate.value - estimate.low)
    return f"{estimate.value:.2f} ±{reach:.2f}" if reach < WIDEST else f"{estimate.value:.2f} ±{WIDEST}+"


def sentences(found: BestCell) -> list[str]:
    """The best cell with its interval, what cannot be told from it, whether it pays, and the line to copy."""
    if found.best is None:
        return ["No cell kept the target's tokens on a measured sample, so none is the best."]
    best, reference = found.best, found.best.row.reference
    doing = "decodes" if found.measure == "decode" else "answers"
    interval, level = found.interval, ""
    if interval is not None and interval.independent < FEWEST_SAMPLES:
        interval, level = replace(interval, low=None, high=None), f"; {interval.independent} images give no interval"
    elif found.ranked > 1:
        level = f"; its interval holds although it was chosen among {found.ranked}"
    told = [f"Best of {found.ranked} cells: {cell_name(best)} {doing} {ratio(interval)} as fast as {reference}{level}."]
    alike = [cell_name(cell) for cell in found.alike]
    if alike:
        more = f" and {len(alike) - MOST_NAMED} more" if len(alike) > MOST_NAMED else ""
        told.append(f"Cannot be told from it, by pairs on the same samples ({len(alike)} of {found.ranked - 1}): "
                    f"{', '.join(alike[:MOST_NAMED])}{more}.")  # fmt: skip
    elif found.ranked > 1:
        told.append("Every other cell is slower, by pairs on the same samples.")
    if not found.beats_standard:
        told.append(
            f"Nothing is shown to beat {reference} decoding: decode with -m {reference}, or measure more samples."
        )
    return told


def copy_line(run: Run, found: BestCell) -> str:
    """What to type for the best cell: "-m fastvlm:…", with the draft folder where one was named; "" without a best."""
    if found.best is None:
        return ""
    draft = run.meta["config"].get("draft")
    return f"-m {found.best.row.method}" + (f" --draft {draft}" if draft and found.best.head else "")


def predicted_out(run: Run) -> list[str]:
    """A sentence about the cells that a prediction left out; [] where none was."""
    out = [each for each in run.meta.get("left_out") or () if each["label"].partition(":")[2]]
    if not out:
        return []
    return [f"Left out by prediction, {len(out)} cells (run.json says the predicted speed-up of each): "
            + ", ".join(each["label"].partition(":")[2] for each in out[:MOST_NAMED])
            + (f" and {len(out) - MOST_NAMED} more" if len(out) > MOST_NAMED else "")]  # fmt: skip


def fewer(reasons: Sequence[str]) -> list[str]:
    """The reasons of an INVALID sweep, of which most are said of every cell: the first ones, and how many more."""
    more = [f"and {len(reasons) - MOST_REASONS} more, as report --details says"] if len(reasons) > MOST_REASONS else []
    return [*reasons[:MOST_REASONS], *more]


# ------------------------------------------------------------------------------------------ CSV and JSON

NAMES = ("suite", "method", "head", "exit_layer", "gamma", "stop_below", "samples", "decode_speedup",
         "decode_speedup_low", "decode_speedup_high", "e2e_speedup", "e2e_speedup_low", "e2e_speedup_high", "alpha",
         "tau", "predicted_decode_speedup", "verdict", "to_best", "to_best_low", "to_best_high",
         "to_best_holm_p")  # fmt: skip
"""Columns of the sweep's CSV, in order."""


def sweep_dicts(run: Run, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """A line for each suite and cell, with the names of `NAMES`; None is what was not measured."""
    return [sweep_dict(found.suite, cell) for found in best_cells(run, rows) for cell in found.cells]


def sweep_dict(suite: str, cell: Cell) -> dict[str, Any]:
    row = cell.row
    return {
        "suite": suite, "method": row.method, "head": cell.head or "raw", "exit_layer": cell.exit_layer,
        "gamma": cell.gamma, "stop_below": cell.stop_below, "samples": row.counts.samples_paired,
        **bounds("decode_speedup", row.speedup.decode_speedup_geomean),
        **bounds("e2e_speedup", row.speedup.e2e_speedup_geomean),
        "alpha": row.acceptance.alpha, "tau": row.acceptance.tau,
        "predicted_decode_speedup": row.costs.predicted_decode_speedup, "verdict": cell.verdict,
        **bounds("to_best", cell.to_best), "to_best_holm_p": cell.holm_p,
    }  # fmt: skip


def bounds(name: str, estimate: Estimate | None) -> dict[str, float | None]:
    value, low, high = (estimate.value, estimate.low, estimate.high) if estimate else (None, None, None)
    return {name: value, f"{name}_low": low, f"{name}_high": high}


def sweep_csv(run: Run, rows: Sequence[Row]) -> str:
    """The sweep's table, a line a suite and cell, in full precision; empty means not measured."""
    return to_csv(NAMES, (list(line.values()) for line in sweep_dicts(run, rows)))


def sweep_json(run: Run, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """For --json: of each suite the best cell, its interval of so many cells, what cannot be told from it, the line."""
    return [
        {
            "suite": found.suite, "measure": found.measure, "best": found.best.row.method if found.best else None,
            **bounds("speedup", found.interval), "confidence_of_all_cells": CONFIDENCE, "ranked": found.ranked,
            "cannot_be_told_from_best": [cell.row.method for cell in found.alike],
            "beats_standard": found.beats_standard, "copy": copy_line(run, found),
            "cells": [sweep_dict(found.suite, cell) for cell in found.cells],
        }
        for found in best_cells(run, rows)
    ]  # fmt: skip
