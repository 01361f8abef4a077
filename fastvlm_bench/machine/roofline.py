"""`doctor --roofline`: bytes and FLOPs a second that this machine reaches in the products that decoding is made of.

Bandwidth is that of reading weights: one row times matrices that no cache holds. The peak is that of a product of two
large matrices. Both are the best of several tries, as a roofline is what passes take at the least.
"""

from collections.abc import Callable
from typing import Any

from fastvlm_bench.errors import UsageError
from fastvlm_bench.machine.clock import Clock

TRIES = 5
READ_BYTES = {"cpu": 512 << 20, "cuda": 4 << 30}
"""What a bandwidth is measured over: several times what caches hold."""
SIDE = {"cpu": 1024, "cuda": 8192}
SHORT_SIDE = 512
"""Of 16-bit products on a CPU, some of which take seconds otherwise."""
WIDTH = 4096
KINDS = ("float32", "bfloat16", "float16")


def measure(device: str = "auto", threads: int | None = None, read_bytes: int | None = None) -> dict[str, Any]:
    """The entry `roofline` of `doctor --json`: `device`, `threads`, `bandwidth_bytes_per_s`, `flops_per_s` by number
    format, `memory_bytes`, and `tries`.

    threads: of the CPU; None leaves torch's own number. UsageError for a device that is not there.
    """
    import torch

    before = torch.get_num_threads()
    place = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    kind = place.partition(":")[0]
    if kind not in SIDE or (kind == "cuda" and not torch.cuda.is_available()):
        raise UsageError(f"--roofline measures cpu or cuda, and device '{device}' is not available here")
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        with torch.inference_mode():
            clock = Clock(torch.device(place))
            return {
                "device": torch.cuda.get_device_name(place) if kind == "cuda" else "cpu",
                "threads": torch.get_num_threads() if kind == "cpu" else None,
                "bandwidth_bytes_per_s": _bandwidth(place, clock, read_bytes or READ_BYTES[kind]),
                "flops_per_s": {name: _peak(place, clock, name, _side(kind, name)) for name in KINDS},
                "memory_bytes": _memory(place), "tries": TRIES,
            }  # fmt: skip
    finally:
        torch.set_num_threads(before)


def _bandwidth(place: str, clock: Clock, read_bytes: int) -> float:
    """Bytes of weights a second, of products of one row: float32 on the CPU, 16 bits elsewhere, as they decode."""
    import torch

    dtype = torch.float32 if place == "cpu" else torch.float16
    size = torch.empty((), dtype=dtype).element_size()
    many = max(1, read_bytes // (WIDTH * WIDTH * size))
    matrices = [torch.ones(WIDTH, WIDTH, dtype=dtype, device=place) for _ in range(many)]
    row = torch.ones(1, WIDTH, dtype=dtype, device=place)
    seconds = _least(clock, lambda: [torch.nn.functional.linear(row, matrix) for matrix in matrices])
    return float(many * WIDTH * WIDTH * size / seconds)


def _side(kind: str, name: str) -> int:
    return min(SIDE[kind], SHORT_SIDE) if kind == "cpu" and name != "float32" else SIDE[kind]


def _peak(place: str, clock: Clock, name: str, side: int) -> float:
    """2 · side³ a product of square matrices."""
    import torch

    left, right = (torch.ones(side, side, dtype=getattr(torch, name), device=place) for _ in range(2))
    return float(2 * side**3 / _least(clock, lambda: left @ right))


def _least(clock: Clock, work: Callable[[], Any]) -> float:
    """The seconds of the fastest of several tries, after one that does not count."""
    work()
    found = []
    for _ in range(TRIES):
        began = clock.synchronised()
        work()
        found.append(clock.synchronised() - began)
    return max(min(found), 1e-9)


def _memory(place: str) -> int:
    import psutil
    import torch

    if place.startswith("cuda"):
        return int(torch.cuda.get_device_properties(place).total_memory)
    return int(psutil.virtual_memory().total)
