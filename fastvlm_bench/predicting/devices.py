"""The devices that `predict` knows, by their makers' data sheets, and devices that a user describes. Without torch."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastvlm_bench.errors import UsageError, did_you_mean

MEASURED = "measured:"
BFLOAT16, FLOAT16, FLOAT32 = "bfloat16", "float16", "float32"
KINDS = (BFLOAT16, FLOAT16, FLOAT32)
LEAST, MOST = 1e-6, 1e9
"""Of --bandwidth, --tflops and --memory in their units: what is beyond is a slip of the hand."""
LEAST_MEASURED, MOST_MEASURED = 1, 1e21
"""Of bytes, and of bytes and FLOPs a second."""
UNCHECKED = "; not checked against it"
"""Ends the source of a device whose numbers were not compared with that source; docs/predict.md says what it means."""


@dataclass(frozen=True)
class Device:
    """One device. bandwidth: bytes a second of its memory. flops: dense products a second, times two, by number format.

    memory_bytes: what holds weights and KV; None where it is not known. source: where the numbers are from.
    """

    name: str
    bandwidth: float
    flops: Mapping[str, float]
    memory_bytes: float | None
    source: str
    title: str = field(default="")


def _sheet(
    name: str, title: str, tb_s: float, half_tflops: float, float32_tflops: float, gb: float, source: str,
    bfloat16: bool = True, checked: bool = True,
) -> Device:  # fmt: skip
    half = half_tflops * 1e12
    own = {FLOAT16: half, FLOAT32: float32_tflops * 1e12, **({BFLOAT16: half} if bfloat16 else {})}
    return Device(name, tb_s * 1e12, own, gb * 1e9, source if checked else source + UNCHECKED, title)


DEVICES = {
    device.name: device
    for device in (
        _sheet("h100", "NVIDIA H100 SXM", 3.35, 989.4, 67, 80, "NVIDIA H100 Tensor Core GPU data sheet"),
        _sheet("h100-pcie", "NVIDIA H100 PCIe", 2.0, 756, 51, 80, "NVIDIA H100 Tensor Core GPU data sheet"),
        _sheet("h200", "NVIDIA H200 SXM", 4.8, 989.4, 67, 141, "NVIDIA H200 Tensor Core GPU data sheet"),
        _sheet("b200", "NVIDIA B200 SXM", 8.0, 2250, 75, 180, "NVIDIA DGX B200 data sheet, an eighth of the system",
               checked=False),
        _sheet("a100", "NVIDIA A100 80GB SXM", 2.039, 312, 19.5, 80, "NVIDIA A100 Tensor Core GPU data sheet"),
        _sheet("a100-40gb", "NVIDIA A100 40GB", 1.555, 312, 19.5, 40, "NVIDIA A100 Tensor Core GPU data sheet"),
        _sheet("l40s", "NVIDIA L40S", 0.864, 362.05, 91.6, 48, "NVIDIA L40S data sheet"),
        _sheet("l4", "NVIDIA L4", 0.300, 121, 30.3, 24, "NVIDIA L4 Tensor Core GPU data sheet"),
        _sheet("a10", "NVIDIA A10", 0.600, 125, 31.2, 24, "NVIDIA A10 Tensor Core GPU data sheet",
               checked=False),
        _sheet("rtx4090", "NVIDIA GeForce RTX 4090", 1.008, 165.2, 82.6, 24,
               "NVIDIA Ada GPU architecture white paper, products of 16 bits summed in 32", checked=False),
        _sheet("rtx3090", "NVIDIA GeForce RTX 3090", 0.936, 71, 35.6, 24,
               "NVIDIA Ampere GA102 GPU architecture white paper, products of 16 bits summed in 32", checked=False),
        _sheet("v100", "NVIDIA V100 SXM2 32GB", 0.900, 125, 15.7, 32, "NVIDIA V100 Tensor Core GPU data sheet",
               bfloat16=False, checked=False),
        _sheet("t4", "NVIDIA T4", 0.300, 65, 8.1, 16, "NVIDIA T4 Tensor Core GPU data sheet", bfloat16=False,
               checked=False),
        _sheet("mi300x", "AMD Instinct MI300X", 5.3, 1307.4, 163.4, 192, "AMD Instinct MI300X data sheet",
               checked=False),
    )
}  # fmt: skip
"""Peaks without sparsity, in the maker's units: 1 TB/s = 10¹² bytes a second, 1 GB = 10⁹ bytes. No TF32."""


