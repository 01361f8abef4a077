"""Finds measurements in which the process did not run: it was stopped (SIGSTOP, a debugger), or other programs had its
CPU.

On the CPU the main thread works all the time, whatever the number of threads: where its CPU time is less than the time
that passed, it did not run. On a GPU it may wait for the device; there a thread that looks every 150 ms has gaps.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

STALLED = "stalled"
"""Flag of a line in samples.jsonl: in its group, a measurement did not run for a while."""
LEAST_S, LEAST_SHARE = 1.0, 0.25
"""A measurement is flagged if it did not run for so many seconds, and for this share of its time."""


class Stalls:
    """Gathers by method for how long it did not run.

    wall, own: clocks in seconds, of the time that passes and of the calling thread's CPU time.
    """

    def __init__(
        self, wall: Callable[[], float] = time.perf_counter, own: Callable[[], float] = time.thread_time
    ) -> None:
        self._wall, self._own = wall, own
        self._lost: dict[str, list[float]] = {}
        self._flagged = False

    @contextmanager
    def span(self, method: str) -> Iterator[None]:
        """Around one measurement on the CPU, in the thread that computes."""
        wall, own = self._wall(), self._own()
        try:
            yield
        finally:
            took = self._wall() - wall
            self.add(method, took - (self._own() - own), took)

    def add(self, method: str, lost_s: float, took_s: float) -> None:
        """A measurement of `took_s` seconds did not run for `lost_s` of them."""
        if lost_s >= LEAST_S and lost_s >= LEAST_SHARE * took_s:
            self._lost.setdefault(method, []).append(lost_s)
            self._flagged = True

    def flags(self) -> list[str]:
        """STALLED if anything was found since the last call."""
        seen, self._flagged = self._flagged, False
        return [STALLED] if seen else []

    def summary(self) -> dict[str, Any]:
        """Method -> its measurements that did not run for a while, and for how many seconds all together."""
        return {name: {"measurements": len(own), "seconds": sum(own)} for name, own in sorted(self._lost.items())}

    def notices(self) -> list[dict[str, str]]:
        if not self._lost:
            return []
        each = ", ".join(f"{name} {len(own)} x, {sum(own):.1f} s" for name, own in sorted(self._lost.items()))
        return [{"name": "Stalled", "message": f"the process did not run while it was measured ({each}): it was "
                 "stopped, or other programs had its CPU; stop them, and run again"}]  # fmt: skip
