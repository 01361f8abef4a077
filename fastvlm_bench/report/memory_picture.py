"""The parts of each method's memory peak as a stacked bar: `report --memory-picture FILE.png` (needs matplotlib)."""

from pathlib import Path

from fastvlm_bench.analysis.summary import summarise
from fastvlm_bench.errors import UsageError
from fastvlm_bench.records.record import Run
from fastvlm_bench.records.storage import check_target_file
from fastvlm_bench.report import drawing, figure_data
from fastvlm_bench.report.breakdown import memory_parts
from fastvlm_bench.report.figures import AROUND_BARS, LINE, legend_columns
from fastvlm_bench.report.picture_style import FORMATS, WIDTHS, blank, save_picture, styled

OPTION = "--memory-picture"


def check_memory_picture(path: Path) -> None:
    """UsageError for a file that is not .png, .svg or .pdf or cannot be written, before anything is printed."""
    if path.suffix.removeprefix(".") not in FORMATS:
        raise UsageError(f"{OPTION} {path}: the name must end in .png, .svg or .pdf")
    check_target_file(path, OPTION)


def draw_memory(run: Run, path: Path) -> None:
    """Write a picture with one panel per suite.

    UsageError without matplotlib, for a file that is not .png, .svg or .pdf or cannot be written, and for a record
    without the parts of memory.
    """
    check_memory_picture(path)
    suites = [suite["name"] for suite in run.meta["suites"] if memory_parts(run, suite["name"])]
    if not suites:
        raise UsageError(f"{run.folder} does not say what its memory was made of; run it again with this version")
    rows = [summarise(run)]
    data = {suite: figure_data.memory_peak(figure_data.series_of([run], rows, suite)) for suite in suites}
    with styled(OPTION):
        bars, width_in = max(map(drawing.label_lines, data.values())), WIDTHS["one-column"] * len(suites)
        figure = blank(width_in, AROUND_BARS + 0.5 + LINE * bars)
        for axis, (suite, own) in zip(figure.subplots(1, len(suites), squeeze=False)[0], data.items(), strict=True):
            drawing.memory_peak(axis, own, {})
            axis.set_title(f"{suite} ({run.meta['model']['id']}, {run.meta['model']['dtype']})")
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=legend_columns(labels, width_in))
        save_picture(figure, path, OPTION)
