"""A monotonic clock that can wait for the device, and a fake one for tests. torch is imported for devices only."""

import time
from collections.abc import Callable, Iterable
from typing import Any


class Clock:
    """Seconds from `time.perf_counter_ns`, which neither NTP nor daylight saving can turn back.

    device: a name ("cpu", "cuda:1") or a `torch.device`; for the CPU there is nothing to wait for.
    """

    def __init__(self, device: Any = "cpu") -> None:
        self.device = str(device)
        self._synchronise: Callable[[Any], None] | None = None
        if self.device.partition(":")[0] != "cpu":
            import torch

            self._synchronise = torch.accelerator.synchronize
        self._origin = time.perf_counter_ns()

    def now(self) -> float:
        """Seconds since the clock was made, without waiting for the device: a GPU may still be at work."""
        return (time.perf_counter_ns() - self._origin) * 1e-9

    def synchronised(self) -> float:
        """Seconds since the clock was made, once the device has done all that it was given."""
        if self._synchronise is not None:
            self._synchronise(self.device)
        return self.now()

    def stamp(self) -> Any:
        """A moment, for `between`: on CUDA an event put into the device's queue without waiting, else the time now.

        Of another device it is the time when the device has done what it was given.
        """
        if self._synchronise is None:
            return self.now()
        if not self.device.startswith("cuda"):
            return self.synchronised()
        import torch

        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def between(self, first: Any, second: Any) -> float:
        """Seconds between two stamps. Call it when the device has passed the second: an error on CUDA before that."""
        return second - first if isinstance(first, float) else float(first.elapsed_time(second)) * 1e-3

    def mark(self) -> tuple[float, Any] | None:
        """A moment of a round, for `apart`: on CUDA the time and an event in the queue; None elsewhere."""
        return (self.now(), self.stamp()) if self.device.startswith("cuda") else None

    def apart(
        self, began: tuple[float, Any] | None, drafted: tuple[float, Any] | None, draft_s: float, verify_s: float
    ) -> tuple[float, float]:  # fmt: skip
        """(draft_s, verify_s) of a round that has just read what its verification says.

        On CUDA the host is done with drafting before the device is, so that by its clock the last draft pass would be
        a part of the verification. There drafting ends where the device passes `drafted`, and verification now: the
        device was idle when the round began, and is again. Elsewhere the seconds stay as they are.
        """
        if began is None or drafted is None:
            return draft_s, verify_s
        whole = self.now() - began[0]
        own = min(self.between(began[1], drafted[1]), whole)
        return own, whole - own

    def halves(self) -> "Halves":
        """A round begins to draft."""
        return Halves(self)


class Halves:
    """Times a round in two halves, each from its beginning to its end: drafting, then verification."""

    def __init__(self, clock: Clock) -> None:
        self._clock, self._began, self._started = clock, clock.mark(), clock.now()
        self._drafted: tuple[float, tuple[float, Any] | None] | None = None

    def drafted(self) -> None:
        """Drafting ends, and verification begins."""
        self._drafted = self._clock.now(), self._clock.mark()

    def seconds(self) -> tuple[float, float]:
        """(draft_s, verify_s), once the round has read what its verification says. AssertionError before `drafted`."""
        assert self._drafted is not None
        at, mark = self._drafted
        return self._clock.apart(self._began, mark, at - self._started, self._clock.now() - at)


class FakeClock(Clock):
    """A clock for tests: exact times without waiting.

    ticks: the seconds that pass before each reading but the first: one number for all readings, or an iterable with
    one for each. AssertionError where the clock is read more often than that. `advance` lets a scripted model take
    time of its own. `synchronisations` counts the calls of `synchronised`.
    """

    def __init__(self, ticks: float | Iterable[float] = 1.0) -> None:
        super().__init__("cpu")
        self.seconds = 0.0
        self.synchronisations = 0
        self._read = False
        self._every = ticks if isinstance(ticks, int | float) else None
        self._ticks = iter(()) if isinstance(ticks, int | float) else iter(ticks)

    def advance(self, seconds: float) -> None:
        """Let time pass between two readings."""
        self.seconds += seconds

    def now(self) -> float:
        """The fake time in seconds; the first reading is 0 unless `advance` was called."""
        if self._read:
            tick = self._every if self._every is not None else next(self._ticks, None)
            if tick is None:
                raise AssertionError("the fake clock was read more often than it has ticks")
            self.seconds += tick
        self._read = True
        return self.seconds

    def synchronised(self) -> float:
        """As `now`, and counted."""
        self.synchronisations += 1
        return self.now()
