"""What a terminal would obey, shown instead: texts of data sets and models are printed, never executed.

An escape sequence in a caption could recolour a table, hide a line of it, rename the window or write to the clipboard.
"""

import sys

_ORDERS = [*range(0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
_SHOWN = {code: f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" for code in _ORDERS if chr(code) not in "\t\n"}
"""Control characters of C0 and C1, and those that turn the direction of writing, by what is printed for them."""


def visible(text: str) -> str:
    """The text with every control character but tab and line feed written as an escape: \\x1b for ESC."""
    return text.translate(_SHOWN)


def note(text: str) -> None:
    """Tell something that does no harm on standard error, in one line."""
    print(f"fastvlm-bench: note: {visible(text)}", file=sys.stderr)
