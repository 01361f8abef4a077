"""Watches for what slows a measurement down: throttling, unequal clocks, other processes.

It looks just before and just after each measurement, which costs no measured time; on a GPU a thread also looks every
150 ms. The runner asks for the flags after each group of methods on one sample, so that all lines of the group carry
the same flags: a speed-up is a ratio of two of them.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from statistics import median
from typing import Any, Protocol, Self

from fastvlm_bench.errors import Absent
from fastvlm_bench.machine import environment, nvml
from fastvlm_bench.machine.stalls import Stalls

INTERVAL_S = 0.150
GAP_S = 2.0
"""The thread that looks every 150 ms may come so much later before a measurement counts as stalled."""
POWER_CAP_APART, CLOCKS_APART = 0.10, 0.02
"""How far methods may lie apart without a warning: in the share of looks under the power cap, in the median clock."""
THROTTLED, NOT_ISOLATED = "throttled", "not_isolated"
"""Flags of a line in samples.jsonl: while its group was measured, the device was slowed, or another process came."""
RECORDED = ("Throttled", "NotIsolated", "Stalled", "EagerEngine", "RecordedLate")
"""Names of the warnings that only the running benchmark can find; a resumed run keeps those already in `run.json`."""


class Conditions(Protocol):
    """Watches one invocation of a run."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def span(self, method: str) -> Any:
        """A context manager around one measurement."""

    def flags(self) -> list[str]:
        """The flags of what was seen since the last call: THROTTLED, NOT_ISOLATED, STALLED, or none."""

    def summary(self) -> dict[str, Any]:
        """What run.json keeps of the conditions."""

    def notices(self) -> list[dict[str, str]]:
        """Warnings as run.json keeps them: `name` and `message`."""


def watch(device: Any, library: Any = None) -> Conditions:
    """The watcher for the target's device; without NVML it watches the CPU. library: a fake `pynvml`, for tests."""
    kind, _, index = str(device).partition(":")
    if kind != "cuda":
        return CpuConditions(stalls=Stalls() if kind == "cpu" else None)
    try:
        import torch

        uuid = str(torch.cuda.get_device_properties(int(index or 0)).uuid)
        return GpuConditions(nvml.Device.open(uuid, library))
    except Exception as error:
        return CpuConditions(device_missing=str(error) if isinstance(error, Absent) else type(error).__name__)


def _or_none(probe: Callable[[], Any]) -> Any:
    try:
        return probe()
    except Exception:  # as in `describe_environment`: an unknown machine must not stop a run
        return None


class CpuConditions:
    """Watches a CPU for halts by the cgroup's quota, and for a changed governor or number of threads.

    stalls: finds measurements that did not run; None where the computing is done elsewhere.
    """

    def __init__(
        self, halts: Callable[[], int] = environment.throttled_periods, state: Callable[[], Any] | None = None,
        device_missing: str | None = None, stalls: Stalls | None = None,
    ) -> None:  # fmt: skip
        self._stalls = stalls
        self._halts, self._state = halts, state or _cpu_state
        self._device_missing = device_missing
        self._by_method: dict[str, int] = {}
        self._pairs = 0
        self._flagged = False

    def __enter__(self) -> Self:
        self._first, self._before = _or_none(self._halts), self._state()
        self._last, self._after = self._first, self._before
        return self

    def __exit__(self, *_: object) -> None:
        self._last, self._after = _or_none(self._halts), self._state()

    @contextmanager
    def span(self, method: str) -> Iterator[None]:
        before = _or_none(self._halts)
        try:
            with nullcontext() if self._stalls is None else self._stalls.span(method):
                yield
        finally:
            after = _or_none(self._halts)
            if before is not None and after is not None and after > before:
                self._by_method[method] = self._by_method.get(method, 0) + after - before
                self._flagged = True

    def flags(self) -> list[str]:
        seen, self._flagged = self._flagged, False
        self._pairs += seen
        return ([THROTTLED] if seen else []) + (self._stalls.flags() if self._stalls else [])

    def summary(self) -> dict[str, Any]:
        return {
            "throttled_periods": [self._first, self._last], "throttled_by_method": self._by_method,
            "cpu_before": self._before, "cpu_after": self._after, "device_missing": self._device_missing,
            "stalled": self._stalls.summary() if self._stalls else None,
        }  # fmt: skip

    def notices(self) -> list[dict[str, str]]:
        found = []
        if self._by_method:
            shares = ", ".join(f"{method} {count}" for method, count in sorted(self._by_method.items()))
            found.append(f"the cgroup's CPU quota halted the process in {self._pairs} pairs (halts: {shares}); "
                         "lift the quota, or lower --threads")  # fmt: skip
        for name, before in self._before.items():
            if self._after.get(name) != before:
                found.append(f"the {name} changed while it was measured, from {before} to {self._after.get(name)}; "
                             "run again with nothing else at work")  # fmt: skip
        told = [{"name": "Throttled", "message": text} for text in found]
        return told + (self._stalls.notices() if self._stalls else [])


def _cpu_state() -> dict[str, Any]:
    import torch

    return {"governor": _or_none(environment.governor), "number of threads": torch.get_num_threads()}


