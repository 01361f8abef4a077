"""Peak memory of a span of code: resident memory of the process, and what torch's allocator held on a GPU.

torch and psutil are imported inside functions. Spans must not be nested: each one resets the peaks.
"""

import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Self

CLEAR_REFS, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
INTERVAL_S = 0.010
RESET_TOLERANCE_BYTES = 16 << 20
KERNEL, SAMPLED = "kernel", "sampled"
"""How the peak of resident memory was found: `kernel` is exact, `sampled` may miss peaks shorter than 10 ms."""


class PeakMemory:
    """`with PeakMemory(device) as peak: ...`, then `peak.result`. Also set when the span raises.

    result: peak_rss_bytes, the highest resident memory of this process in the span, children not counted;
    peak_allocated_bytes, the most that tensors held on the CUDA device; peak_reserved_bytes, the most that the
    allocator held there, which depends on what ran before; rss_method, "kernel" or "sampled". None: not measured.
    Linux resets the kernel's own high-water mark (5 into /proc/self/clear_refs) and reads VmHWM; elsewhere, and where
    that is forbidden, a thread samples every 10 ms.
    """

    def __init__(self, device: Any = "cpu") -> None:
        self.device = str(device)
        self.result: dict[str, Any] = dict.fromkeys(
            ("peak_rss_bytes", "peak_allocated_bytes", "peak_reserved_bytes", "rss_method")
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


def _reset_high_water() -> bool:
    """Set the kernel's high-water mark to what is resident now. False where that, or reading it, is impossible."""
    try:
        CLEAR_REFS.write_text("5")
        # Some sandboxes accept the write and do nothing: then an old peak would stand for this span's.
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
