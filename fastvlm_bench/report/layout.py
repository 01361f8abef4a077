"""Draws columns on a terminal of any width: those that do not fit go into a further table, and nothing is ever cut.

rich is imported when something is drawn, so that the command line starts fast.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastvlm_bench.visible import visible

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

ASCII = str.maketrans({
    "γ": "gamma", "α": "alpha", "τ": "tau", "Δ": "d", "×": "x", "↑": "^", "↓": "v", "–": "-", "·": "|", "≥": ">=",
    "±": "+-", "→": "->", "−": "-", "\N{RIGHT SINGLE QUOTATION MARK}": "'",
})  # fmt: skip
NOTHING = "–"
LABEL_WIDTH = 26
GAP = 3
"""Between two columns: a space, the divider, a space."""
TIGHT = 2
"""Between two columns of a table that must fit one screen."""


@dataclass(frozen=True)
class Cells:
    """One column: a header (unit and direction on its second line) and one cell per row."""

    header: str
    cells: tuple[str, ...]
    justify: str = "right"


def plain(console: "Console") -> bool:
    """Whether the console can only take ASCII."""
    return not (console.encoding or "").lower().startswith("utf")


def say(console: "Console", text: str, style: str = "") -> None:
    """Print a paragraph, wrapped at words; in ASCII where the console knows nothing else."""
    console.print(fit(text, console), style=style, markup=False, highlight=False, emoji=False, soft_wrap=False)


def fit(text: str, console: "Console") -> str:
    """The text without orders to the terminal, and in ASCII where the console knows nothing else."""
    text = visible(text)
    if not plain(console):
        return text
    return text.translate(ASCII).encode("ascii", "replace").decode("ascii")


def break_label(label: str, width: int = LABEL_WIDTH) -> str:
    """A method label in lines of at most `width`: broken after commas and colons, before brackets, or where it must."""
    lines = [""]
    for part in label.replace(",", ",\0").replace(":", ":\0").replace(" [", "\0 [").split("\0"):
        for piece in [part[i : i + width] for i in range(0, len(part), width)]:
            if len(lines[-1]) + len(piece) <= width:
                lines[-1] += piece
            else:
                lines.append(piece)
    return "\n  ".join(lines)


def draw(console: "Console", label: Cells, columns: Sequence[Cells]) -> None:
    """One table, or as many as the width needs, each beginning with the label column. Empty columns are left out."""
    shown = [column for column in columns if any(cell not in ("", NOTHING) for cell in column.cells)]
    narrow = Cells(label.header, tuple(break_label(cell) for cell in label.cells), "left")
    for index, group in enumerate(_groups(narrow, shown, console.width)):
        if index:
            console.print()
        console.print(_table(console, [narrow, *group]))


def _groups(label: Cells, columns: Sequence[Cells], width: int) -> list[list[Cells]]:
    """The columns in as few tables as the width allows, spread over these tables as evenly as possible."""

    start, widths = _width(label), [_width(column) for column in columns]

    def pack(limit: int) -> list[list[Cells]]:
        groups: list[list[Cells]] = []
        used = limit + 1
        for column, wide in zip(columns, widths, strict=True):
            if used + GAP + wide > limit:
                groups.append([])
                used = start
            groups[-1].append(column)
            used += GAP + wide
        return groups

    best = pack(width)
    for limit in range(width - 1, 0, -1):
        if len(tried := pack(limit)) > len(best):
            break
        best = tried
    return best


def _width(column: Cells) -> int:
    from rich.cells import cell_len

    return max(cell_len(line) for text in (column.header, *column.cells) for line in text.split("\n"))


def tight_width(label: Cells, columns: Sequence[Cells]) -> int:
    """How wide `draw_tight` draws these columns."""
    return sum(map(_width, [label, *columns])) + TIGHT * len(columns)


def draw_tight(console: "Console", label: Cells, columns: Sequence[Cells]) -> None:
    """One table, with columns closer to each other. What does not fit is folded, so choose by `tight_width`."""
    console.print(_table(console, [label, *columns], tight=True))


def _table(console: "Console", columns: Sequence[Cells], tight: bool = False) -> "Table":
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.ASCII if plain(console) else box.SIMPLE_HEAD, show_edge=False, pad_edge=False,
                  header_style="bold", collapse_padding=tight)  # fmt: skip
    for column in columns:
        table.add_column(
            Text(fit(column.header, console)), justify="left" if column.justify == "left" else "right",
            vertical="top", no_wrap=True, overflow="fold",
        )  # fmt: skip
    for row in zip(*(column.cells for column in columns), strict=True):
        table.add_row(*(Text(fit(cell, console)) for cell in row))
    return table
