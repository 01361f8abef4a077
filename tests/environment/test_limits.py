"""What a process may use: threads and memory within the limits of its environment and its container."""

from pathlib import Path

import psutil
import pytest

from fastvlm_bench.machine.limits import THREAD_VARIABLES, VERSIONS, available_bytes, thread_counts, thread_limit

GIB = 1 << 30


@pytest.fixture
def cgroup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """An empty tree of version 2, and the file that places the process two groups below its root."""
    for name in THREAD_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)), raising=False)
    (tmp_path / "own").write_text("0::/pod/box\n")
    (tmp_path / "fs" / "pod" / "box").mkdir(parents=True)
    return tmp_path / "fs", tmp_path / "own"


@pytest.mark.parametrize("name", THREAD_VARIABLES)
@pytest.mark.parametrize(("value", "most"), [("3", 3), ("1", 1), ("4,2", 4), ("16", 8), ("", 8), ("0", 8), ("many", 8)])
def test_a_variable_is_kept(
    cgroup: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, name: str, value: str, most: int
) -> None:
    monkeypatch.setenv(name, value)
    assert thread_limit(*cgroup) == most


@pytest.mark.parametrize(("quota", "most"), [("250000 100000", 2), ("50000 100000", 1), ("max 100000", 8)])
def test_a_quota_is_kept(cgroup: tuple[Path, Path], quota: str, most: int) -> None:
    (cgroup[0] / "pod" / "cpu.max").write_text(quota)  # of the group around the process's own
    assert thread_limit(*cgroup) == most


def test_the_counts_that_are_tried() -> None:
    assert [thread_counts(limit) for limit in (1, 2, 3, 8, 12)] == [
        [1], [1, 2], [1, 2, 3], [1, 2, 4, 8], [1, 2, 4, 8, 12],
    ]  # fmt: skip


@pytest.mark.parametrize("version", [1, 2])
def test_a_container_limit_is_what_is_free(
    cgroup: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, version: int
) -> None:
    root, own = cgroup
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"available": 64 * GIB}))
    assert available_bytes(root, own) == 64 * GIB, "without a limit"
    folder = root / "pod" / "box"
    if version == 1:
        own.write_text("5:cpu,cpuacct:/elsewhere\n4:memory:/pod/box\n")
        folder = root / "memory" / "pod" / "box"
        folder.mkdir(parents=True)
    most, used, dropped = VERSIONS[2 - version]
    (folder / most).write_text(f"{4 * GIB}\n")
    (folder / used).write_text(f"{3 * GIB}\n")
    assert available_bytes(root, own) == GIB
    (folder / "memory.stat").write_text(f"anon 5\n{dropped} {GIB // 2}\n")
    assert available_bytes(root, own) == GIB + GIB // 2, "the cache of files can be dropped"
    (folder.parent / most).write_text("max\n" if version == 2 else f"{2**63 - 4096}\n")
    (folder.parent / used).write_text("7\n")
    assert available_bytes(root, own) == GIB + GIB // 2, "the smallest limit counts"
    (folder / used).write_text(f"{9 * GIB}\n")
    assert available_bytes(root, own) == 0
