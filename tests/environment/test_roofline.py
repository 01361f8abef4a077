"""`doctor --roofline`: random operands, and reads that no cache holds."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode
from typer.testing import CliRunner

from fastvlm_bench.cli.app import app
from fastvlm_bench.errors import UsageError
from fastvlm_bench.machine import roofline

MIB = 1 << 20


class Seen(TorchFunctionMode):
    """The operands of every product."""

    def __init__(self) -> None:
        super().__init__()
        self.operands: list[torch.Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in ("linear", "matmul", "__matmul__"):
            self.operands += args
        return func(*args, **(kwargs or {}))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("WIDTH", 256), ("TRIES", 1)):
        monkeypatch.setattr(roofline, name, value)
    monkeypatch.setitem(roofline.SIDE, "cpu", 64)


@pytest.mark.usefixtures("small")
def test_operands_are_random_and_leave_the_random_state_alone() -> None:
    before = torch.get_rng_state()
    with Seen() as seen:
        found = roofline.measure("cpu", read_bytes=4 * 256 * 256 * 4)
    assert found["read_bytes"] == 4 * 256 * 256 * 4
    assert {tuple(one.shape) for one in seen.operands} == {(1, 256), (256, 256), (64, 64)}
    assert {one.dtype for one in seen.operands} == {torch.float32, torch.bfloat16, torch.float16}
    for one in seen.operands:  # 16 bits have few values, and none that most elements share
        assert one.float().std() > 0.5 and one.unique().numel() > min(one.numel(), 1000) // 4
    large = {one.data_ptr() for one in seen.operands if one.shape == (256, 256)}
    assert len(large) == 4, "each matrix lies in memory of its own"
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("cache", [None, 1 << 20, 32 * MIB, 1152 * MIB])
def test_what_is_read_is_large_against_the_cache(cache: int | None) -> None:
    least, much = 512 * MIB, 1 << 40
    read = roofline.enough(least, cache, much)
    assert read >= least and read >= roofline.CACHES * (cache or 0)
    for most in (read, read // 2, 3 * read // 4):
        if most >= max(roofline.LEAST_CACHES * (cache or 0), roofline.MATRIX_BYTES):
            assert roofline.enough(least, cache, most) == most
    with pytest.raises(UsageError, match="free some memory"):
        roofline.enough(least, cache, max(roofline.LEAST_CACHES * (cache or 0), roofline.MATRIX_BYTES) - 1)


def test_a_large_cache_is_read_past(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(roofline, "_cache", lambda place: 100 * MIB)
    monkeypatch.setattr(roofline, "_free", lambda place: 1 << 40)
    monkeypatch.setattr(roofline, "_bandwidth", lambda place, clock, read: asked.append(read) or 1.0)
    monkeypatch.setattr(roofline, "_peak", lambda *given: 1.0)
    assert roofline.measure("cpu")["cache_bytes"] == 100 * MIB
    assert asked == [roofline.CACHES * 100 * MIB]


def test_too_little_memory_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roofline, "_free", lambda place: MIB)
    result = CliRunner().invoke(app, ["doctor", "--roofline"])
    assert result.exit_code == 2 and "--roofline" in result.stderr and "free some memory" in result.stderr


def cpus(folder: Path, caches: list[tuple[int, int, str, str]]) -> Path:
    """A machine's caches as the kernel tells them: CPU, level, size, the CPUs that share it."""
    for place, (cpu, *told) in enumerate(caches):
        index = folder / f"cpu{cpu}" / "cache" / f"index{place}"
        index.mkdir(parents=True)
        for name, value in zip(("level", "size", "shared_cpu_list"), told, strict=True):
            (index / name).write_text(f"{value}\n")
    return folder


@pytest.mark.parametrize(
    ("caches", "size"),
    [
        ([(0, 1, "32K", "0"), (0, 3, "32768K", "0-1"), (1, 3, "32768K", "0-1")], 32 * MIB),
        ([(0, 2, "1M", "0"), (0, 3, "96M", "0"), (8, 3, "96M", "8")], 192 * MIB),
        ([(0, 1, "32K", "0"), (0, 2, "1024K", "0"), (1, 2, "1024K", "1")], 2 * MIB),
        ([(0, 3, "large", "0")], None),
        ([], None),
    ],
)
def test_caches_that_several_cpus_share_count_once(
    tmp_path: Path, caches: list[tuple[int, int, str, str]], size: int | None
) -> None:
    found: Callable[[Path], int | None] = roofline.cpu_cache
    assert found(cpus(tmp_path, caches)) == size
