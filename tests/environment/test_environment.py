"""The record of a run's environment: complete, JSON, guarded, and free of secrets."""

import builtins
import importlib.metadata
import json
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import fastvlm_bench
from fastvlm_bench.machine import environment
from fastvlm_bench.machine.environment import describe_environment, quota_cpus, throttled_periods, variables

NEVER_NULL = ("tool", "python", "torch", "transformers", "pillow", "numpy", "os", "kernel", "cpu", "cores_logical",
              "ram_bytes", "threads", "variables")  # fmt: skip


@pytest.fixture(scope="module")
def described() -> dict[str, Any]:
    return describe_environment("cpu")


def test_it_is_json_and_every_null_has_a_reason(described: dict[str, Any]) -> None:
    assert json.loads(json.dumps(described, allow_nan=False)) == described
    nulls = {name for name, value in described.items() if value is None}
    assert nulls == set(described["reasons"])
    assert all(reason and "\n" not in reason for reason in described["reasons"].values())


def test_what_every_machine_has(described: dict[str, Any]) -> None:
    for name in NEVER_NULL:
        assert described[name] is not None, described["reasons"].get(name)
    assert described["gpu"] is None and described["reasons"]["gpu"] == "the run uses the CPU"
    assert described["threads"] >= 1 and described["ram_bytes"] > 1 << 27


def test_nothing_a_probe_does_can_stop_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise OSError(5, "broken\nin two lines")

    monkeypatch.setattr(subprocess, "run", fail)
    monkeypatch.setattr(Path, "read_text", fail)
    monkeypatch.setattr(Path, "is_file", fail)
    monkeypatch.setattr(environment, "_psutil", fail)
    monkeypatch.setattr(environment, "_torch", fail)
    described = describe_environment("cuda:1")
    assert described["cpu"] is described["threads"] is described["gpu"] is None
    assert described["reasons"]["threads"].startswith("OSError: ")
    assert described["python"] is not None


def test_no_package_means_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_torch(name: str, *rest: Any) -> Any:
        if name == "torch":
            raise ImportError("no torch")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without_torch)
    assert describe_environment()["reasons"]["threads"] == "ImportError: no torch"


# ------------------------------------------------------------------------------------------ secrets


def test_only_listed_variables_are_recorded_and_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = {"OMP_NUM_THREADS": "3", "MKL_NUM_THREADS": "2", "CUDA_VISIBLE_DEVICES": "0,1", "HF_HUB_OFFLINE": "1",
              "TORCH_LOGS": "", "PYTORCH_ALLOC_CONF": "expandable_segments:True"}  # fmt: skip
    hidden = {"HF_TOKEN": "hf_abcdefghijkl", "TORCH_HUB_TOKEN": "x", "OMP_API_KEY": "x", "MKL_PASSWORD": "x",
              "TORCH_PROXY": "http://me:pw@proxy", "OMP_PLACES": "hf_abcdefghijkl", "TORCH_HOME": "/home/me",
              "HOME": "/h", "AWS_SECRET_ACCESS_KEY": "x", "XOMP_A": "1", "OMP_a": "1",
              "CUDA_VISIBLE_DEVICES_2": "1"}  # fmt: skip
    for name, value in (listed | hidden).items():
        monkeypatch.setenv(name, value)
    recorded = variables()
    assert listed.items() <= recorded.items()
    assert not set(hidden) & set(recorded)


def test_the_machine_is_not_named(described: dict[str, Any]) -> None:
    import getpass
    import platform

    text = json.dumps(described)
    assert str(Path.home()) not in text or str(Path.home()) == "/"
    boot = Path("/proc/sys/kernel/random/boot_id")
    if boot.is_file():
        assert boot.read_text().strip() not in text and len(described["boot_id_sha256"]) == 64
    for name in {platform.node(), getpass.getuser()}:
        if len(name) > 8:  # a shorter one may be part of a word
            assert name not in text


# ------------------------------------------------------------------------------------------ git


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    return subprocess.run(["git", "-C", str(folder), *identity, *arguments], capture_output=True, text=True,
                          check=True).stdout.strip()  # fmt: skip


