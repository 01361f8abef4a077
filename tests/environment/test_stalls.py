"""A process that did not run while it was measured: stopped, or kept from its CPU."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from fastvlm_bench.machine import conditions
from fastvlm_bench.machine.conditions import CpuConditions, GpuConditions, watch
from fastvlm_bench.machine.stalls import LEAST_S, STALLED, Stalls


def watched(took_s: float, ran_s: float) -> CpuConditions:
    """Conditions of which the first measurement took and ran for so many seconds."""
    wall, own = iter((0.0, took_s)), iter((0.0, ran_s))
    return CpuConditions(lambda: 0, dict, stalls=Stalls(lambda: next(wall), lambda: next(own)))


@pytest.mark.parametrize(
    ("took_s", "ran_s", "flagged"),
    [
        (22.0, 2.0, True),  # stopped for 20 s
        (2.5, 1.25, True),  # half of the CPU was another's
        (2.5, 2.4, False), (0.9, 0.1, False),  # too short to tell
        (60.0, 58.5, False),  # pauses that any machine has
        (2.0, 7.9, False),  # never: more CPU time than wall time
    ],
)  # fmt: skip
def test_wall_against_cpu_time(took_s: float, ran_s: float, flagged: bool) -> None:
    with watched(took_s, ran_s) as seen:
        with seen.span("fastvlm"):
            pass
        assert seen.flags() == [STALLED] * flagged and seen.flags() == []
    assert bool(seen.notices()) == flagged == bool(seen.summary()["stalled"])
    if flagged:
        (notice,) = seen.notices()
        assert notice["name"] == "Stalled" and f"fastvlm 1 x, {took_s - ran_s:.1f} s" in notice["message"]


def test_only_where_the_cpu_computes() -> None:
    assert watch("cpu")._stalls is not None  # type: ignore[attr-defined]
    assert watch("mps")._stalls is None  # type: ignore[attr-defined]


STOPPED = """
import time
from fastvlm_bench.machine.conditions import watch
import torch
torch.set_num_threads(1)
with watch("cpu") as seen:
    for step in range(2):
        with seen.span(f"step{step}"):
            print("measuring", flush=True)
            until = time.thread_time() + 0.3
            while time.thread_time() < until:
                pass
        print(seen.flags(), flush=True)
"""


@pytest.mark.slow
def test_a_process_that_is_really_stopped() -> None:
    """Stopped for longer than the limit in its first measurement, not in its second."""
    process = subprocess.Popen(
        [sys.executable, "-c", STOPPED], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "measuring\n"
    os.kill(process.pid, signal.SIGSTOP)
    time.sleep(1.3 * LEAST_S)
    os.kill(process.pid, signal.SIGCONT)
    assert process.stdout.readline() == "['stalled']\n"
    process.communicate(timeout=60)
    assert process.returncode == 0


class Idle:
    """A device that says nothing."""

    missing: dict[str, str] = {}

    def processes(self) -> None: ...
    def energy_j(self) -> None: ...
    def close(self) -> None: ...
    def read(self) -> Any:
        from fastvlm_bench.machine.nvml import Reading

        return Reading(*[None] * len(Reading.__dataclass_fields__))


def test_a_gap_of_the_thread_that_watches_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s, jumped = [0.0], threading.Event()
    monkeypatch.setattr(conditions.time, "monotonic", lambda: now_s[0])
    with GpuConditions(Idle(), interval_s=0.002) as seen:  # type: ignore[arg-type]
        with seen.span("fastvlm"):
            jumped.wait(0.05)
            assert seen.flags() == []
            now_s[0] += 20.0
            for _ in range(500):
                if seen.summary()["stalled"]:
                    break
                jumped.wait(0.01)
        assert seen.flags() == [STALLED]
    assert [notice["name"] for notice in seen.notices()] == ["Stalled"]
    assert seen.summary()["stalled"]["fastvlm"]["seconds"] == pytest.approx(20.0, abs=0.1)
