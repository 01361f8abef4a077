"""`run --energy`: joules of blocks of generations, from NVML's energy counter or its power, on the CPU from RAPL.

The counters move every 10 to 100 ms and count everything that the device or the CPU package does. So energy is measured
over blocks of one method that last seconds, never for single samples. Idle power is reported beside it, not subtracted.
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
"""How long idle power is measured, and how long the machine rests before each block."""


class Meter(Protocol):
    """Something that counts joules. `source` names it in run.json."""

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
        """Joules; None where the counter failed or went back, because it wrapped or the driver was loaded anew."""
        return None if first is None or second is None or second < first else second - first

    def close(self) -> None:
        self.device.close()


class Power:
    """For devices without an energy counter: a thread reads NVML's watts every 100 ms and integrates them.

    It uses the trapezium rule. Where a reading fails, the last one stands for it.
    """

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
        """Joules. One wrap of each counter is corrected; a second one, after an hour at full power, would go unseen."""
        wide = [high + 1 for _, high in self._zones]
        return sum((b - a) % most for a, b, most in zip(first, second, wide, strict=True)) * 1e-6

    def close(self) -> None: ...


def blocks(
    meter: Meter, decoders: dict[str, Callable[[], int]], seconds: float,
    now: Callable[[], float] = time.perf_counter, rest: Callable[[float], None] = time.sleep,
) -> dict[str, Any]:  # fmt: skip
    """Measure idle power, then blocks of at least `seconds` of each decoder, in the order A B B A with rests between.

    decoders: method -> a call that makes one generation and returns its number of tokens. Returns the entry `energy`
    of run.json for one suite.
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