def find_device(
    name: str, *, bandwidth_gbs: float | None = None, tflops: float | None = None, memory_gb: float | None = None,
) -> Device:  # fmt: skip
    """The device that a user names, with the user's own numbers in the place of those of the table.

    name: one of DEVICES, `measured:FILE` as `doctor --roofline --json` prints it, or any name where bandwidth and
    FLOP/s are given. bandwidth_gbs: 10⁹ bytes a second. tflops: 10¹² a second, for every number format. UsageError for
    an unknown device, which lists the known ones, and for numbers that are not above 0.
    """
    for option, value in (("bandwidth", bandwidth_gbs), ("tflops", tflops), ("memory", memory_gb)):
        if value is not None and not LEAST < value < MOST:
            raise UsageError(f"--{option} is {value:g}; it must be above {LEAST:f} and below {MOST:g}")
    if not name.strip():
        raise UsageError(f"--device is empty; give one of {', '.join(DEVICES)}, {MEASURED}FILE, or a name of your own "
                         "with --bandwidth GB/s and --tflops N")  # fmt: skip
    if name.startswith(MEASURED):
        known: Device | None = _measured(Path(name.removeprefix(MEASURED)))
    else:
        known = DEVICES.get(name.lower().replace("_", "-"))
    if known is None and (bandwidth_gbs is None or tflops is None):
        raise UsageError(f"unknown device '{name}': one of {', '.join(DEVICES)}{did_you_mean(name, DEVICES)}; or give "
                         "its numbers by --bandwidth GB/s, --tflops N and --memory GB, or measure this machine by "
                         "doctor --roofline --json > FILE and name it as measured:FILE")  # fmt: skip
    base = known or Device(name, 0.0, {}, None, "", name)
    given = [option for option, value in (("--bandwidth", bandwidth_gbs), ("--tflops", tflops), ("--memory", memory_gb))
             if value is not None]  # fmt: skip
    said = f"{', '.join(given)} as given" if given else ""
    return Device(
        base.name,
        bandwidth_gbs * 1e9 if bandwidth_gbs is not None else base.bandwidth,
        dict.fromkeys(KINDS, tflops * 1e12) if tflops is not None else base.flops,
        memory_gb * 1e9 if memory_gb is not None else base.memory_bytes,
        "; ".join(part for part in (base.source, said) if part),
        base.title,
    )


def _measured(path: Path) -> Device:
    """The machine that a file of `doctor --roofline --json` describes; UsageError for any other file."""
    remedy = "write it by fastvlm-bench doctor --roofline --json > FILE"
    try:
        found: Any = json.loads(path.expanduser().read_text(encoding="utf-8"))["roofline"]
        name, told, memory = found["device"], found["flops_per_s"], found.get("memory_bytes")
        bandwidth = found["bandwidth_bytes_per_s"]
        flops = {kind: told[kind] for kind in KINDS if kind in told}
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}; {remedy}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError):  # RecursionError, and a ~ of nobody
        raise UsageError(f"{path} is no measurement of a machine; {remedy}") from None
    if not isinstance(name, str) or not flops:
        raise UsageError(f"{path} is no measurement of a machine: it needs a name as device, and flops_per_s of at "
                         f"least one of {', '.join(KINDS)}; {remedy}")  # fmt: skip
    numbers = {"bandwidth_bytes_per_s": bandwidth, **{f"flops_per_s of {kind}": value for kind, value in flops.items()},
               **({} if memory is None else {"memory_bytes": memory})}  # fmt: skip
    for key, value in numbers.items():
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not (
                LEAST_MEASURED < value < MOST_MEASURED  # which NaN is not
            )
        ):
            raise UsageError(f"{path}: {key} is {repr(value)[:40]}; it must be a number above {LEAST_MEASURED} and "
                             f"below {MOST_MEASURED:g}; {remedy}")  # fmt: skip
    return Device(name, float(bandwidth), {kind: float(value) for kind, value in flops.items()},
                  None if memory is None else float(memory), "measured by doctor --roofline", name)  # fmt: skip
