"""The figures of a report, by name: what each shows, its data, and how it becomes a picture or an inline SVG."""

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastvlm_bench.analysis.best_cell import is_sweep
from fastvlm_bench.report import drawing, figure_data
from fastvlm_bench.report.drawing import Places
from fastvlm_bench.report.figure_data import Data, Series
from fastvlm_bench.report.picture_style import COLOURS, GRID, INK, WIDTHS, blank

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HEIGHT, LINE, AROUND_BARS = 2.5, 0.125, 0.6
"""Inches: of axes with two scales; of a line of the name at a bar, and of what stands around the bars."""
TAG, STYLE = re.compile(r"<[^>]*>"), re.compile(r' style="([^"]*)"')
"""A tag of matplotlib's SVG, which writes < and > of texts and of values as entities; an attribute in it."""


@dataclass(frozen=True)
class FigureKind:
    """A figure. reading: how to read it, in one sentence, in which {unit} is a sample or a batch.

    bars: its height follows the number of methods. panels: the column whose values stand in axes of their own, "" for
    one. legend: it needs one for its methods or parts; with bars the methods stand on the axis. swept: of sweeps, whose
    cells are too many for the other figures.
    """

    name: str
    title: str
    reading: str
    data: Callable[[Sequence[Series]], Data]
    draw: Callable[[Any, Data, Places], None]
    bars: bool = False
    panels: str = ""
    legend: bool = True
    swept: bool = False


FIGURES = (
    FigureKind("speedup-by-length", "Speed-up by answer length",
               "Each point is a {unit}. Above the dashed line the method was faster than the reference.",
               figure_data.speedup_by_length, drawing.speedup_by_length),
    FigureKind("speedup-distribution", "Distribution of the speed-ups",
               "Of each {unit}. Box: quartiles; whiskers: 5th and 95th percentile; diamond: geometric mean, interval.",
               figure_data.speedup_distribution, drawing.speedup_distribution, bars=True, legend=False),
    FigureKind("acceptance-by-position", "Acceptance by place in the draft",
               "Of the drafts that were tested at this place, the share that the target accepted.",
               figure_data.acceptance_by_position, drawing.acceptance_by_position),
    FigureKind("accepted-per-round", "Accepted tokens per round",
               "How many rounds accepted so many drafted tokens.",
               figure_data.accepted_per_round, drawing.accepted_per_round),
    FigureKind("speedup-quality", "Speed-up against quality",
               "To the right quality is above the reference's, up is faster; bars are 95 % intervals.",
               figure_data.speedup_quality, drawing.speedup_quality, panels="metric"),
    FigureKind("speedup-memory", "Speed-up against memory",
               "To the left less memory, up is faster; no method lies above and to the left of the grey line.",
               figure_data.speedup_memory, drawing.speedup_memory),
    FigureKind("phases", "Where the time goes",
               "The phases of a mean request. Without an encoder apart, vision is part of prefill.",
               figure_data.phases, drawing.phases, bars=True),
    FigureKind("memory-peak", "What the memory peak is made of",
               "The parts of each method's peak on one sample.",
               figure_data.memory_peak, drawing.memory_peak, bars=True),
    FigureKind("energy", "Energy", "Joules of the device per new token.", figure_data.energy, drawing.energy,
               bars=True, legend=False),
    FigureKind("heat-map", "Speed-up of every cell of the sweep",
               "Decode speed-up over standard decoding; * is the best cell, = cannot be told from it.",
               figure_data.heat_map, drawing.heat_map, panels="panel", legend=False, swept=True),
)  # fmt: skip
"""In the order of the page."""


def reading_of(kind: FigureKind, series: Sequence[Series]) -> str:
    """How to read a figure of these series."""
    return kind.reading.format(unit=" or ".join(dict.fromkeys(one.unit for one in series)))


def figures_of(series: Sequence[Series]) -> list[FigureKind]:
    """The figures that say something of these series: for sweeps the heat map alone."""
    kinds = {is_sweep(one.run) for one in series}
    return [kind for kind in FIGURES if kind.swept in kinds]


