"""Joules of a block of generations: NVML's counter, else its power integrated; on the CPU, RAPL. `run --energy`.

The counters move every 10 to 100 ms and count everything that the device or the package does, so energy belongs to
blocks of seconds of one method, never to samples, and idle power is told beside it, not taken off.
"""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from fastvlm_bench.errors import Absent
from fastvlm_bench.machine import nvml

POWERCAP = Path("/sys/class/powercap")
INTERVAL_S = 0.100
IDLE_S, COOL_S = 2.0, 1.0
"""How long idle power is looked at, and how long the machine rests before each block."""


class Meter(Protocol):
    """Something that counts joules. `source` says what; it is written to run.json."""

    source: str

    def read(self) -> Any:
        """The state of the counter now."""

    def between(self, first: Any, second: Any) -> float | None:
        """Joules between two states; None where the counter cannot tell."""

    def close(self) -> None: ...


def open_meter(device: Any, library: Any = None, root: Path = POWERCAP) -> Meter:
    """The best meter for a device. Absent says, in one line, why there is none. library: a fake `pynvml`, for tests."""
    kind, _, index = str(device).partition(":")
    if kind == "cpu":
        return Rapl(root)
    if kind != "cuda":
        raise Absent(f"there is no energy counter for {kind}")
    import torch

    gpu = nvml.Device.open(str(torch.cuda.get_device_properties(int(index or 0)).uuid), library)
    if gpu.energy_j() is not None:
        return Counter(gpu)
    if gpu.read().power_w is not None:
        return Power(gpu)
    raise Absent(f"NVML tells neither energy nor power: {gpu.missing.get('power_w', 'no reason given')}")


class Counter:
    """NVML's joules since the driver was loaded (Volta and later)."""

    source = "nvml-counter"

    def __init__(self, device: nvml.Device) -> None:
        self.device = device

    def read(self) -> float | None:
        return self.device.energy_j()

    def between(self, first: float | None, second: float | None) -> float | None:
        """None where the counter failed or went back: the driver was loaded anew, or it wrapped."""
        return None if first is None or second is None or second < first else second - first

    def close(self) -> None:
        self.device.close()


class Power:
    """NVML's watts every 100 ms, integrated by the trapezium rule in a thread."""

    source = "nvml-power"

    def __init__(self, device: nvml.Device, now: Callable[[], float] = time.perf_counter) -> None:
        self.device, self._now = device, now
        self._joules, self._last = 0.0, (now(), device.read().power_w or 0.0)
        self._lock, self._done = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="energy", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._done.wait(INTERVAL_S):
            self.read()

    def read(self) -> float:
        watts = self.device.read().power_w
        with self._lock:
            at, before = self._last
            now = self._now()
            watts = before if watts is None else watts
            self._joules += (now - at) * (before + watts) / 2
            self._last = (now, watts)
            return self._joules

    def between(self, first: float, second: float) -> float | None:
        return second - first

    def close(self) -> None:
        self._done.set()
        self._thread.join()
        self.device.close()


class Rapl:
    """Intel's and AMD's package counters, summed over the packages. They wrap; most kernels show them to root alone."""

    source = "rapl"

    def __init__(self, root: Path = POWERCAP) -> None:
        packages = [zone for zone in sorted(root.glob("*-rapl:*")) if zone.name.count(":") == 1]
        if not packages:
            raise Absent(f"{root} has no RAPL package: a virtual machine, a container, or another kind of CPU")
        try:
            self._zones = [(zone / "energy_uj", int((zone / "max_energy_range_uj").read_text())) for zone in packages]
            self.read()
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else str(error)
            raise Absent(f"RAPL cannot be read ({why}): let this user read {packages[0]}/energy_uj") from None

    def read(self) -> list[int]:
        return [int(path.read_text()) for path, _ in self._zones]

    def between(self, first: list[int], second: list[int]) -> float | None:
        """One wrap a package is put right; two, after an hour at full power, would not be seen."""
        wide = [high + 1 for _, high in self._zones]
        return sum((b - a) % most for a, b, most in zip(first, second, wide, strict=True)) * 1e-6

    def close(self) -> None: ...


def blocks(
    meter: Meter, decoders: dict[str, Callable[[], int]], seconds: float,
    now: Callable[[], float] = time.perf_counter, rest: Callable[[float], None] = time.sleep,
) -> dict[str, Any]:  # fmt: skip
    """Idle power, then blocks of at least `seconds` of each decoder, forwards and backwards (ABBA), a rest before each.

    A decoder makes one generation and returns how many tokens it gave. The entry `energy` of run.json, one suite.
    """

    def span(work: Callable[[], int]) -> dict[str, Any]:
        rest(COOL_S)
        began, before, tokens, samples = now(), meter.read(), 0, 0
        while not samples or now() - began < seconds:
            tokens += work()
            samples += 1
        took, used = now() - began, meter.between(before, meter.read())
        return {"seconds": took, "joules": used, "tokens": tokens, "samples": samples}

    began, before = now(), meter.read()
    rest(IDLE_S)
    took, used = now() - began, meter.between(before, meter.read())
    order = [*decoders, *reversed(decoders)]
    found = [{"method": method, **span(decoders[method])} for method in order]
    return {"source": meter.source, "idle_w": None if used is None or took <= 0 else used / took, "blocks": found}
