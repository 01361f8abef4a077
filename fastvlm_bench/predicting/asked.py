"""What `predict` is asked: its options, checked before anything heavy is imported."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from fastvlm_bench.errors import UsageError

N = TypeVar("N", int, float)
ALPHAS, GAMMAS, BATCHES = "0.5,0.6,0.7,0.8,0.9,0.95", "1,2,4,6,8,12,16", "1,2,4,8,16,32,64,128"
MOST = 1 << 24


@dataclass(frozen=True)
class Asked:
    """The options of `predict`. Lists are in the order given; the first batch and context are those of the page.

    exits: () for a choice that spans the model. alphas: the rows of the surface; `at`, one of them, prices the tables.
    head: None for the raw exit where no draft says otherwise. dtype: None for the configuration's own.
    """

    model: str
    exits: tuple[int, ...] = ()
    head: str | None = None
    draft: Path | None = None
    alphas: tuple[float, ...] = ()
    gammas: tuple[int, ...] = ()
    batches: tuple[int, ...] = ()
    contexts: tuple[int, ...] = (1024,)
    dtype: str | None = None
    quantize: str | None = None
    trust_remote_code: bool = False
    offline: bool = False


def whole_numbers(option: str, text: str, most: int = MOST) -> tuple[int, ...]:
    """Whole numbers from 1, separated by commas. UsageError for anything else, and for one that is named twice."""
    pieces = [piece.strip() for piece in text.split(",")]
    short = all(piece.isascii() and piece.isdigit() and len(piece) <= len(str(MOST)) for piece in pieces)
    if not short or not all(1 <= int(piece) <= most for piece in pieces):
        raise UsageError(f"{option} is '{text}'; give whole numbers, 1 .. {most}, separated by commas")
    return _once(option, text, tuple(int(piece) for piece in pieces))


def shares(option: str, text: str) -> tuple[float, ...]:
    """Numbers from 0 to 1, separated by commas. UsageError for anything else, and for one that is named twice."""
    try:
        found = tuple(float(piece) for piece in text.split(","))
    except ValueError:
        found = (math.nan,)
    if not all(0 <= share <= 1 for share in found):
        raise UsageError(f"{option} is '{text}'; give shares from 0 to 1, separated by commas")
    return _once(option, text, found)


def _once(option: str, text: str, found: tuple[N, ...]) -> tuple[N, ...]:
    if len(set(found)) != len(found):
        raise UsageError(f"{option} is '{text}'; name each number once")
    return found
