"""Where a run was made: code, packages, machine, limits. What cannot be found is null, and `reasons` says why.

Secrets are never recorded: of the environment variables, only those on a short list are, and none with a private name
or value. torch and psutil are imported inside functions.
"""

import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fastvlm_bench import __version__
from fastvlm_bench.errors import Absent

PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "pillow", "numpy", "nvidia-ml-py")
CODE = ("fastvlm_bench", "suites", "pyproject.toml")
"""Only changes to these make a checkout dirty: the results that a run has just written do not."""
VARIABLES = re.compile(
    r"(OMP|MKL|KMP|GOMP|OPENBLAS|VECLIB|TORCH|PYTORCH|CUBLAS|NVIDIA_TF32)_[A-Z0-9_]+"
    r"|CUDA_VISIBLE_DEVICES|CUDA_LAUNCH_BLOCKING|CUDA_DEVICE_ORDER|HF_HUB_OFFLINE|TRANSFORMERS_OFFLINE"
)
PRIVATE = re.compile(r"TOKEN|KEY|SECRET|PASS|CREDENTIAL|AUTH|[/\\]|hf_[A-Za-z0-9]{8}", re.IGNORECASE)
"""What a secret looks like in a name or a value, or a path, which may name a person. A variable with it is left out."""


def describe_environment(device: Any = "cpu") -> dict[str, Any]:
    """What run.json says about the place of a run. device: the target's, a name or `torch.device`.

    Call it after the number of threads has been set. Sizes in bytes; `cpus_allowed` and `quota_cpus` are how many
    CPUs the process may use by affinity and by cgroup; `threads` is torch's number of threads for one operation.
    """
    kind, _, index = str(device).partition(":")
    found: dict[str, Any] = {}
    reasons: dict[str, str] = {}
    for name, probe in _probes(kind, int(index or 0)):
        try:
            found[name] = probe()
        except Exception as error:  # a probe may fail in any way on an unknown machine, and must not stop the run
            text = str(error).strip().splitlines()[0][:160] if str(error).strip() else "no message"
            found[name] = None
            reasons[name] = text if isinstance(error, Absent) else f"{type(error).__name__}: {text}"
    return {**found, "reasons": reasons}


def _probes(kind: str, index: int) -> Iterator[tuple[str, Callable[[], Any]]]:
    """(name, probe) of each entry. A probe returns the value, or raises Absent with the reason why there is none."""
    yield "tool", lambda: __version__  # the package's own word: metadata is missing where it runs from a source tree
    yield "commit", commit
    yield "dirty", lambda: bool(_git("status", "--porcelain", "--", *CODE))
    yield "python", platform.python_version
    for package in PACKAGES:
        yield package, functools.partial(importlib.metadata.version, package)
    yield "os", operating_system
    yield "kernel", platform.release
    yield "machine", platform.machine
    yield "cpu", cpu_model
    yield "cores_physical", lambda: _psutil().cpu_count(logical=False) or _absent("not told by the system")
    yield "cores_logical", lambda: _psutil().cpu_count() or _absent("not told by the system")
    yield "cpus_allowed", lambda: len(os.sched_getaffinity(0))
    yield "affinity", lambda: sorted(os.sched_getaffinity(0))
    yield "quota_cpus", quota_cpus
    yield "throttled_periods", throttled_periods
    yield "governor", governor
    yield "turbo", turbo
    yield "container", container
    yield "load_average", lambda: list(os.getloadavg())
    yield "ram_bytes", lambda: int(_psutil().virtual_memory().total)
    yield "threads", lambda: int(_torch().get_num_threads())
    yield "interop_threads", lambda: int(_torch().get_num_interop_threads())
    yield "cuda", lambda: _torch().version.cuda or _absent("this torch was built without CUDA")
    yield "cudnn", lambda: _torch().backends.cudnn.version() or _absent("this torch was built without cuDNN")
    yield "accelerators", lambda: accelerators() or _absent("torch sees none: it runs on the CPU")
    yield "float32_matmul", lambda: str(_torch().get_float32_matmul_precision())
    yield "cudnn_benchmark", lambda: bool(_torch().backends.cudnn.benchmark)
    yield "deterministic", lambda: bool(_torch().are_deterministic_algorithms_enabled())
    yield "gpu", lambda: _gpu(kind, index)
    yield "gpus", lambda: gpus() or _absent("no CUDA device")
    yield "driver", driver
    yield "variables", variables
    yield "boot_id_sha256", boot_id_sha256
    yield "machine_id_sha256", machine_id_sha256


