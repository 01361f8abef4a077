"""One NVIDIA device through NVML (`nvidia-ml-py`, imported as `pynvml`). A run goes on without it.

NVML ignores CUDA_VISIBLE_DEVICES and numbers devices by PCI bus. So a device is found by its UUID, never by its index:
the same index may be another user's GPU.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from fastvlm_bench.errors import Absent

HW_SLOWDOWN, SW_THERMAL, HW_THERMAL, HW_POWER_BRAKE = 0x8, 0x20, 0x40, 0x80
SLOWED = HW_SLOWDOWN | SW_THERMAL | HW_THERMAL | HW_POWER_BRAKE
"""The clock event reasons that make a time worthless: the device was slowed by heat or power."""
POWER_CAP = 0x4
"""The reason of a reached power cap. It is usual under load, and matters only if one method meets it more often."""
CLOCK_SM, CLOCK_MEMORY, TEMPERATURE_GPU = 1, 2, 0  # nvmlClockType_t, nvmlTemperatureSensors_t


@dataclass(frozen=True)
class Reading:
    """One look at the device: MHz, degrees Celsius, watts, bits of clock event reasons. None: it does not tell."""

    sm_mhz: int | None
    memory_mhz: int | None
    temperature_c: int | None
    power_w: float | None
    reasons: int | None


@dataclass
class Device:
    """A device's handle. `missing` gathers what the device did not tell, with the reason."""

    library: Any
    handle: Any
    missing: dict[str, str] = field(default_factory=dict)

    @classmethod
    def open(cls, uuid: str, library: Any = None) -> "Device":
        """The device of this UUID, as torch writes it or with its GPU- or MIG- prefix. Absent if NVML has none.

        library: a fake `pynvml`, for tests.
        """
        try:
            if library is None:
                import pynvml

                library = pynvml
            library.nvmlInit()
        except Exception as error:  # no package, no library, no driver, another driver: all of them mean no NVML
            raise Absent(f"NVML is not available: {_said(error)}") from None
        prefixed = uuid.startswith(("GPU-", "MIG-"))
        for name in [uuid] if prefixed else [f"GPU-{uuid}", f"MIG-{uuid}"]:
            try:
                return cls(library, library.nvmlDeviceGetHandleByUUID(name))
            except Exception as error:
                reason = _said(error)
        raise Absent(f"NVML does not know the device {uuid}: {reason}")

    def read(self) -> Reading:
        """Clocks, temperature, power and clock event reasons now."""
        nvml, handle = self.library, self.handle
        power = self._ask("power_w", lambda: nvml.nvmlDeviceGetPowerUsage(handle))
        return Reading(
            self._ask("sm_mhz", lambda: int(nvml.nvmlDeviceGetClockInfo(handle, CLOCK_SM))),
            self._ask("memory_mhz", lambda: int(nvml.nvmlDeviceGetClockInfo(handle, CLOCK_MEMORY))),
            self._ask("temperature_c", lambda: int(nvml.nvmlDeviceGetTemperature(handle, TEMPERATURE_GPU))),
            None if power is None else power / 1000,
            self._ask("reasons", self._reasons),
        )

    def facts(self) -> dict[str, Any]:
        """What does not change during a run: UUID, VBIOS, power limit (W), ECC, MIG, persistence mode, PCIe link.

        None for what the device does not tell; `missing` has the reason.
        """
        nvml, handle = self.library, self.handle

        def text(call: Callable[[Any], Any]) -> str:
            found = call(handle)
            return found.decode() if isinstance(found, bytes) else str(found)

        limit = self._ask("power_limit_w", lambda: nvml.nvmlDeviceGetEnforcedPowerLimit(handle))
        return {
            "uuid": self._ask("uuid", lambda: text(nvml.nvmlDeviceGetUUID)),
            "vbios": self._ask("vbios", lambda: text(nvml.nvmlDeviceGetVbiosVersion)),
            "power_limit_w": None if limit is None else limit / 1000,
            "ecc": self._ask("ecc", lambda: bool(nvml.nvmlDeviceGetEccMode(handle)[0])),
            "mig": self._ask("mig", lambda: bool(nvml.nvmlDeviceGetMigMode(handle)[0])),
            "persistence": self._ask("persistence", lambda: bool(nvml.nvmlDeviceGetPersistenceMode(handle))),
            "pcie_generation": self._ask("pcie", lambda: int(nvml.nvmlDeviceGetCurrPcieLinkGeneration(handle))),
            "pcie_width": self._ask("pcie", lambda: int(nvml.nvmlDeviceGetCurrPcieLinkWidth(handle))),
        }  # fmt: skip

    def energy_j(self) -> float | None:
        """Joules since the driver was loaded; None before the Volta generation, which does not count them."""
        used = self._ask("energy_j", lambda: self.library.nvmlDeviceGetTotalEnergyConsumption(self.handle))
        return None if used is None else used / 1000

    def processes(self) -> frozenset[int] | None:
        """The ids of the processes with a CUDA context on the device; in a container they may be the host's ids."""
        call = self.library.nvmlDeviceGetComputeRunningProcesses
        return self._ask("processes", lambda: frozenset(int(p.pid) for p in call(self.handle)))

    def close(self) -> None:
        self._ask("shutdown", lambda: self.library.nvmlShutdown())

    def _reasons(self) -> int:
        name = "nvmlDeviceGetCurrentClocksEventReasons"  # nvidia-ml-py from 535 on
        if not hasattr(self.library, name):
            name = "nvmlDeviceGetCurrentClocksThrottleReasons"
        return int(getattr(self.library, name)(self.handle))

    def _ask(self, name: str, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except Exception as error:  # NotSupported, GpuIsLost, Unknown, or a function that this version lacks
            self.missing.setdefault(name, _said(error))
            return None


def _said(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:120]}" if text else type(error).__name__
