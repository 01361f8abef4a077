"""`sweep`: a run whose methods are the cells of a grid, so that it is measured, recorded and read as any run."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fastvlm_bench.config import RunConfig
from fastvlm_bench.errors import UsageError
from fastvlm_bench.measuring.benchmark import run_benchmark
from fastvlm_bench.method_spec import REFERENCE
from fastvlm_bench.records.record import Run, read_meta
from fastvlm_bench.report.plots import check_plots, write_plots
from fastvlm_bench.sweeping.grid import Grid


def swept(config: RunConfig, grid: Grid) -> RunConfig:
    """The run that measures a grid."""
    return replace(config, methods=(REFERENCE, *grid.methods))


def recorded(folder: Path) -> RunConfig:
    """The configuration of a sweep that is to be resumed. UsageError for a run that is none."""
    meta = read_meta(folder)
    if not meta.get("sweep"):
        raise UsageError(f"--resume {folder} is not a sweep; go on with it by fastvlm-bench run --resume {folder} and "
                         "the options it was made with")  # fmt: skip
    return RunConfig.from_dict(meta["config"])


def sweep(
    config: RunConfig, grid: Grid | None, *, resume: Path | None, csv: Path | None, as_json: bool, quiet: bool,
    details: bool, plots: Path | None, form: str, predict_first: bool = False,
    after: Sequence[Callable[[Run], None]] = (),
) -> int:  # fmt: skip
    """Measure the grid, or go on with a sweep, and print its tables. Returns the exit code.

    config: as `swept` makes it, or as `recorded` finds it; grid: None for the latter. plots: a folder that gets the
    heat maps, in the format `form`. predict_first: measure only the cells that a prediction holds possible winners; a
    resumed sweep goes on with those that it began with.
    """
    if plots is not None:
        check_plots(plots, form)

    def draw(run: Run) -> None:
        if plots is not None:
            made = write_plots([run], plots, form)
            print(f"{len(made)} files in {plots}", file=sys.stderr)

    marked: dict[str, Any] = (
        {} if grid is None else {**grid.as_dict(), **({"predict_first": True} if predict_first else {})}
    )
    return run_benchmark(config, resume=resume, csv=csv, as_json=as_json, quiet=quiet, details=details,
                         sweep=marked, after=(*after, draw))  # fmt: skip
