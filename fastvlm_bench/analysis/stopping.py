"""Decides when a suite has been measured enough (`--until-width`, `--budget`), and records which rule ended it."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fastvlm_bench.analysis.statistics import geometric_mean_ratio
from fastvlm_bench.errors import UsageError
from fastvlm_bench.machine.clock import Clock

LEAST_PAIRS = 20
"""The width of an interval of fewer pairs is itself too uncertain to stop by."""
LEAST_BLOCK_S = 1.0
SAMPLES, WIDTH, BUDGET = "samples", "width", "budget"
"""What ended a suite: all its samples, a narrow enough interval, or the time."""


def check_stopping(
    until_width: float | None, budget_s: float | None, invocations: int, energy_s: float | None = None
) -> None:
    """UsageError for values that make no sense, and for a rule together with several invocations.

    until_width: a share between 0 and 1. budget_s: seconds, above 0. energy_s: seconds per block of `--energy`.
    """
    if energy_s is not None and not LEAST_BLOCK_S <= energy_s < math.inf:
        raise UsageError(f"--energy is {energy_s}; it must be at least {LEAST_BLOCK_S:g} seconds a block, since the "
                         "counters move every tenth of one")  # fmt: skip
    given = (("--until-width", until_width, 1.0, "a share below 1, such as 0.02"),
             ("--budget", budget_s, math.inf, "a number of seconds"))  # fmt: skip
    for name, value, below, unit in given:
        if value is None:
            continue
        if not 0 < value < below:
            raise UsageError(f"{name} is {value}; it must be {unit}, above 0")
        if invocations > 1:
            raise UsageError(f"--invocations measures the same samples in each process; leave {name} out")


class StopRule:
    """Watches one suite: `by` is None until the suite may end, then WIDTH or BUDGET.

    until_width: the suite ends when the 95 % interval of every method's decode speed-up (TTFT where nothing is decoded)
    is at most this half-width, relative to the value. Because the rule looks after every sample, it ends a little early
    in a lucky streak, and the interval covers the truth a little less often than 95 %. budget_s: seconds since the rule
    was made.
    """

    def __init__(self, reference: str, clock: Clock, until_width: float | None, budget_s: float | None) -> None:
        self.reference, self.clock, self.until_width, self.budget_s = reference, clock, until_width, budget_s
        self.by: str | None = None
        self.began, self.groups = clock.now(), 0
        self._seconds: dict[str, list[tuple[float, float]]] = {}  # method -> (the reference's, its own) of each group

    def add(self, lines: Iterable[Sequence[Mapping[str, Any]]]) -> None:
        """Take in what was measured. A group is the lines of one sample or batch, one line per method.

        A resumed run also gives what was measured before it was interrupted.
        """
        for group in lines:
            self.groups += 1
            base = next((line for line in group if line["method"] == self.reference), None)
            if base is None or base["error"] is not None:
                continue
            for line in group:
                if line is not base and line["error"] is None:
                    self._seconds.setdefault(line["method"], []).append((_seconds(base), _seconds(line)))
        if self.budget_s is not None and self.clock.now() - self.began >= self.budget_s:
            self.by = BUDGET
        most, found = self.until_width, self.widths() if self.until_width is not None else {}
        if most is not None and found and all(width is not None and width <= most for width in found.values()):
            self.by = WIDTH

    def widths(self) -> dict[str, float | None]:
        """The half-width of each method's interval, relative to its speed-up; None with fewer than 20 pairs."""
        found: dict[str, float | None] = {}
        for method, pairs in self._seconds.items():
            estimate = geometric_mean_ratio([a for a, _ in pairs], [b for _, b in pairs])
            known = estimate is not None and estimate.high is not None and len(pairs) >= LEAST_PAIRS
            found[method] = (estimate.high - estimate.value) / estimate.value if known else None  # type: ignore[union-attr,operator]
        return found

    def summary(self) -> dict[str, Any]:
        """The suite's entry of `stopped` in run.json."""
        return {
            "by": self.by or SAMPLES, "groups": self.groups, "seconds": self.clock.now() - self.began,
            "until_width": self.until_width, "budget_s": self.budget_s, "widths": self.widths(),
        }  # fmt: skip


def _seconds(line: Mapping[str, Any]) -> float:
    return float(line["decode_s"] or line["ttft_s"])
