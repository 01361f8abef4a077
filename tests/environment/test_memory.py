"""Peak memory: short peaks are seen, an earlier span's peak is not, and what cannot be measured is None."""

import functools
import mmap
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from fastvlm_bench.machine import memory
from fastvlm_bench.machine.memory import PeakMemory, attribute, held_bytes

BLOCK = 64 << 20
KEYS = {"peak_rss_bytes", "peak_allocated_bytes", "peak_reserved_bytes", "device_used_bytes", "rss_method"}
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="the kernel's high-water mark is Linux's")


def touch(seconds: float = 0.0) -> None:
    """Make BLOCK bytes resident for a moment.

    They are mapped, not taken from the heap, which may hold as many resident bytes that earlier tests freed.
    """
    with mmap.mmap(-1, BLOCK) as block:
        for page in range(0, BLOCK, mmap.PAGESIZE):
            block[page] = 1
        time.sleep(seconds)


def measured(seconds: float = 0.0, work: bool = True) -> int:
    with PeakMemory("cpu") as peak:
        if work:
            touch(seconds)
    assert set(peak.result) == KEYS and peak.result["peak_allocated_bytes"] is None
    return int(peak.result["peak_rss_bytes"])


@pytest.fixture
def without_kernel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(memory, "CLEAR_REFS", tmp_path / "no such folder" / "clear_refs")


@on_linux
def test_the_kernel_sees_a_peak_of_no_duration_and_forgets_it() -> None:
    idle = measured(work=False)
    busy = measured()
    again = measured(work=False)
    assert busy - idle > 0.9 * BLOCK
    assert abs(again - idle) < 0.3 * BLOCK
    with PeakMemory() as peak:
        pass
    assert peak.result["rss_method"] == "kernel"


def test_elsewhere_a_thread_samples(without_kernel: None) -> None:
    idle, busy = measured(work=False), measured(seconds=0.2)
    assert busy - idle > 0.9 * BLOCK
    with PeakMemory() as peak:
        assert any(thread.name == "peak-memory" for thread in threading.enumerate())
    assert peak.result["rss_method"] == "sampled"
    assert not any(thread.name == "peak-memory" for thread in threading.enumerate())


def test_a_reset_that_does_nothing_is_noticed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Some sandboxes take the write and keep the old mark."""
    (tmp_path / "status").write_text("VmPeak:\t  9 kB\nVmHWM:\t  900000 kB\nVmRSS:\t  300000 kB\n")
    monkeypatch.setattr(memory, "CLEAR_REFS", tmp_path / "clear_refs")
    monkeypatch.setattr(memory, "STATUS", tmp_path / "status")
    with PeakMemory() as peak:
        pass
    assert peak.result["rss_method"] == "sampled"
    assert peak.result["peak_rss_bytes"] != 900000 * 1024


def test_kilobytes_are_1024_bytes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "status").write_text("Name:\tpython\nVmHWM:\t  300001 kB\nVmRSS:\t  300000 kB\n")
    monkeypatch.setattr(memory, "CLEAR_REFS", tmp_path / "clear_refs")
    monkeypatch.setattr(memory, "STATUS", tmp_path / "status")
    with PeakMemory() as peak:
        pass
    assert (peak.result["peak_rss_bytes"], peak.result["rss_method"]) == (300001 * 1024, "kernel")
    assert (tmp_path / "clear_refs").read_text() == "5"


@pytest.mark.parametrize("sampled", [False, True])
def test_a_failing_span_is_measured_and_its_error_passed_on(sampled: bool, request: pytest.FixtureRequest) -> None:
    if sampled:
        request.getfixturevalue("without_kernel")
    with pytest.raises(RuntimeError, match="out of memory"), PeakMemory() as peak:
        raise RuntimeError("out of memory")
    assert peak.result["peak_rss_bytes"] > 0
    assert not any(thread.name == "peak-memory" for thread in threading.enumerate())


def test_on_a_gpu_the_allocator_is_reset_and_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, str]] = []
    numbers = {"reset_peak_memory_stats": None, "max_memory_allocated": 11, "max_memory_reserved": 22}

    def answer(name: str, device: str) -> int | None:
        calls.append((name, device))
        return numbers[name]

    cuda = SimpleNamespace(**{name: functools.partial(answer, name) for name in numbers})
    cuda.mem_get_info = lambda device: (60, 100)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    with PeakMemory("cuda:1") as peak:
        assert calls == [("reset_peak_memory_stats", "cuda:1")]
    assert (peak.result["peak_allocated_bytes"], peak.result["peak_reserved_bytes"]) == (11, 22)
    assert {device for _, device in calls} == {"cuda:1"} and peak.result["device_used_bytes"] == 40


def test_the_parts_of_a_peak_add_up_to_it() -> None:
    peak = {"peak_rss_bytes": 1000, "peak_allocated_bytes": 700, "peak_reserved_bytes": 800, "device_used_bytes": 900,
            "rss_method": "kernel"}  # fmt: skip
    names = ("weights_bytes", "head_bytes", "cache_bytes", "activation_bytes", "rest_bytes")
    for device, total, before in (("cpu", 1000, 600), ("cuda:0", 700, 420)):
        parts = attribute(peak, before, weights=400, head=10, cache=50, device=device)
        assert sum(parts[name] for name in names) == parts["peak_bytes"] == total
        assert parts["rest_bytes"] == before - 410 and parts["activation_bytes"] == total - before - 50
    unknown = attribute(peak, None, weights=400, head=0, cache=None, device="cpu")
    assert unknown["activation_bytes"] is None and unknown["rest_bytes"] is None and unknown["cache_bytes"] is None


@on_linux
def test_what_was_freed_is_given_back_before_a_peak_is_taken_apart() -> None:
    before = held_bytes()
    blocks = [bytearray(1 << 16) for _ in range(512)]
    del blocks
    assert before is not None and abs((held_bytes() or 0) - before) < BLOCK // 4


@pytest.mark.gpu
def test_on_a_real_gpu() -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    before = torch.cuda.memory_allocated()
    with PeakMemory("cuda:0") as peak:
        torch.empty(BLOCK, dtype=torch.uint8, device="cuda:0")
    assert peak.result["peak_allocated_bytes"] - before >= BLOCK
    assert peak.result["peak_reserved_bytes"] >= peak.result["peak_allocated_bytes"]
