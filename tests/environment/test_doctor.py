"""`doctor`: the record in words, JSON, and advice exactly where something would spoil a measurement."""

import getpass
import json
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fastvlm_bench.cli.app import app
from fastvlm_bench.machine import doctor, roofline
from fastvlm_bench.machine.doctor import advise, free_bytes
from fastvlm_bench.predicting.devices import find_device

QUIET = {
    "cpus_allowed": 4, "cores_logical": 4, "threads": 4, "quota_cpus": None, "throttled_periods": 0,
    "governor": "performance", "load_average": [0.2, 3.0, 3.0], "variables": {}, "accelerators": ["cuda:0"],
    "driver": "570.1", "torch": "2.13", "float32_matmul": "highest", "nvidia-ml-py": "13", "dirty": False,
    "ram_bytes": 64 << 30, "free_disk_bytes": 99 << 30, "reasons": {},
}  # fmt: skip


def test_a_quiet_machine_gets_no_advice() -> None:
    assert list(advise(QUIET)) == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"threads": 8}, ["threads: torch would use 8 on 4", "--threads 4"]),
        ({"quota_cpus": 1.5}, ["allows 1.5 of 4", "--threads 1"]),
        ({"quota_cpus": 0.5}, ["--threads 1"]),
        ({"throttled_periods": 7}, ["halted 7 times"]),
        ({"governor": "powersave"}, ["'powersave'", "performance"]),
        ({"load_average": [2.0, 0.1, 0.1]}, ["load: 2.0 on 4"]),
        ({"variables": {"OMP_NUM_THREADS": "2"}}, ["OMP_NUM_THREADS=2", "torch uses 4"]),
        ({"variables": {"OMP_PROC_BIND": "true"}}, ["OMP_PLACES"]),
        ({"accelerators": None}, ["NVIDIA driver (570.1)", "sees no GPU"]),
        ({"accelerators": None, "driver": None}, ["no accelerator"]),
        ({"float32_matmul": "high"}, ["TF32", "'high'"]),
        ({"nvidia-ml-py": None}, ["pip install nvidia-ml-py"]),
        ({"variables": {"CUDA_LAUNCH_BLOCKING": "1"}}, ["CUDA_LAUNCH_BLOCKING"]),
        ({"free_disk_bytes": 1 << 20}, ["disk:", "--out"]),
        ({"ram_bytes": 2 << 30}, ["memory: 2.0 GiB"]),
        ({"dirty": True}, ["uncommitted"]),
    ],
)
def test_each_finding_alone(change: dict[str, Any], says: list[str]) -> None:
    (line,) = advise({**QUIET, **change})
    assert all(piece in line for piece in says), line


def test_a_machine_that_tells_nothing_is_no_error() -> None:
    assert list(advise(dict.fromkeys(QUIET))) == ["device: torch sees no accelerator, so runs use the CPU; "
                                                  "what they say holds for CPUs"]  # fmt: skip


def test_whole_quota_of_all_cpus_is_fine() -> None:
    assert list(advise({**QUIET, "quota_cpus": 4.0})) == []


def test_the_command(monkeypatch: pytest.MonkeyPatch, call: Callable[..., Any]) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    result = call("doctor")
    assert result.exit_code == 0 and result.stderr == ""
    lines = result.stdout.splitlines()
    assert max(map(len, lines)) <= doctor.WIDTH
    for name in ("torch", "threads", "load_average", "free_disk_bytes", "governor"):
        assert any(line.startswith(name + " ") for line in lines), name
    for name in {platform.node(), getpass.getuser(), str(Path.home())}:
        if len(name) > 8:
            assert name not in result.stdout


def test_json(call: Callable[..., Any], tmp_path: Path) -> None:
    found = json.loads(call("doctor", "--json", "--out", tmp_path / "not" / "yet").stdout)
    assert found["environment"]["free_disk_bytes"] == pytest.approx(free_bytes(tmp_path), rel=0.5)
    assert isinstance(found["advice"], list) and found["environment"]["threads"] >= 1


def test_roofline_is_what_predict_reads(
    call: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(roofline.READ_BYTES, "cpu", 1 << 26)
    monkeypatch.setitem(roofline.SIDE, "cpu", 128)
    monkeypatch.setattr(roofline, "_cache", lambda place: 1 << 22)
    result = call("doctor", "--roofline", "--threads", "1", "--json")
    found = json.loads(result.stdout)["roofline"]
    assert found["threads"] == 1 and set(found["flops_per_s"]) == {"float32", "bfloat16", "float16"}
    assert (found["read_bytes"], found["cache_bytes"]) == (1 << 26, 1 << 22)
    assert 1e8 < found["bandwidth_bytes_per_s"] < 1e13 and found["memory_bytes"] > 1 << 28
    (tmp_path / "machine.json").write_text(result.stdout)
    device = find_device(f"measured:{tmp_path / 'machine.json'}")
    assert (device.bandwidth, device.flops) == (found["bandwidth_bytes_per_s"], found["flops_per_s"])
    assert "roofline of cpu, 1 threads: " in call("doctor", "--roofline", "--threads", "1").stdout
    assert (
        call("doctor", "--threads", "1").exit_code == 2
        and call("doctor", "--roofline", "--threads", "0").exit_code == 2
    )


@pytest.fixture
def call() -> Callable[..., Any]:
    return lambda *arguments: CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
