"""Energy: counters that wrap or go back, integrated power, blocks in ABBA order, and reasons where there is none."""

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fastvlm_bench.analysis.energy import Energy, energy_of
from fastvlm_bench.errors import Absent
from fastvlm_bench.machine import energy
from fastvlm_bench.machine.energy import Counter, Power, Rapl, blocks, open_meter


def package(root: Path, number: int, value: int, most: int = 1_000_000, kind: str = "intel-rapl") -> Path:
    zone = root / f"{kind}:{number}"
    zone.mkdir(parents=True)
    (zone / "max_energy_range_uj").write_text(str(most))
    (zone / "energy_uj").write_text(str(value))
    core = root / f"{kind}:{number}:0"  # a part of the package: to add it would count it twice
    core.mkdir()
    (core / "max_energy_range_uj").write_text(str(most))
    (core / "energy_uj").write_text("5")
    return zone


def test_rapl_adds_packages_and_puts_a_wrap_right(tmp_path: Path) -> None:
    zones = [package(tmp_path, i, 900_000) for i in range(2)]
    meter = open_meter("cpu", root=tmp_path)
    before = meter.read()
    (zones[0] / "energy_uj").write_text("950000")
    (zones[1] / "energy_uj").write_text("49999")  # wrapped at 1 000 000
    assert meter.source == "rapl" and meter.between(before, meter.read()) == pytest.approx(0.05 + 0.15)


def test_without_rapl_or_without_the_right_to_read_it_there_is_a_reason(tmp_path: Path) -> None:
    with pytest.raises(Absent, match="no RAPL package"):
        Rapl(tmp_path)
    zone = package(tmp_path, 0, 1)
    (zone / "energy_uj").unlink()
    (zone / "energy_uj").mkdir()
    with pytest.raises(Absent, match=r"RAPL cannot be read .*: let this user read .*energy_uj"):
        Rapl(tmp_path)
    with pytest.raises(Absent, match="no energy counter for mps"):
        open_meter("mps")


class Library:
    """A fake pynvml that answers with the energies and the power given; None means that the device has none."""

    def __init__(self, millijoules: list[int] | None, milliwatts: int | None) -> None:
        self.millijoules, self.milliwatts = millijoules, milliwatts

    def nvmlInit(self) -> None: ...

    def nvmlShutdown(self) -> None: ...

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        return uuid

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:
        if self.millijoules is None:
            raise RuntimeError("Not Supported")
        return self.millijoules.pop(0) if len(self.millijoules) > 1 else self.millijoules[0]

    def nvmlDeviceGetPowerUsage(self, handle: str) -> int:
        if self.milliwatts is None:
            raise RuntimeError("Not Supported")
        return self.milliwatts


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace(uuid="abc"))


def test_the_counter_comes_first_and_going_back_is_no_number(cuda: None) -> None:
    meter = open_meter("cuda:0", Library([1000, 1000, 4500, 200], 300_000))
    assert isinstance(meter, Counter)
    before = meter.read()
    assert meter.between(before, meter.read()) == pytest.approx(3.5)
    assert meter.between(before, meter.read()) is None
    meter.close()


def test_power_is_integrated_where_there_is_no_counter(cuda: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(energy, "INTERVAL_S", 0.01)
    meter = open_meter("cuda:0", Library(None, 250_000))
    assert isinstance(meter, Power)
    began, before = time.perf_counter(), meter.read()
    time.sleep(0.2)
    used, took = meter.between(before, meter.read()), time.perf_counter() - began
    assert used == pytest.approx(250 * took, rel=0.05)
    meter.close()
    with pytest.raises(Absent, match="neither energy nor power: RuntimeError: Not Supported"):
        open_meter("cuda:0", Library(None, None))


class Simulated:
    """A device of known power: 50 W idle, 200 W at work; time passes by working and resting."""

    source = "simulated"

    def __init__(self) -> None:
        self.seconds, self.joules = 0.0, 0.0

    def read(self) -> float:
        return self.joules

    def between(self, first: float, second: float) -> float | None:
        return second - first

    def close(self) -> None: ...

    def rest(self, seconds: float) -> None:
        self.seconds += seconds
        self.joules += 50 * seconds

    def work(self, seconds: float, tokens: int) -> int:
        self.seconds += seconds
        self.joules += 200 * seconds
        return tokens


def test_blocks_go_forwards_and_backwards_and_give_joules_per_token() -> None:
    device = Simulated()
    decoders = {"standard": lambda: device.work(0.8, 40), "fastvlm": lambda: device.work(0.4, 40)}
    found = blocks(device, decoders, 5.0, now=lambda: device.seconds, rest=device.rest)
    assert [block["method"] for block in found["blocks"]] == ["standard", "fastvlm", "fastvlm", "standard"]
    assert found["idle_w"] == pytest.approx(50) and found["source"] == "simulated"
    assert all(5.0 <= block["seconds"] < 6.0 and block["samples"] > 5 for block in found["blocks"])
    meta: dict[str, Any] = {"energy": {"s": found}}
    assert energy_of(meta, "s", "standard") == Energy(pytest.approx(200 * 0.8 / 40), pytest.approx(200))
    assert energy_of(meta, "s", "fastvlm") == Energy(pytest.approx(200 * 0.4 / 40), pytest.approx(200))
    found["blocks"][1]["joules"] = None
    assert energy_of(meta, "s", "fastvlm") == energy_of({}, "s", "x") == Energy(None, None)
