"""Values as the text of cells, and rows of them as CSV that reads back the same."""

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any


def cell_text(value: Any) -> str:
    """The text of a cell: "" for None, true or false, numbers in full precision, the items of a list joined by ";"."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return ";".join(cell_text(item) for item in value)
    return repr(value) if isinstance(value, float) else str(value)


FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""What begins a formula in a spreadsheet: some skip white space, and take full-width signs for their own."""


QUOTED = re.compile('[,"\r\n]')
NUMBERS = frozenset({int, float})
"""Types of which `repr` is the text of a cell."""


def _numbers(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(item, int | float) for item in value)


def to_csv(header: Sequence[str], rows: Iterable[Sequence[Any]], excel_safe: bool = False) -> str:
    """RFC 4180, with line feeds. excel_safe: a text that a spreadsheet would run as a formula gets a "'" before it.

    Neither the csv module nor pandas, which writes with it: before Python 3.13 it leaves a carriage return unquoted.
    """
    return "".join(csv_lines(header, rows, excel_safe))


def csv_lines(header: Sequence[str], rows: Iterable[Iterable[Any]], excel_safe: bool = False) -> Iterator[str]:
    """The same line by line, for tables that are longer than memory should hold."""

    def cell(value: Any) -> str:
        text = cell_text(value)
        if isinstance(value, int | float):
            return text
        if excel_safe and text.startswith(FORMULA) and not _numbers(value):
            text = f"'{text}"
        return '"' + text.replace('"', '""') + '"' if QUOTED.search(text) else text

    as_they_are = () if excel_safe else (str,)
    for row in chain([header], rows):  # of a data set there are millions of cells, most of them empty or simple
        yield ",".join(["" if value is None else repr(value) if type(value) in NUMBERS
                        else value if type(value) in as_they_are and not QUOTED.search(value) else cell(value)
                        for value in row]) + "\n"  # fmt: skip
