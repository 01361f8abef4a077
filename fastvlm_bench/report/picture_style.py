"""The one style of all pictures: colours that colour-blind readers tell apart, widths of a page, embedded fonts.

Needs matplotlib (extra `plots`), which is imported when a picture is drawn.
"""

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastvlm_bench.errors import UsageError
from fastvlm_bench.records.storage import check_target_file, write_output

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c510a")
"""Okabe and Ito's, without their yellow, which vanishes on white, and with a brown."""
MARKERS = {"o": "●", "s": "■", "^": "▲", "D": "◆", "v": "▼", "P": "✚", "X": "✖"}
"""Seven, as the colours; from the eighth method on, the two are paired anew. The sign is for legends in text."""
INK, GRID = "#1a1d21", "#c9ced6"
"""Of text and axes, and of what stays behind the data. An inline SVG gets the page's own colours in their place."""
WIDTHS = {"one-column": 3.35, "two-column": 6.9}
"""Inches of a picture in a paper of two columns."""
FORMATS = ("pdf", "png", "svg")
SETTINGS: dict[str, Any] = {
    "font.family": "sans-serif", "font.sans-serif": ["DejaVu Sans"], "font.size": 7.5, "axes.labelsize": 7.5,
    "axes.titlesize": 8, "xtick.labelsize": 7, "ytick.labelsize": 7, "legend.fontsize": 7, "legend.frameon": False,
    "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.6, "xtick.major.width": 0.6,
    "ytick.major.width": 0.6, "lines.linewidth": 1.2, "lines.markersize": 4, "axes.axisbelow": True, "axes.grid": True,
    "grid.color": GRID, "grid.linewidth": 0.4, "grid.alpha": 0.7, "text.color": INK, "axes.labelcolor": INK,
    "axes.edgecolor": INK, "xtick.color": INK, "ytick.color": INK, "figure.dpi": 100, "savefig.dpi": 300,
    "text.parse_math": False,
    "pdf.fonttype": 42, "ps.fonttype": 42, "svg.hashsalt": "fastvlm-bench", "hatch.linewidth": 0.5,
}  # fmt: skip
"""fonttype 42 embeds TrueType fonts: journals refuse the default, type 3. A "$" in a method's name is no formula."""


def colour(index: int) -> str:
    """The colour of the method with this place; 0 is the reference, which is drawn in ink."""
    return INK if index == 0 else COLOURS[(index - 1) % len(COLOURS)]


def marker(index: int) -> str:
    """The marker of the method with this place. Seven methods later, the same colour comes with another marker."""
    names = tuple(MARKERS)
    return names[(index + max(index - 1, 0) // len(COLOURS)) % len(names)]


def can_draw() -> bool:
    """Whether matplotlib is there."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        return False
    return True


@contextlib.contextmanager
def styled(option: str) -> Iterator[None]:
    """Within it, matplotlib draws in this style. option: what asked for pictures, for the error without matplotlib."""
    if not can_draw():
        raise UsageError(f"{option} needs matplotlib: pip install 'fastvlm-bench[plots]'")
    import matplotlib

    with matplotlib.rc_context(SETTINGS):
        yield


def blank(width: float, height: float) -> "Figure":
    """An empty figure of so many inches, apart from pyplot's state, so that nothing is left open."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def save_picture(figure: "Figure", path: Path, option: str) -> None:
    """Write a figure in the format of its suffix, the same bytes each time. UsageError where the file cannot be.

    WriteFailed if the disk refuses it.
    """
    check_target_file(path, option)
    undated = {".pdf": {"CreationDate": None}, ".svg": {"Date": None}}.get(path.suffix, {})
    drawn = io.BytesIO()
    figure.savefig(drawn, format=path.suffix.removeprefix("."), metadata=undated)
    write_output(path, drawn.getvalue())