def _absent(reason: str) -> Any:
    raise Absent(reason)


def _torch() -> Any:
    import torch

    return torch


def _psutil() -> Any:
    import psutil

    return psutil


def commit() -> str:
    """The commit of the code: the checkout's, or for a package the one that pip installed it from (`git+URL`)."""
    try:
        return _git("rev-parse", "HEAD")
    except Absent as absent:
        return _installed_from() or _absent(str(absent))


def _installed_from() -> str | None:
    """What pip noted in direct_url.json (PEP 610), if the code that runs is the installed one; else None."""
    package = Path(__file__).parents[1]
    try:
        installed = importlib.metadata.distribution("fastvlm-bench")
    except importlib.metadata.PackageNotFoundError:
        return None
    if Path(str(installed.locate_file(package.name))).resolve() != package.resolve():
        return None
    noted = json.loads(installed.read_text("direct_url.json") or "{}")
    found = noted.get("vcs_info", {}).get("commit_id")
    return str(found) if found else None


def _git(*arguments: str) -> str:
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        raise Absent("not run from a checkout")
    command = ["git", "--no-optional-locks", "-C", str(root), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise Absent(f"git {arguments[0]} failed: {done.stderr.strip()}")
    return done.stdout.strip()


def operating_system() -> str:
    """The distribution's or the system's name and version."""
    if sys.platform == "linux":
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    return f"{platform.system()} {platform.mac_ver()[0] or platform.version()}"


def cpu_model() -> str:
    """The CPU's name as its maker writes it."""
    if sys.platform == "darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    cpuinfo = Path("/proc/cpuinfo")
    names = re.findall(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(), re.MULTILINE) if cpuinfo.is_file() else []
    return names[0].strip() if names else platform.processor() or _absent("the system does not name its CPU")


def governor() -> str:
    """The frequency governor of the first CPU; virtual machines have none."""
    path = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    return path.read_text().strip() if path.is_file() else _absent("no cpufreq, as in virtual machines")


def turbo() -> bool:
    """Whether the CPU may raise its clock above the nominal one: a run is then fastest while the CPU is still cold."""
    for name, on in (("intel_pstate/no_turbo", "0"), ("cpufreq/boost", "1")):
        path = Path("/sys/devices/system/cpu") / name
        if path.is_file():
            return path.read_text().strip() == on
    raise Absent("the system does not tell, as in virtual machines")


def container(root: Path = Path("/")) -> str:
    """The kind of container that the process runs in."""
    for name, kind in ((".dockerenv", "docker"), ("run/.containerenv", "podman")):
        if (root / name).is_file():
            return kind
    if os.environ.get("KUBERNETES_SERVICE_HOST"):
        return "kubernetes"
    own = root / "proc/self/cgroup"
    if own.is_file() and (found := re.search(r"docker|kubepods|containerd|lxc|libpod", own.read_text())):
        return found[0]
    raise Absent("none is seen")


def quota_cpus(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> float:
    """The CPU quota in CPUs: the smallest of the process's cgroups (v2 `cpu.max`, v1 `cpu.cfs_quota_us`)."""
    found = []
    for folder in cgroup_folders("cpu", root, own):
        if (folder / "cpu.max").is_file():
            quota, period = (folder / "cpu.max").read_text().split()
        elif (folder / "cpu.cfs_quota_us").is_file():
            quota = (folder / "cpu.cfs_quota_us").read_text().strip()
            period = (folder / "cpu.cfs_period_us").read_text().strip()
        else:
            continue
        if quota not in ("max", "-1"):
            found.append(int(quota) / int(period))
    return min(found) if found else _absent("no quota is set")


def throttled_periods(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int:
    """How often the cgroup has been halted by its quota so far. If it grows during a run, the times are spoilt."""
    for folder in cgroup_folders("cpu", root, own):
        if (folder / "cpu.stat").is_file():
            counts = dict(line.split() for line in (folder / "cpu.stat").read_text().splitlines())
            if "nr_throttled" in counts:
                return int(counts["nr_throttled"])
    return _absent("no cgroup counts it")


def cgroup_folders(controller: str, root: Path, own: Path) -> Iterator[Path]:
    """The folders of the process's cgroups of a controller ("cpu", "memory"), from its own up to the root."""
    for line in own.read_text().splitlines() if own.is_file() else []:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        for base in [root / controllers, root / controller] if controllers else [root]:
            if base.is_dir():
                group = base / path.lstrip("/")
                yield from (folder for folder in (group, *group.parents) if folder.is_relative_to(base))
                break


def _gpu(kind: str, index: int) -> str:
    """The name of the GPU in use."""
    if kind == "mps":
        return "Apple GPU"
    if kind != "cuda":
        raise Absent("the run uses the CPU")
    return str(_torch().cuda.get_device_name(index))


def accelerators() -> list[str]:
    """The devices that torch can use besides the CPU, as --device takes them."""
    torch = _torch()
    found = [f"cuda:{i}" for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    return found + (["mps"] if torch.backends.mps.is_available() else [])


def gpus(library: Any = None) -> list[dict[str, Any]]:
    """All visible CUDA devices: name, memory in bytes, compute capability, and what NVML tells of them.

    library: a fake `pynvml`, for tests.
    """
    cuda = _torch().cuda
    properties = [cuda.get_device_properties(i) for i in range(cuda.device_count())] if cuda.is_available() else []
    return [{"name": p.name, "memory_bytes": int(p.total_memory), "capability": f"{p.major}.{p.minor}",
             **_nvml_facts(str(p.uuid), library)} for p in properties]  # fmt: skip


def _nvml_facts(uuid: str, library: Any) -> dict[str, Any]:
    from fastvlm_bench.machine.nvml import Device

    try:
        device = Device.open(uuid, library)
    except Absent as absent:
        return {"missing": {"nvml": str(absent)}}
    facts = device.facts()
    device.close()
    return {**facts, "missing": device.missing}


def driver() -> str:
    """The NVIDIA driver's version."""
    path = Path("/proc/driver/nvidia/version")
    if path.is_file() and (version := re.search(r"\b(\d{3,}\.\d+(\.\d+)?)\b", path.read_text())):
        return version[1]
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        raise Absent("no NVIDIA driver") from None
    return done.stdout.strip().splitlines()[0]


def variables() -> dict[str, str]:
    """The environment variables that change speed or results and hold nothing private."""
    return {name: value for name, value in sorted(os.environ.items())
            if VARIABLES.fullmatch(name) and not PRIVATE.search(name + "=" + value)}  # fmt: skip


def boot_id_sha256() -> str:
    """Tells whether two runs were made on the same machine without a restart between them, without naming it."""
    path = Path("/proc/sys/kernel/random/boot_id")
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else _absent("the system has no boot id")


def machine_id_sha256() -> str:
    """Tells whether two runs were made on the same machine, without naming it."""
    path = Path("/etc/machine-id")
    named = path.read_bytes().strip() if path.is_file() else b""
    return hashlib.sha256(b"fastvlm-bench " + named).hexdigest() if named else _absent("the system has no machine id")
