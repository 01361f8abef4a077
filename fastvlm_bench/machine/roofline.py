"""`doctor --roofline`: bytes and FLOPs a second that this machine reaches in the products that decoding is made of.

Bandwidth is that of reading weights: one row times matrices that no cache holds. The peak is that of a product of two
large matrices. Both are the best of several tries, as a roofline is what passes take at the least. The operands are
random: a chip that multiplies equal numbers takes less power and clocks higher than one that decodes.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastvlm_bench.errors import UsageError
from fastvlm_bench.machine.clock import Clock
from fastvlm_bench.machine.limits import available_bytes

TRIES = 5
READ_BYTES = {"cpu": 512 << 20, "cuda": 4 << 30}
"""What a bandwidth is measured over at the least."""
CACHES, LEAST_CACHES = 16, 4
"""It is also this many times the last cache, so that nearly all of it comes from memory; and with less free memory, at
the least so many times."""
SHARE = 0.5
"""Of the free memory, which is not all taken."""
SIDE = {"cpu": 1024, "cuda": 8192}
SHORT_SIDE = 512
"""Of 16-bit products on a CPU, some of which take seconds otherwise."""
WIDTH = 4096
MATRIX_BYTES = 4 * WIDTH * WIDTH
KINDS = ("float32", "bfloat16", "float16")


def measure(device: str = "auto", threads: int | None = None, read_bytes: int | None = None) -> dict[str, Any]:
    """The entry `roofline` of `doctor --json`: `device`, `threads`, `bandwidth_bytes_per_s`, `flops_per_s` by number
    format, `memory_bytes`, and `tries`.

    `read_bytes` and `cache_bytes`: over how much bandwidth was measured, and the last cache, null where the system does
    not tell. threads: of the CPU; None leaves torch's own number. read_bytes: None takes what the cache needs.
    UsageError for a device that is not there, and for too little free memory.
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
            clock, cache = Clock(torch.device(place)), _cache(place)
            read = read_bytes or enough(READ_BYTES[kind], cache, int(_free(place) * SHARE))
            return {
                "device": torch.cuda.get_device_name(place) if kind == "cuda" else "cpu",
                "threads": torch.get_num_threads() if kind == "cpu" else None,
                "bandwidth_bytes_per_s": _bandwidth(place, clock, read),
                "read_bytes": read, "cache_bytes": cache,
                "flops_per_s": {name: _peak(place, clock, name, _side(kind, name)) for name in KINDS},
                "memory_bytes": _memory(place), "tries": TRIES,
            }  # fmt: skip
    finally:
        torch.set_num_threads(before)


def enough(least: int, cache: int | None, most: int) -> int:
    """Bytes to read: `least`, or more where the cache is large, but no more than `most`. UsageError where these are too
    few for numbers that a cache does not make better than they are."""
    wanted = max(least, CACHES * (cache or 0))
    if most < min(wanted, max(LEAST_CACHES * (cache or 0), MATRIX_BYTES)):
        raise UsageError(f"--roofline has {most / 2**20:.0f} MiB of memory to read and needs {LEAST_CACHES} times the "
                         f"cache of {(cache or 0) / 2**20:.0f} MiB; free some memory and try again")  # fmt: skip
    return min(wanted, most)


def _bandwidth(place: str, clock: Clock, read_bytes: int) -> float:
    """Bytes of weights a second, of products of one row: float32 on the CPU, 16 bits elsewhere, as they decode."""
    import torch

    dtype = torch.float32 if place == "cpu" else torch.float16
    size = torch.empty((), dtype=dtype).element_size()
    many = max(1, read_bytes // (WIDTH * WIDTH * size))
    first = _random(WIDTH, WIDTH, dtype, place)
    matrices = [first, *(first.clone() for _ in range(many - 1))]  # drawing each anew takes long on a CPU
    row = _random(1, WIDTH, dtype, place)
    seconds = _least(clock, lambda: [torch.nn.functional.linear(row, matrix) for matrix in matrices])
    return float(many * WIDTH * WIDTH * size / seconds)


def _side(kind: str, name: str) -> int:
    return min(SIDE[kind], SHORT_SIDE) if kind == "cpu" and name != "float32" else SIDE[kind]


def _peak(place: str, clock: Clock, name: str, side: int) -> float:
    """2 · side³ a product of square matrices."""
    import torch

    left, right = (_random(side, side, getattr(torch, name), place) for _ in range(2))
    return float(2 * side**3 / _least(clock, lambda: left @ right))


def _random(rows: int, columns: int, dtype: Any, place: str) -> Any:
    """Normal numbers, by a generator of their own: the program's own random state stays."""
    import torch

    draw = torch.Generator(place).manual_seed(rows * columns)
    return torch.randn(rows, columns, generator=draw, device=place).to(dtype)


def _least(clock: Clock, work: Callable[[], Any]) -> float:
    """The seconds of the fastest of several tries, after one that does not count."""
    work()
    found = []
    for _ in range(TRIES):
        began = clock.synchronised()
        work()
        found.append(clock.synchronised() - began)
    return max(min(found), 1e-9)


def _cache(place: str) -> int | None:
    """Bytes of the last cache before the memory: of a GPU its L2, of CPUs all their largest caches together."""
    import torch

    if place.startswith("cuda"):
        return int(getattr(torch.cuda.get_device_properties(place), "L2_cache_size", 0)) or None
    return cpu_cache(Path("/sys/devices/system/cpu"))


def cpu_cache(folder: Path) -> int | None:
    """The largest level's caches, each once though several CPUs share it; None where `folder` does not tell."""
    found: dict[tuple[int, str], int] = {}
    for index in folder.glob("cpu[0-9]*/cache/index*"):
        try:
            level, size, shared = ((index / name).read_text(encoding="ascii").strip()
                                   for name in ("level", "size", "shared_cpu_list"))  # fmt: skip
            found[int(level), shared] = int(size.rstrip("KMG")) << {"K": 10, "M": 20, "G": 30}.get(size[-1:], 0)
        except (OSError, ValueError):
            continue
    highest = max((level for level, _ in found), default=0)
    return sum(size for (level, _), size in found.items() if level == highest) or None


def _free(place: str) -> int:
    import torch

    if place.startswith("cuda"):
        return int(torch.cuda.mem_get_info(place)[0])
    return available_bytes()


def _memory(place: str) -> int:
    import psutil
    import torch

    if place.startswith("cuda"):
        return int(torch.cuda.get_device_properties(place).total_memory)
    return int(psutil.virtual_memory().total)
