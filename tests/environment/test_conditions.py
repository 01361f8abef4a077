"""Throttling, other processes and all that NVML can do wrong, on a fake device: no GPU is needed."""

import os
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from fastvlm_bench.errors import Absent
from fastvlm_bench.machine import conditions, environment, nvml
from fastvlm_bench.machine.conditions import NOT_ISOLATED, THROTTLED, CpuConditions, GpuConditions


class NVMLError(Exception):
    pass


class FakeNvml:
    """A fake `pynvml` of two devices, found by UUID. A value may be an exception to raise, or a list, one per call."""

    def __init__(self, **values: Any) -> None:
        self.values = {"reasons": 0, "clock": 1500, "temperature": 50, "power": 200_000, "energy": [1000, 6000],
                       "pids": {os.getpid()}} | values  # fmt: skip
        self.devices = ["GPU-other", "GPU-ours"]
        self.open = 0
        self.handles: list[str] = []

    def _give(self, name: str) -> Any:
        value = self.values[name]
        if isinstance(value, list):
            value = value.pop(0) if len(value) > 1 else value[0]
        if isinstance(value, Exception):
            raise value
        return value

    def nvmlInit(self) -> None:
        if isinstance(failure := self.values.get("init"), Exception):
            raise failure
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> int:
        if uuid not in self.devices:
            raise NVMLError("Not Found")
        self.handles.append(uuid)
        return self.devices.index(uuid)

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle: int) -> int:
        return int(self._give("reasons")) if handle == 1 else nvml.SLOWED

    def nvmlDeviceGetClockInfo(self, handle: int, kind: int) -> int:
        return int(self._give("clock")) if kind == nvml.CLOCK_SM else 2000

    def nvmlDeviceGetTemperature(self, handle: int, kind: int) -> int:
        return int(self._give("temperature"))

    def nvmlDeviceGetPowerUsage(self, handle: int) -> int:
        return int(self._give("power"))

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: int) -> int:
        return int(self._give("energy"))

    def nvmlDeviceGetComputeRunningProcesses(self, handle: int) -> list[Any]:
        return [SimpleNamespace(pid=pid, usedGpuMemory=None) for pid in self._give("pids")]


class ToldNvml(FakeNvml):
    """A device that answers most questions of `Device.facts`; it has no ECC, and its MIG mode cannot be asked for."""

    def nvmlDeviceGetUUID(self, handle: int) -> bytes:
        return self.devices[handle].encode()

    def nvmlDeviceGetVbiosVersion(self, handle: int) -> str:
        return "96.00.A5.00.01"

    def nvmlDeviceGetEnforcedPowerLimit(self, handle: int) -> int:
        return 350_000

    def nvmlDeviceGetEccMode(self, handle: int) -> list[int]:
        return [0, 1]

    def nvmlDeviceGetMigMode(self, handle: int) -> list[int]:
        raise NVMLError("Not Supported")

    def nvmlDeviceGetPersistenceMode(self, handle: int) -> int:
        return 1

    def nvmlDeviceGetCurrPcieLinkGeneration(self, handle: int) -> int:
        return 5

    def nvmlDeviceGetCurrPcieLinkWidth(self, handle: int) -> int:
        return 16


def test_what_the_environment_says_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    properties = SimpleNamespace(name="Big GPU", total_memory=80 << 30, major=9, minor=0, uuid="ours")
    cuda = SimpleNamespace(is_available=lambda: True, device_count=lambda: 1,
                           get_device_properties=lambda index: properties)  # fmt: skip
    monkeypatch.setattr(environment, "_torch", lambda: SimpleNamespace(cuda=cuda))
    fake = ToldNvml()
    (told,) = environment.gpus(fake)
    assert told == {
        "name": "Big GPU", "memory_bytes": 80 << 30, "capability": "9.0", "uuid": "GPU-ours",
        "vbios": "96.00.A5.00.01", "power_limit_w": 350.0, "ecc": False, "mig": None, "persistence": True,
        "pcie_generation": 5, "pcie_width": 16, "missing": {"mig": "NVMLError: Not Supported"},
    }  # fmt: skip
    assert fake.open == 0
    (silent,) = environment.gpus(FakeNvml())
    assert silent["vbios"] is None and silent["missing"]["vbios"].startswith("AttributeError")
    (alone,) = environment.gpus(FakeNvml(init=NVMLError("Not Found")))
    assert alone["name"] == "Big GPU" and "NVML is not available" in alone["missing"]["nvml"]


