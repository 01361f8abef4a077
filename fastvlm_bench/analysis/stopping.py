"""Decides when a suite has been measured enough (`--until-width`, `--budget`), and records which rule ended it."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fastvlm_bench.analysis.arms import Measured, medians
from fastvlm_bench.analysis.speedup import speedups
from fastvlm_bench.analysis.statistics import Estimate, geometric_mean_ratio
from fastvlm_bench.errors import UsageError
from fastvlm_bench.machine.clock import Clock
from fastvlm_bench.method_spec import CONTROL

LEAST_IMAGES = 20
"""The width of an interval of fewer images is itself too uncertain to stop by."""
GROWTH = 1.05
"""Widths are looked at once there are so many times the samples of the last look. So all looks together take time in
proportion to the samples, and a suite ends at most 5 % late."""
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

    until_width: the suite ends when the 95 % interval of every method's decode speed-up (end to end where nothing is
    decoded) is at most this half-width, relative to the value. It is the interval of the report: over samples, each
    with the medians of its repeats, clustered by image, per token where tokens are drawn (`sampled`). Because the rule
    looks again and again, it ends a little early in a lucky streak, and the interval covers the truth a little less
    often than 95 %. budget_s: seconds since `start`. images: sample id -> image id; a sample without an
    entry has an image of its own. repeats: of each sample; the width is looked at only after the last of them.
    """

    def __init__(
        self, reference: str, clock: Clock, until_width: float | None, budget_s: float | None, *,
        images: Mapping[str, str] | None = None, sampled: bool = False, repeats: int = 1,
    ) -> None:  # fmt: skip
        self.reference, self.clock, self.until_width, self.budget_s = reference, clock, until_width, budget_s
        self.images, self.sampled, self.repeats = images or {}, sampled, repeats
        self.by: str | None = None
        self.began, self.groups, self._next_look = clock.now(), 0, 0
        self._lines: dict[str, dict[str, list[Mapping[str, Any]]]] = {}  # method -> sample -> one line per repeat
        self._failed: dict[str, set[str]] = {}  # method -> samples that count nowhere

    def start(self) -> None:
        """Count the budget from now on: warming up, and what is measured apart, do not use it up."""
        self.began = self.clock.now()

    def add(self, lines: Iterable[Sequence[Mapping[str, Any]]]) -> None:
        """Take in what was measured. A group is the lines of one repeat of a sample or batch, one line per method.

        A resumed run also gives what was measured before it was interrupted.
        """
        whole = True
        for group in lines:
            self.groups += 1
            for line in group:
                method, sample = line["method"], line["sample_id"]
                if line["error"] is not None:
                    self._failed.setdefault(method, set()).add(sample)
                self._lines.setdefault(method, {}).setdefault(sample, []).append(line)
                whole = len(self._lines[method][sample]) >= self.repeats
        if self.budget_s is not None and self.clock.now() - self.began >= self.budget_s:
            self.by = BUDGET
        if self.until_width is None or not whole or self.groups < self._next_look:
            return
        most, found, self._next_look = self.until_width, self.widths(), math.ceil(GROWTH * self.groups)
        if found and all(width is not None and width <= most for width in found.values()):
            self.by = WIDTH

    def widths(self) -> dict[str, float | None]:
        """The half-width of each method's interval, relative to its speed-up; None with fewer than 20 images."""
        found: dict[str, float | None] = {}
        reference = self._measured(self.reference)
        for method in self._lines:
            if method == self.reference or method.partition(":")[0] == CONTROL:
                continue
            own = self._measured(method)
            pairs = [(ours, reference[sample]) for sample, ours in own.items()
                     if sample in reference and len(ours.lines) == len(reference[sample].lines)]  # fmt: skip
            decode, e2e = speedups(pairs, geometric_mean_ratio, self.sampled)
            found[method] = _width(decode or e2e)
        return found

    def _measured(self, method: str) -> dict[str, Measured]:
        """The samples of a method that did not fail, with the medians of their repeats, as the report takes them."""
        failed = self._failed.get(method, set())
        return {
            sample: Measured(sample, self.images.get(sample, sample), (), tuple(lines), **medians(lines))
            for sample, lines in self._lines.get(method, {}).items()
            if sample not in failed
        }

    def summary(self) -> dict[str, Any]:
        """The suite's entry of `stopped` in run.json."""
        return {
            "by": self.by or SAMPLES, "groups": self.groups, "seconds": self.clock.now() - self.began,
            "until_width": self.until_width, "budget_s": self.budget_s, "widths": self.widths(),
        }  # fmt: skip


def _width(estimate: Estimate | None) -> float | None:
    if estimate is None or estimate.high is None or estimate.independent < LEAST_IMAGES:
        return None
    return (estimate.high - estimate.value) / estimate.value
