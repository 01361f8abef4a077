"""Peak memory of a span of code: resident memory of the process, and what torch's allocator held on a GPU.

torch and psutil are imported inside functions. Spans must not be nested: each one resets the peaks.
"""

import contextlib
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

CLEAR_REFS, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
INTERVAL_S = 0.010
RESET_TOLERANCE_BYTES = 16 << 20
KERNEL, SAMPLED = "kernel", "sampled"
"""How the peak of resident memory was found: `kernel` is exact, `sampled` may miss peaks shorter than 10 ms."""


class PeakMemory:
    """`with PeakMemory(device) as peak: ...`, then read `peak.result`, which is set even if the span raises.

    The keys of result (None where nothing was measured):
    peak_rss_bytes        the highest resident memory of this process in the span; child processes do not count
    peak_allocated_bytes  the most that tensors held on the CUDA device
    peak_reserved_bytes   the most that torch's allocator held there, which depends on what ran before
    device_used_bytes     what the driver says is in use there at the end, by all processes, CUDA contexts included
    rss_method            "kernel" or "sampled"

    On Linux the kernel's high-water mark is reset (5 into /proc/self/clear_refs) and read again as VmHWM. Elsewhere,
    and where that is forbidden, a thread samples every 10 ms.
    """

    def __init__(self, device: Any = "cpu") -> None:
        self.device = str(device)
        self.result: dict[str, Any] = dict.fromkeys(
            ("peak_rss_bytes", "peak_allocated_bytes", "peak_reserved_bytes", "device_used_bytes", "rss_method")
        )
        self._sampler: _Sampler | None = None

    def __enter__(self) -> Self:
        if self.device.startswith("cuda"):
            import torch

            torch.cuda.reset_peak_memory_stats(self.device)
        if not _reset_high_water():
            self._sampler = _Sampler()
            self._sampler.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._sampler is None:
            self.result |= {"peak_rss_bytes": _status_bytes("VmHWM"), "rss_method": KERNEL}
        else:
            self.result |= {"peak_rss_bytes": self._sampler.finish(), "rss_method": SAMPLED}
            self._sampler = None
        if self.device.startswith("cuda"):
            import torch

            self.result["peak_allocated_bytes"] = int(torch.cuda.max_memory_allocated(self.device))
            self.result["peak_reserved_bytes"] = int(torch.cuda.max_memory_reserved(self.device))
            free, total = torch.cuda.mem_get_info(self.device)
            self.result["device_used_bytes"] = int(total - free)


def held_bytes(device: Any = "cpu") -> int | None:
    """Bytes held now by tensors on a CUDA device, else by the process, after idle memory was given back.

    Do not call it within a timed span: memory that was given back has to be fetched again.
    """
    if str(device).startswith("cuda"):
        import torch

        torch.cuda.empty_cache()
        return int(torch.cuda.memory_allocated(str(device)))
    import ctypes

    with contextlib.suppress(OSError, AttributeError):  # glibc only: elsewhere freed memory may stay resident
        ctypes.CDLL(None).malloc_trim(0)
    try:
        return _status_bytes("VmRSS")
    except (OSError, ValueError):
        import psutil

        return int(psutil.Process().memory_info().rss)


def attribute(
    peak: Mapping[str, Any], before: int | None, *, weights: int, head: int, cache: int | None, device: Any
) -> dict[str, Any]:
    """Split one generation's peak memory into weights, draft head, KV cache at its end, activations and the rest.

    All in bytes. peak: `PeakMemory.result` of the generation. before: `held_bytes` just before it. activation_bytes is
    what the generation took on top of that, less the cache: the largest intermediate values, the head's own KV cache,
    work space. rest_bytes was held before it and is neither weights nor head: Python and its libraries, the heads of
    other methods.
    """
    kind = "allocated" if str(device).startswith("cuda") else "rss"
    most = peak[f"peak_{kind}_bytes"]
    taken = None if most is None or before is None else max(0, most - before)
    return {
        "kind": kind, "how": peak["rss_method"] if kind == "rss" else "allocator", "peak_bytes": most,
        "weights_bytes": weights, "head_bytes": head, "cache_bytes": cache,
        "activation_bytes": None if taken is None else max(0, taken - (cache or 0)),
        "rest_bytes": None if before is None else max(0, before - weights - head),
        "reserved_bytes": peak["peak_reserved_bytes"], "device_used_bytes": peak["device_used_bytes"],
    }  # fmt: skip


def _reset_high_water() -> bool:
    """Set the kernel's high-water mark to what is resident now. False where it cannot be set or read."""
    try:
        CLEAR_REFS.write_text("5")
        # Some sandboxes accept the write and do nothing: an older peak would then be taken for this span's.
        return 0 < _status_bytes("VmHWM") <= _status_bytes("VmRSS") + RESET_TOLERANCE_BYTES
    except (OSError, ValueError):
        return False


def _status_bytes(name: str) -> int:
    for line in STATUS.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024  # "VmHWM:  123456 kB", in units of 1024 bytes
    raise ValueError(f"{STATUS} has no {name}")


class _Sampler(threading.Thread):
    """Watches resident memory every 10 ms until it is told to finish."""

    def __init__(self) -> None:
        super().__init__(name="peak-memory", daemon=True)
        import psutil

        self._process = psutil.Process()
        self._done = threading.Event()
        self.peak = self._resident()

    def run(self) -> None:
        while not self._done.wait(INTERVAL_S):
            self.peak = max(self.peak, self._resident())

    def finish(self) -> int:
        self._done.set()
        self.join()
        return max(self.peak, self._resident())

    def _resident(self) -> int:
        return int(self._process.memory_info().rss)