def watched(fake: FakeNvml) -> GpuConditions:
    return GpuConditions(nvml.Device.open("ours", fake), interval_s=60)  # its thread sleeps: it looks at span ends only


def messages(watcher: Any) -> list[str]:
    return [f"{notice['name']}: {notice['message']}" for notice in watcher.notices()]


def test_a_quiet_device() -> None:
    fake = FakeNvml()
    with watched(fake) as watcher:
        for method in ("standard", "fastvlm"):
            with watcher.span(method):
                pass
        assert watcher.flags() == []
    summary = watcher.summary()
    assert watcher.notices() == [] and summary["device_energy_j"] == 5.0 and summary["missing"] == {}
    assert summary["methods"]["fastvlm"] == {
        "looks": 2, "slowed_share": 0.0, "power_cap_share": 0.0, "sm_mhz_median": 1500, "sm_mhz_min": 1500,
        "memory_mhz_median": 2000, "temperature_c_max": 50, "power_w_median": 200.0,
    }  # fmt: skip
    assert fake.open == 0, "NVML must be shut down"


def test_the_device_is_found_by_uuid_not_by_index() -> None:
    fake = FakeNvml()
    with watched(fake) as watcher, watcher.span("standard"):
        pass
    assert fake.handles == ["GPU-ours"] and watcher.flags() == []  # the other device is slowed all the time
    with pytest.raises(Absent, match="does not know the device third"):
        nvml.Device.open("third", fake)


@pytest.mark.parametrize("failure", [ImportError("no pynvml"), NVMLError("NVML Shared Library Not Found"), OSError()])
def test_no_library(failure: Exception) -> None:
    with pytest.raises(Absent, match=f"NVML is not available: {type(failure).__name__}"):
        nvml.Device.open("ours", FakeNvml(init=failure))


def test_the_runner_goes_on_without_nvml(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    properties = SimpleNamespace(uuid="ours")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties)
    assert isinstance(conditions.watch("cuda:0", FakeNvml()), GpuConditions)
    watcher = conditions.watch("cuda:0", FakeNvml(init=NVMLError("Driver Not Loaded")))
    with watcher, watcher.span("standard"):
        pass
    assert "Driver Not Loaded" in watcher.summary()["device_missing"] and watcher.flags() == []
    assert isinstance(conditions.watch("cpu"), CpuConditions)


@pytest.mark.parametrize("name", ["reasons", "clock", "temperature", "power", "energy", "pids"])
def test_what_is_not_supported_is_null_with_a_reason(name: str) -> None:
    with watched(FakeNvml(**{name: NVMLError("Not Supported")})) as watcher:
        with watcher.span("standard"):
            pass
        assert watcher.flags() == []
    summary = watcher.summary()
    (reason, *_) = summary["missing"].values()
    assert reason == "NVMLError: Not Supported" and watcher.notices() == []
    profile = summary["methods"]["standard"]
    nulls = {key for key, value in {**profile, "energy": summary["device_energy_j"]}.items() if value is None}
    assert nulls == {
        "reasons": {"slowed_share", "power_cap_share"}, "clock": {"sm_mhz_median", "sm_mhz_min"},
        "temperature": {"temperature_c_max"}, "power": {"power_w_median"}, "energy": {"energy"}, "pids": set(),
    }[name]  # fmt: skip


def test_a_device_that_is_lost_midway() -> None:
    with watched(FakeNvml(clock=[1500, NVMLError("GPU is lost")])) as watcher:
        for _ in range(3):
            with watcher.span("standard"):
                pass
    profile = watcher.summary()["methods"]["standard"]
    assert profile["sm_mhz_median"] == 1500 and profile["looks"] == 6
    assert watcher.summary()["missing"] == {"sm_mhz": "NVMLError: GPU is lost"}


def test_an_energy_counter_that_goes_back() -> None:
    with watched(FakeNvml(energy=[6000, 1000])) as watcher:
        pass
    assert watcher.summary()["device_energy_j"] is None and "went back" in watcher.summary()["missing"]["energy_j"]