def test_commit_and_dirtiness_of_the_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "fastvlm_bench"
    package.mkdir()
    (package / "a.py").write_text("1")
    monkeypatch.setattr(environment, "__file__", str(package / "machine" / "environment.py"))
    described = describe_environment()
    assert described["commit"] is described["dirty"] is None
    assert described["reasons"]["dirty"] == "not run from a checkout"
    git(tmp_path, "init")
    assert "git rev-parse failed" in describe_environment()["reasons"]["commit"]  # no commit yet
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "x")
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "run.json").write_text("{}")  # what an earlier run wrote is not code
    described = describe_environment()
    assert (described["commit"], described["dirty"]) == (git(tmp_path, "rev-parse", "HEAD"), False)
    (package / "new.py").write_text("2")
    assert describe_environment()["dirty"] is True
    (package / "new.py").unlink()
    (package / "a.py").write_text("3")
    assert describe_environment()["dirty"] is True


def test_the_tool_is_named_where_no_package_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """From a source tree on the path there is no metadata, but the code knows its own version."""

    def missing(name: str) -> Any:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    assert describe_environment()["tool"] == fastvlm_bench.__version__


@pytest.mark.parametrize(("noted", "elsewhere", "expected"), [
    ({"url": "git+https://example.org/x", "vcs_info": {"vcs": "git", "commit_id": "c" * 40}}, False, "c" * 40),
    ({"url": "git+https://example.org/x", "vcs_info": {"vcs": "git", "commit_id": "c" * 40}}, True, None),
    ({"url": "file:///x", "archive_info": {}}, False, None),
    (None, False, None),
])  # fmt: skip
def test_the_commit_of_an_installed_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, noted: Any, elsewhere: bool, expected: str | None
) -> None:
    """pip's note counts only for the code that runs, which may be another one on the path."""
    package = tmp_path / "site-packages" / "fastvlm_bench"
    package.mkdir(parents=True)
    there = tmp_path / "other" if elsewhere else package.parent
    installed = SimpleNamespace(
        locate_file=lambda name: there / name, read_text=lambda name: None if noted is None else json.dumps(noted)
    )
    monkeypatch.setattr(environment, "__file__", str(package / "machine" / "environment.py"))
    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: installed)
    described = describe_environment()
    assert described["commit"] == expected and described["tool"] == fastvlm_bench.__version__
    assert expected or described["reasons"]["commit"] == "not run from a checkout"


# ------------------------------------------------------------------------------------------ cgroups


def place(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def test_the_tightest_quota_of_version_2_counts(tmp_path: Path) -> None:
    place(tmp_path, {"own": "0::/a/b\n", "fs/a/b/cpu.max": "max 100000\n", "fs/a/cpu.max": "150000 100000\n",
                     "fs/cpu.max": "400000 100000\n",
                     "fs/a/b/cpu.stat": "usage_usec 5\nnr_periods 9\nnr_throttled 4\n"})  # fmt: skip
    assert quota_cpus(tmp_path / "fs", tmp_path / "own") == 1.5
    assert throttled_periods(tmp_path / "fs", tmp_path / "own") == 4


@pytest.mark.parametrize("folder", ["cpu", "cpu,cpuacct"])
def test_version_1(tmp_path: Path, folder: str) -> None:
    place(tmp_path, {"own": f"4:memory:/m\n2:{folder}:/docker/x\n0::/\n", f"fs/{folder}/cpu.cfs_quota_us": "50000\n",
                     f"fs/{folder}/cpu.cfs_period_us": "100000\n",
                     f"fs/{folder}/cpu.stat": "nr_periods 1\nnr_throttled 2\n"})  # fmt: skip
    assert quota_cpus(tmp_path / "fs", tmp_path / "own") == 0.5
    assert throttled_periods(tmp_path / "fs", tmp_path / "own") == 2


@pytest.mark.parametrize("files", [{}, {"own": "0::/\n"}, {"own": "0::/\n", "fs/cpu.max": "max 100000\n"},
                                   {"own": "2:cpu:/\n", "fs/cpu/cpu.cfs_quota_us": "-1\n",
                                    "fs/cpu/cpu.cfs_period_us": "100000\n"}])  # fmt: skip
def test_no_quota(tmp_path: Path, files: dict[str, str]) -> None:
    place(tmp_path, files)
    with pytest.raises(environment.Absent, match="no quota is set"):
        quota_cpus(tmp_path / "fs", tmp_path / "own")


def test_containers_are_told_by_their_marks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(environment.Absent, match="none is seen"):
        environment.container(tmp_path)
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "self" / "cgroup").write_text("0::/kubepods/besteffort/pod1\n")
    assert environment.container(tmp_path) == "kubepods"
    (tmp_path / ".dockerenv").touch()
    assert environment.container(tmp_path) == "docker"
