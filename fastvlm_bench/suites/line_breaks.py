"""Characters within a caption that other scorers take for the end of a line."""

import re

BREAKS = {"\r": "CR", "\v": "VT", "\f": "FF", "\x85": "NEL", "\u2028": "U+2028", "\u2029": "U+2029"}
"""Characters that Stanford's tokenizer takes for the end of a line. All later captions then go to the wrong images."""
BREAK = re.compile("[" + "".join(BREAKS) + "]")


def line_break(text: str) -> str:
    """The name of the first of `BREAKS` in a text, or "". A plain line feed is common, and harmless in every scorer."""
    found = BREAK.search(text)
    return BREAKS[found[0]] if found else ""
