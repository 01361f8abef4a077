"""What may go wrong with one sample: which errors fail it alone, how its line says so, which end the run."""

from collections.abc import Mapping
from typing import Any

import torch

from fastvlm_bench.errors import NonFiniteLogits, TooLong

FAILURES = (RuntimeError, ValueError, IndexError, FloatingPointError)
"""What may go wrong with one sample without ending the run."""


def failed(line: Mapping[str, Any], failure: str) -> dict[str, Any]:
    """A line of which nothing counts."""
    nothing = dict.fromkeys(("token_ids", "text", "stop", "ttft_s", "vision_s", "prefill_s", "decode_s", "memory"))
    return {**line, **nothing, "rounds": [], "scores": {}, "error": failure}


def failure_kind(error: Exception) -> str:
    """The word that a failed line begins with."""
    if isinstance(error, NonFiniteLogits):
        return "nan_logits"
    if isinstance(error, TooLong):
        return "too_long"
    if device_lost(error):
        return "device_lost"
    return "out_of_memory" if out_of_memory(error) else type(error).__name__


def device_lost(error: BaseException) -> bool:
    """Whether the device failed for good: after any CUDA error but want of memory, every later call fails or lies."""
    failed_for_good = isinstance(error, torch.AcceleratorError) or str(error).startswith("CUDA error")
    return failed_for_good and not out_of_memory(error)


def out_of_memory(error: BaseException) -> bool:
    """Whether the device or the machine had no memory left."""
    said = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "out of memory" in said or "enough memory" in said
