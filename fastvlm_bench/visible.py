"""What a terminal would obey, shown instead: texts of data sets and models are printed, never executed.

An escape sequence in a caption could recolour a table, hide a line of it, rename the window or write to the clipboard.
"""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

Item = TypeVar("Item")
PATIENCE_S = 2.0
"""What takes longer shows how far it is."""

_ORDERS = [*range(0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
_SHOWN = {code: f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" for code in _ORDERS if chr(code) not in "\t\n"}
"""Control characters of C0 and C1, and those that turn the direction of writing, by what is printed for them."""


def visible(text: str) -> str:
    """The text with every control character but tab and line feed written as an escape: \\x1b for ESC."""
    return text.translate(_SHOWN)


def note(text: str) -> None:
    """Tell something that does no harm on standard error, in one line."""
    print(f"fastvlm-bench: note: {visible(text)}", file=sys.stderr)


def waited(items: Iterable[Item], total: int, what: str, size: Any = None) -> Iterator[Item]:
    """The items, with a bar on a terminal's standard error if they take longer than some seconds.

    total: of the items, or of their sizes, where `size(item)` is given.
    """
    began_s, done, bar, task = time.monotonic(), 0, None, None
    shows = sys.stderr.isatty()
    try:
        for item in items:
            yield item
            done += 1 if size is None else size(item)
            if bar is not None and task is not None:
                bar.update(task, completed=done)
            elif shows and time.monotonic() - began_s > PATIENCE_S:
                from rich.console import Console
                from rich.progress import Progress

                bar = Progress(console=Console(stderr=True), transient=True)
                task = bar.add_task(what, total=total, completed=done)
                bar.start()
    finally:
        if bar is not None:
            bar.stop()
