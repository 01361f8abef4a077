"""What a process may use, not what the machine has: threads and memory, within environment and container.

Standard library and psutil only.
"""

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path

from fastvlm_bench.machine.environment import Absent, cgroup_folders, quota_cpus

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_THREAD_LIMIT")
VERSIONS = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
"""Of cgroups 2 and 1: the files of limit and use, and the count in memory.stat of what may be dropped."""
CGROUPS, OWN = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def thread_limit(root: Path = CGROUPS, own: Path = OWN) -> int:
    """Most threads to decode with: the CPUs that this process may use, its container's quota, OMP_NUM_THREADS."""
    limits = [len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1]
    with contextlib.suppress(Absent):
        limits.append(math.floor(quota_cpus(root, own)))
    for name in THREAD_VARIABLES:
        first = os.environ.get(name, "").split(",")[0].strip()  # OMP_NUM_THREADS=4,2 is of nested regions
        if first.isdecimal() and int(first) > 0:
            limits.append(int(first))
    return max(1, min(limits))


def thread_counts(limit: int) -> list[int]:
    """The counts that are tried, 1, 2, 4 … up to the limit, and the limit itself where the process may use no more."""
    return sorted({1, *(2**i for i in range(1, 10) if 2**i <= limit), limit})


def available_bytes(root: Path = CGROUPS, own: Path = OWN) -> int:
    """Bytes of memory that this process may still take: what is free, and what its containers' limits leave."""
    import psutil

    return max(0, min([int(psutil.virtual_memory().available), *_left(root, own)]))


def _left(root: Path, own: Path) -> Iterator[int]:
    """What the limit of each cgroup leaves; its cache of files can be dropped."""
    for folder in cgroup_folders("memory", root, own):
        for most, used, dropped in VERSIONS:
            try:
                limit, now = (int((folder / name).read_text()) for name in (most, used))
            except (OSError, ValueError):  # no such file, or "max"
                continue
            try:
                counts = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            except (OSError, ValueError):
                counts = {}
            yield limit - now + int(counts.get(dropped, 0))