class GpuConditions:
    """Watches clocks, throttling, temperature, power and other processes of one CUDA device."""

    def __init__(self, device: nvml.Device, interval_s: float = INTERVAL_S) -> None:
        self.device, self.interval_s = device, interval_s
        self._readings: dict[str, list[nvml.Reading]] = {}
        self._method: str | None = None
        self._flags: set[str] = set()
        self._pairs = 0
        self._lock, self._done = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="nvml", daemon=True)
        self._foreign: set[int] = set()
        self._energy: list[float | None] = [None, None]
        self._stalls = Stalls()

    def __enter__(self) -> Self:
        self._there = self.device.processes() or frozenset()
        self._energy = [self.device.energy_j(), None]
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self._energy[1] = self.device.energy_j()
        self._look_for_others()
        self.device.close()

    @contextmanager
    def span(self, method: str) -> Iterator[None]:
        self._method = method
        self._look()
        try:
            yield
        finally:
            self._look()
            self._method = None

    def flags(self) -> list[str]:
        self._look_for_others()
        with self._lock:
            found, self._flags = sorted(self._flags) + self._stalls.flags(), set()
        self._pairs += THROTTLED in found
        return found

    def _run(self) -> None:
        last_s, last_method = time.monotonic(), self._method
        while not self._done.wait(self.interval_s):
            gap_s, method = time.monotonic() - last_s - self.interval_s, last_method or self._method
            if gap_s >= GAP_S and method is not None:
                self._stalls.add(method, gap_s, gap_s)
            self._look()
            last_s, last_method = time.monotonic(), self._method

    def _look(self) -> None:
        method = self._method
        if method is None:
            return
        reading = self.device.read()
        with self._lock:
            self._readings.setdefault(method, []).append(reading)
            if reading.reasons is not None and reading.reasons & nvml.SLOWED:
                self._flags.add(THROTTLED)

    def _look_for_others(self) -> None:
        new = (self.device.processes() or frozenset()) - self._there - {os.getpid()}
        if new - self._foreign:
            self._foreign |= new
            with self._lock:
                self._flags.add(NOT_ISOLATED)

    def summary(self) -> dict[str, Any]:
        used, missing = None, dict(self.device.missing)
        before, after = self._energy
        if before is not None and after is not None:
            if after >= before:
                used = after - before
            else:
                missing["energy_j"] = "the counter went back: the driver was loaded anew, or it wrapped"
        methods = {method: _profile(own) for method, own in self._readings.items()}
        # device_energy_j is of the whole device, pauses between samples included: J/token is measured in energy.py.
        return {"methods": methods, "device_energy_j": used, "other_processes_at_start": self._others_at_start(),
                "other_processes_later": len(self._foreign), "throttled_pairs": self._pairs,
                "stalled": self._stalls.summary(),
                "missing": missing}  # fmt: skip

    def _others_at_start(self) -> int:
        """How many other processes were on the device at the start.

        One of those found is this process. In a container NVML may list it under another id, so that only the count
        can be corrected.
        """
        return max(0, len(self._there) - 1)

    def notices(self) -> list[dict[str, str]]:
        found = []
        profiles = {method: _profile(own) for method, own in self._readings.items()}
        slowed = {m: p["slowed_share"] for m, p in profiles.items() if p["slowed_share"] is not None}
        if any(slowed.values()):
            found.append(("Throttled", f"the GPU was slowed by heat or power in {self._pairs} pairs (share of looks: "
                          f"{_shares(slowed)}); cool it, or lower its power limit"))  # fmt: skip
        capped = {m: p["power_cap_share"] for m, p in profiles.items() if p["power_cap_share"] is not None}
        if capped and max(capped.values()) - min(capped.values()) > POWER_CAP_APART:
            found.append(("Throttled", f"the power cap held the methods unequally (share of looks: {_shares(capped)}); "
                          "lower the clock until none meets it"))  # fmt: skip
        clocks = {m: p["sm_mhz_median"] for m, p in profiles.items() if p["sm_mhz_median"]}
        if clocks and max(clocks.values()) > (1 + CLOCKS_APART) * min(clocks.values()):
            each = ", ".join(f"{method} {clock:g} MHz" for method, clock in sorted(clocks.items()))
            found.append(
                ("Throttled", f"the methods ran at unequal clocks ({each}); warm up longer, or lock the clock")
            )
        if others := self._others_at_start():
            found.append(("NotIsolated", f"{others} other processes were on the GPU from the start; stop them"))
        if self._foreign:
            found.append(("NotIsolated", f"{len(self._foreign)} other processes came to the GPU while it was measured; "
                          "stop them and run again"))  # fmt: skip
        return [{"name": name, "message": message} for name, message in found] + self._stalls.notices()


def _shares(shares: dict[str, float]) -> str:
    return ", ".join(f"{method} {value:.0%}" for method, value in sorted(shares.items()))


def _profile(readings: list[nvml.Reading]) -> dict[str, Any]:
    """A summary of one method's readings; None for what the device never told."""

    def told(name: str) -> list[Any]:
        return [value for reading in readings if (value := getattr(reading, name)) is not None]

    def share(bits: int) -> float | None:
        return sum(bool(reasons & bits) for reasons in found) / len(found) if (found := told("reasons")) else None

    clocks, memory, heat, power = (told(name) for name in ("sm_mhz", "memory_mhz", "temperature_c", "power_w"))
    return {
        "looks": len(readings), "slowed_share": share(nvml.SLOWED), "power_cap_share": share(nvml.POWER_CAP),
        "sm_mhz_median": median(clocks) if clocks else None, "sm_mhz_min": min(clocks, default=None),
        "memory_mhz_median": median(memory) if memory else None, "temperature_c_max": max(heat, default=None),
        "power_w_median": median(power) if power else None,
    }  # fmt: skip
