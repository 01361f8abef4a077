"""Sequential halving: many candidates share a budget, and the slower half leaves after each rung. Pure bookkeeping.

Karnin, Koren and Somekh 2013: with ceil(log2 n) rungs of equal cost, most of the budget goes to the candidates that may
be the best. Here a candidate's score is the mean logarithm of its speed-up over the reference on the same samples.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil, log2
from statistics import fmean

FEWEST = 2
"""Samples of a rung, at the least."""
CONFIRMING = 5
"""Samples on which the winner is measured at the end, at the least: fewer images give no interval."""


def rungs(candidates: int) -> int:
    """How many times the candidates are halved until one is left."""
    return ceil(log2(candidates)) if candidates > 1 else 0


def survivors(candidates: int) -> list[int]:
    """How many candidates are measured in each rung; the last rung has two."""
    found = []
    while candidates > 1:
        found.append(candidates)
        candidates = ceil(candidates / 2)
    return found


@dataclass
class Race:
    """The candidates that are left, and the log speed-ups of all. out: candidate -> the rung after which it left."""

    left: list[str]
    logs: dict[str, list[float]] = field(default_factory=dict)
    out: dict[str, int] = field(default_factory=dict)
    rung: int = 0

    def add(self, logs: Mapping[str, float]) -> None:
        """The log speed-ups of one sample, of each candidate that was measured on it."""
        for name, value in logs.items():
            self.logs.setdefault(name, []).append(value)

    def score(self, name: str) -> float:
        """The mean over all rungs; a candidate that has no measurement, because it failed, is last."""
        own = self.logs.get(name)
        return fmean(own) if own else float("-inf")

    def halve(self) -> list[str]:
        """Keep the faster half, rounded up, in the order of their scores. Returns those that left."""
        ranked = sorted(self.left, key=self.score, reverse=True)
        kept = ranked[: ceil(len(ranked) / 2)]
        gone = ranked[len(kept) :]
        self.out |= dict.fromkeys(gone, self.rung)
        self.left, self.rung = kept, self.rung + 1
        return gone


def least_seconds(reference_s: float, seconds: Sequence[float]) -> float:
    """What the smallest race takes: `FEWEST` samples a rung and `CONFIRMING` at the end.

    reference_s: of one sample by the reference. seconds: of each candidate, the fastest first.
    """
    halving = sum(FEWEST * (reference_s + sum(seconds[:count])) for count in survivors(len(seconds)))
    return halving + CONFIRMING * (reference_s + seconds[0])


def affordable(reference_s: float, seconds: Sequence[float], budget_s: float) -> int:
    """How many of the candidates, the most promising first, the smallest race can take. 0 where not even one."""
    for count in range(len(seconds), 0, -1):
        if least_seconds(reference_s, seconds[:count]) <= budget_s:
            return count
    return 0