def places_of(series: Sequence[Series]) -> dict[str, int]:
    """The place of each series among the colours and markers, the same in every figure."""
    return {one.name: one.place for one in series}


def render(kind: FigureKind, data: Data, places: Places, width: str = "one-column", legend: bool = True) -> "Figure":
    """The figure, drawn; within `picture_style.styled`. width: a name in `WIDTHS`. data: not empty.

    Panels stand side by side, and in one column below each other.
    """
    names = list(dict.fromkeys(row[kind.panels] for row in data)) if kind.panels else [""]
    narrow = width == "one-column"
    height = LINE * drawing.label_lines(data) + AROUND_BARS if kind.bars else HEIGHT
    figure = blank(WIDTHS[width], height * (len(names) if narrow else 1))
    axes = figure.subplots(*((len(names), 1) if narrow else (1, len(names))), squeeze=False).flat
    for axis, name in zip(axes, names, strict=True):
        kind.draw(axis, [row for row in data if not kind.panels or row[kind.panels] == name], places)
    if kind.legend and (legend or kind.bars):
        handles, labels = next(iter(figure.axes)).get_legend_handles_labels()
        columns = legend_columns(labels, WIDTHS[width])
        figure.set_size_inches(WIDTHS[width], figure.get_size_inches()[1] + 0.16 * -(-len(labels) // columns))
        figure.legend(handles, labels, loc="outside upper center", ncols=columns, handletextpad=0.4,
                      columnspacing=1.2, borderaxespad=0.2)  # fmt: skip
    return figure


def legend_columns(labels: Sequence[str], width_in: float) -> int:
    """As many columns of a legend as its longest label lets fit into so many inches."""
    longest = max(map(len, labels), default=1)
    return max(1, min(len(labels), int(width_in / (0.062 * longest + 0.4))))


def inline_svg(figure: "Figure", name: str, title: str) -> str:
    """The figure as an <svg> element for a page: text stays text, and colours are the page's variables.

    name: makes its ids differ from those of other figures. title: what a screen reader says.
    """
    import matplotlib

    stream = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "savefig.dpi": 150}):
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<\?.*?\?>|<!--.*?-->", "", text, flags=re.S)
    # Only tags are rewritten: what stands between them are labels of methods, which may look like attributes.
    text = TAG.sub(lambda tag: _for_page(tag[0], name), text)
    # A point repeats its style, and a page has thousands of points: each style gets a class.
    styles = dict.fromkeys(style for tag in TAG.findall(text) for style in STYLE.findall(tag))
    classes = {style: f"{name}-{index}" for index, style in enumerate(styles)}
    text = TAG.sub(lambda tag: STYLE.sub(lambda style: f' class="{classes[style[1]]}"', tag[0]), text)
    sheet = "".join(f".{known}{{{style}}}" for style, known in classes.items())
    text = re.sub(r"<style[^>]*>.*?</style>", lambda _: f"<style>{sheet}</style>", text, count=1, flags=re.S)
    text = re.sub(r"\s*\n\s*", " ", text)
    return re.sub(r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', rf'<svg role="img" aria-label="{title}" \1>', text, count=1)


def _for_page(tag: str, name: str) -> str:
    """A tag of matplotlib's with ids that are the figure's own, colours that are variables, and shorter numbers."""
    tag = re.sub(rf'<g id="{drawing.POINTS}(\d+)"', r'<g data-points="\1"', tag)
    tag = re.sub(r'<g id="[^"]*"', "<g", tag)  # nothing refers to the other groups
    tag = re.sub(r'\b(id="|xlink:href="#|url\(#)', rf"\g<1>{name}-", tag)
    tag = re.sub(r"font: (?:normal |italic )?([\d.]+)px [^;\"]*", r"font-size: \1px", tag)
    tag = re.sub(r"(\d\.\d\d)\d+", r"\1", tag)
    for shade in (*COLOURS, INK, GRID, *drawing.PHASE_COLOURS.values()):
        tag = tag.replace(f": {shade}", f": var(--c{shade[1:]}, {shade})")
    return tag
