"""Sums over the rounds of lines of a record."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any


@dataclass(frozen=True)
class RoundSums:
    """Sums over rounds: tokens, and seconds inside the model's forward passes (`records.trace.Round`)."""

    rounds: int
    drafted: int
    tested: int
    accepted: int
    emitted: int
    draft_s: float
    verify_s: float


RoundKinds = Mapping[tuple[int, int, int], int]
"""(drafted, tested, accepted) -> how many rounds have these counts."""
AT_ONCE = 10_000
"""So many rounds are summed up in one call."""


def sum_rounds(lines: Iterable[Mapping[str, Any]]) -> RoundSums:
    """The sums over all rounds of these lines."""
    columns = list(zip(*chain.from_iterable(line["rounds"] for line in lines), strict=True)) or [()] * 6
    drafted, tested, accepted, emitted, draft_s, verify_s = map(sum, columns)
    return RoundSums(len(columns[0]), drafted, tested, accepted, emitted, float(draft_s), float(verify_s))


def tally(lines: Iterable[Mapping[str, Any]]) -> tuple[RoundSums, RoundKinds]:
    """The sums over all rounds of these lines, and how many rounds there are of each kind."""
    rounds = chain.from_iterable(line["rounds"] for line in lines)
    kinds: Counter[tuple[int, int, int]] = Counter()
    sums: list[Any] = [0] * 6
    while some := list(islice(rounds, AT_ONCE)):
        columns = list(zip(*some, strict=True))
        sums = [sum(column, so_far) for column, so_far in zip(columns, sums, strict=True)]
        kinds.update(zip(*columns[:3], strict=True))
    drafted, tested, accepted, emitted, draft_s, verify_s = sums
    return RoundSums(kinds.total(), drafted, tested, accepted, emitted, float(draft_s), float(verify_s)), kinds
