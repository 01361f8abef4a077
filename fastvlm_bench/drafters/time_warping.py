"""Aligns two spellings of one text, each a series of token strings, by dynamic time warping (arXiv 2510.15545)."""

from collections.abc import Sequence
from functools import lru_cache
from math import inf

WINDOW = 32
"""Sakoe-Chiba window: how far apart two aligned places may be, unless the series' lengths differ by more."""
MARKS = str.maketrans("", "", " ▁ĠĊĉ")
"""Removes what stands for spaces, line breaks and tabs in the token strings of SentencePiece and byte-level BPE."""


def align(first: Sequence[str], second: Sequence[str]) -> list[tuple[int, int]]:
    """The pairs of places (i in `first`, j in `second`) on the cheapest path from both beginnings to both ends.

    The cost of a pair is the Levenshtein distance of its strings without marks of space. The path goes back diagonally
    where that is as cheap as any other way, else up (an earlier i), else left. [] if either series is empty.
    """
    if not first or not second:
        return []
    window = max(WINDOW, abs(len(first) - len(second)))
    own, other = ([word.translate(MARKS) for word in series] for series in (first, second))
    sums = [[inf] * (len(other) + 1) for _ in range(len(own) + 1)]
    sums[0][0] = 0
    for i in range(1, len(own) + 1):
        above, row = sums[i - 1], sums[i]
        for j in range(max(1, i - window), min(len(other), i + window) + 1):
            row[j] = distance(own[i - 1], other[j - 1]) + min(above[j - 1], above[j], row[j - 1])
    i, j, path = len(own), len(other), [(len(own) - 1, len(other) - 1)]
    while (i, j) != (1, 1):
        diagonal, up, left = sums[i - 1][j - 1], sums[i - 1][j], sums[i][j - 1]
        if diagonal <= up and diagonal <= left:
            i, j = i - 1, j - 1
        elif up <= left:
            i -= 1
        else:
            j -= 1
        path.append((i - 1, j - 1))
    return path[::-1]


@lru_cache(maxsize=65536)
def distance(one: str, other: str) -> int:
    """Levenshtein distance: the fewest letters that must be inserted, left out or replaced."""
    if one == other:
        return 0
    before = list(range(len(other) + 1))
    for i, letter in enumerate(one, 1):
        now = [i]
        for j, its in enumerate(other, 1):
            now.append(min(before[j] + 1, now[-1] + 1, before[j - 1] + (letter != its)))
        before = now
    return before[-1]


def mapped(chances: Sequence[float], pairs: Sequence[tuple[int, int]], count: int) -> list[float]:
    """The probability of each of `count` tokens of the second series, from those of the first and their alignment.

    It is the product over the tokens that are aligned with it. Each counts once, for the first token that it is aligned
    with: what follows within one drafted token is certain once that was drafted. So the product over both series is
    the same.
    """
    found, used = [1.0] * count, set[int]()
    for i, j in pairs:
        if i not in used:
            used.add(i)
            found[j] *= chances[i]
    return found
