"""`report --plots DIR`: every figure at both widths of a paper, and the data of each beside it as CSV."""

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from fastvlm_bench.analysis.summary import Row, summarise
from fastvlm_bench.errors import UsageError, did_you_mean
from fastvlm_bench.records.record import Run
from fastvlm_bench.report.compare import obstacles
from fastvlm_bench.report.csv_text import to_csv
from fastvlm_bench.report.export import save
from fastvlm_bench.report.figure_data import series_of, suite_names
from fastvlm_bench.report.figures import figures_of, places_of, render
from fastvlm_bench.report.picture_style import FORMATS, WIDTHS, save_picture, styled

OPTION = "--plots"


def check_plots(folder: Path, form: str) -> None:
    """UsageError for an unknown format, and for a folder that cannot be made or written."""
    if form not in FORMATS:
        raise UsageError(f"unknown format '{form}'{did_you_mean(form, FORMATS)}; {OPTION} draws {', '.join(FORMATS)}")
    if str(folder) == "-":
        raise UsageError(f"{OPTION} -: '-' is the standard output, and a folder is written: name one")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{OPTION} {folder}: {error.strerror}; choose another folder") from None
    if not os.access(folder, os.W_OK):
        raise UsageError(f"{OPTION} {folder} may not be written; choose another folder")


def write_plots(
    runs: Sequence[Run], folder: Path, form: str = "pdf", rows: Sequence[Sequence[Row]] | None = None
) -> list[Path]:
    """Draw the figures of each suite, all runs together, as SUITE-FIGURE-WIDTH.FORM, with SUITE-FIGURE.csv beside them.

    A figure whose data was not measured is left out. What forbids or hampers to compare the runs is told on standard
    error. rows: those of each run, where they are known. Returns the files.
    """
    check_plots(folder, form)
    rows = [summarise(run) for run in runs] if rows is None else rows
    made: list[Path] = []
    for text in obstacles(runs):
        print(f"fastvlm-bench: warning: {text}", file=sys.stderr)
    with styled(OPTION):
        for suite in suite_names(runs):
            series, stem = series_of(runs, rows, suite), re.sub(r"[^\w.-]+", "-", suite)
            for kind in figures_of(series):
                data = kind.data(series)
                if not data:
                    continue
                table = folder / f"{stem}-{kind.name}.csv"
                save(table, to_csv(list(data[0]), (list(row.values()) for row in data)))
                made.append(table)
                for width in WIDTHS:
                    made.append(folder / f"{stem}-{kind.name}-{width}.{form}")
                    save_picture(render(kind, data, places_of(series), width), made[-1], OPTION)
    return made