@pytest.mark.parametrize("bit", [nvml.HW_SLOWDOWN, nvml.SW_THERMAL, nvml.HW_THERMAL, nvml.HW_POWER_BRAKE])
def test_throttling_in_one_arm_flags_the_pair_and_names_both(bit: int) -> None:
    with watched(FakeNvml(reasons=[0, 0, bit, 0, 0])) as watcher:
        for method in ("standard", "fastvlm"):
            with watcher.span(method):
                pass
        assert watcher.flags() == [THROTTLED]
        with watcher.span("standard"):
            pass
        assert watcher.flags() == [], "a flag is of one group"
    (message,) = messages(watcher)
    assert "Throttled: " in message and "in 1 pairs" in message and "fastvlm 50%, standard 0%" in message


def test_the_power_cap_matters_where_it_is_unequal() -> None:
    for reasons, expected in (([nvml.POWER_CAP], []), ([nvml.POWER_CAP, nvml.POWER_CAP, 0], ["power cap"])):
        with watched(FakeNvml(reasons=list(reasons))) as watcher:
            for method in ("standard", "fastvlm"):
                with watcher.span(method):
                    pass
            assert watcher.flags() == []
        assert all(piece in message for piece, message in zip(expected, messages(watcher), strict=True))


def test_unequal_clocks() -> None:
    with watched(FakeNvml(clock=[1500, 1500, 1400])) as watcher:
        for method in ("standard", "fastvlm"):
            with watcher.span(method):
                pass
    (message,) = messages(watcher)
    assert "fastvlm 1400 MHz, standard 1500 MHz" in message


def test_a_foreign_process_appears() -> None:
    own = {os.getpid()}
    with watched(FakeNvml(pids=[own, own, own | {7}, own | {7}])) as watcher:
        seen = [watcher.flags() for _ in range(3)]
    assert seen == [[], [NOT_ISOLATED], []]
    assert [notice["name"] for notice in watcher.notices()] == ["NotIsolated"]
    with watched(FakeNvml(pids={4, 7})) as watcher:  # as in a container: none of them has our number
        assert watcher.flags() == []
    assert "1 other processes were on the GPU from the start" in messages(watcher)[0]


def test_the_thread_looks_between_the_ends() -> None:
    fake, looked = FakeNvml(), threading.Event()
    real = fake.nvmlDeviceGetPowerUsage
    calls = []

    def counted(handle: int) -> int:
        calls.append(threading.current_thread().name)
        if calls.count("nvml") >= 2:
            looked.set()
        return real(handle)

    fake.nvmlDeviceGetPowerUsage = counted  # type: ignore[method-assign]
    with GpuConditions(nvml.Device.open("ours", fake), interval_s=0.001) as watcher, watcher.span("standard"):
        assert looked.wait(10)
    assert watcher.summary()["methods"]["standard"]["looks"] == len(calls)
    assert not any(thread.name == "nvml" for thread in threading.enumerate())


# ------------------------------------------------------------------------------------------ CPU


def test_halts_by_the_quota() -> None:
    counts = iter([3, 3, 3, 3, 5, 5, 5, 9])
    with CpuConditions(lambda: next(counts), lambda: {}) as watcher:
        for method in ("standard", "fastvlm"):
            with watcher.span(method):
                pass
        assert watcher.flags() == [THROTTLED]
        with watcher.span("standard"):
            pass
        assert watcher.flags() == []
    (message,) = messages(watcher)
    assert "in 1 pairs (halts: fastvlm 2)" in message
    assert watcher.summary()["throttled_periods"] == [3, 9]


def test_a_machine_without_cgroups_and_a_changed_governor() -> None:
    def absent() -> int:
        raise Absent("no cgroup counts it")

    states = iter(
        [{"governor": "performance", "number of threads": 2}, {"governor": "powersave", "number of threads": 1}]
    )
    with CpuConditions(absent, lambda: next(states)) as watcher, watcher.span("standard"):
        pass
    assert watcher.flags() == [] and watcher.summary()["throttled_periods"] == [None, None]
    assert "governor changed while it was measured, from performance to powersave" in messages(watcher)[0]
    assert "number of threads changed while it was measured, from 2 to 1" in messages(watcher)[1]


def test_a_span_that_fails_still_looks() -> None:
    with watched(FakeNvml(reasons=[0, nvml.HW_SLOWDOWN])) as watcher:
        with pytest.raises(RuntimeError), watcher.span("standard"):
            raise RuntimeError("out of memory")
        assert watcher.flags() == [THROTTLED]
