"""`fastvlm-bench doctor`: the environment record in words, and what would spoil a measurement on this machine.

What it prints names no user, host or path, so that it can be pasted into a bug report.
"""

import json
import shutil
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fastvlm_bench.machine.environment import describe_environment
from fastvlm_bench.machine.roofline import measure

BUSY = 0.25
"""Load average per usable CPU above which other programs are likely to disturb the times."""
LITTLE_DISK_BYTES, LITTLE_RAM_BYTES = 1 << 30, 4 << 30
WIDTH = 100


def examine(out: Path, *, as_json: bool, roofline: bool = False, threads: int | None = None) -> str:
    """The environment of this machine with advice, as aligned text or as one JSON object.

    roofline: measure bandwidth and FLOP/s, too, with so many threads.
    """
    environment = describe_environment()
    environment["free_disk_bytes"] = free_bytes(out)
    advice = list(advise(environment))
    measured = measure(threads=threads) if roofline else None
    if as_json:
        own = {"roofline": measured} if measured else {}
        return json.dumps({"environment": environment, "advice": advice, **own}, allow_nan=False, indent=1)
    return "\n".join([*_table(environment), "", *(_advice(advice)), *(_roofline(measured) if measured else ())])


def free_bytes(folder: Path) -> int | None:
    """Free bytes on the disk where `folder` is, or would be made; None if the system does not tell."""
    nearest = folder.expanduser().absolute()
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    try:
        return shutil.disk_usage(nearest).free
    except OSError:
        return None


def advise(found: Mapping[str, Any]) -> Iterator[str]:
    """One line for each finding, with its remedy. `found` is an environment record with `free_disk_bytes`."""
    yield from _cpu_advice(found)
    yield from _device_advice(found)
    free, ram = found.get("free_disk_bytes"), found.get("ram_bytes")
    if free is not None and free < LITTLE_DISK_BYTES:
        yield f"disk: {_size(free)} free for results; make room, or name another folder with --out"
    if ram is not None and ram < LITTLE_RAM_BYTES:
        yield f"memory: {_size(ram)} in all; only the embedded model is sure to fit"
    if found.get("dirty"):
        yield "code: the checkout has uncommitted changes, so no commit names what is measured; commit first"


def _cpu_advice(found: Mapping[str, Any]) -> Iterator[str]:
    usable, quota, threads = found.get("cpus_allowed"), found.get("quota_cpus"), found.get("threads")
    cpus = usable or found.get("cores_logical")
    if threads and cpus and threads > cpus:
        yield (f"threads: torch would use {threads} on {cpus} usable CPUs, which then wait for each other; "
               f"give --threads {cpus} or fewer")  # fmt: skip
    if quota is not None and (quota != int(quota) or quota < (cpus or quota)):
        yield (f"quota: the cgroup allows {quota:g} of {cpus} CPUs and halts the process when they are used up; give "
               f"--threads {max(1, int(quota))}, or lift the quota")  # fmt: skip
    if halts := found.get("throttled_periods"):
        yield (f"throttling: the cgroup has been halted {halts} times so far; a run records how often it happens "
               "while it measures")  # fmt: skip
    if (governor := found.get("governor")) not in (None, "performance"):
        yield (f"governor: '{governor}' changes the clock as it likes; set 'performance' "
               "(cpupower frequency-set -g performance) for the time of the run")  # fmt: skip
    load = (found.get("load_average") or [None])[0]
    if load is not None and cpus and load > BUSY * cpus:
        yield f"load: {load:.1f} on {cpus} usable CPUs over the last minute; stop other programs, then run"
    variables = found.get("variables") or {}
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        if cpus and variables.get(name, "").isdigit() and int(variables[name]) != threads:
            yield f"threads: {name}={variables[name]}, but torch uses {threads}; unset it, --threads decides"
    if variables.get("OMP_PROC_BIND", "").lower() not in ("", "false") and "OMP_PLACES" not in variables:
        yield "threads: OMP_PROC_BIND without OMP_PLACES may bind all threads to one CPU; set both or neither"


def _device_advice(found: Mapping[str, Any]) -> Iterator[str]:
    accelerators = found.get("accelerators")
    if not accelerators and found.get("driver"):
        yield (f"device: there is an NVIDIA driver ({found['driver']}), but torch {found.get('torch')} sees no GPU; "
               "install the torch build for your CUDA version")  # fmt: skip
    elif not accelerators:
        yield "device: torch sees no accelerator, so runs use the CPU; what they say holds for CPUs"
    cuda = any(name.startswith("cuda") for name in accelerators or ())
    if cuda and found.get("float32_matmul") not in (None, "highest"):
        yield (f"TF32: float32 products are '{found['float32_matmul']}', not exact, so near-ties may fall otherwise; "
               "torch.set_float32_matmul_precision('highest')")  # fmt: skip
    if cuda and not found.get("nvidia-ml-py"):
        yield "NVML: without nvidia-ml-py clocks and throttling go unseen; pip install nvidia-ml-py"
    if cuda and (found.get("variables") or {}).get("CUDA_LAUNCH_BLOCKING") == "1":
        yield "device: CUDA_LAUNCH_BLOCKING=1 makes every kernel wait; unset it"


# ------------------------------------------------------------------------------------------ text


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"


def _value(name: str, value: Any) -> str:
    if name.endswith("_bytes"):
        return _size(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={item}" for key, item in value.items()) or "none set"
    if isinstance(value, list | tuple):
        return ", ".join(_value("", item) for item in value)
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def _table(found: Mapping[str, Any]) -> Iterator[str]:
    """ "name  value" lines, then what could not be found with its reason."""
    missing: Mapping[str, str] = found["reasons"]
    names = [name for name, value in found.items() if name != "reasons" and value is not None]
    width = max(map(len, [*names, *missing]))
    for rows in ((((name, _value(name, found[name])) for name in names)),
                 (((name, f"not known: {reason}") for name, reason in missing.items()))):  # fmt: skip
        for name, text in rows:
            yield from textwrap.wrap(text, WIDTH, initial_indent=f"{name:<{width}}  ",
                                     subsequent_indent=" " * (width + 2), break_on_hyphens=False)  # fmt: skip


def _roofline(found: Mapping[str, Any]) -> Iterator[str]:
    threads = f", {found['threads']} threads" if found["threads"] else ""
    yield ""
    yield f"roofline of {found['device']}{threads}: {found['bandwidth_bytes_per_s'] / 1e9:.4g} GB/s; " + ", ".join(
        f"{value / 1e12:.3g} TFLOP/s in {kind}" for kind, value in found["flops_per_s"].items()
    )


def _advice(advice: list[str]) -> Iterator[str]:
    if not advice:
        yield "nothing here speaks against measuring"
    for line in advice:
        yield from textwrap.wrap(line, WIDTH, initial_indent="* ", subsequent_indent="  ", break_on_hyphens=False)
