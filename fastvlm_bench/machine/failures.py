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


def failure_text(error: Exception) -> str:
    """What a failed line says of an error: its kind and the first line of its message."""
    return f"{_kind(error)}: {(str(error).strip() or 'no message').splitlines()[0][:200]}"


def _kind(error: Exception) -> str:
    if isinstance(error, NonFiniteLogits):
        return "nan_logits"
    if isinstance(error, TooLong):
        return "too_long"
    if device_lost(error):
        return "device_lost"
    return "out_of_memory" if out_of_memory(error) else type(error).__name__


def device_lost(error: BaseException) -> bool:
    """Whether the device failed for good: after such an error, but for want of memory, every later call fails or lies.

    cuBLAS and cuDNN say "CUDA error", too, of what harms one call alone: by torch's type, not by what is said.
    """
    return isinstance(error, torch.AcceleratorError) and not out_of_memory(error)


def out_of_memory(error: BaseException) -> bool:
    """Whether the device or the machine had no memory left."""
    said = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "out of memory" in said or "enough memory" in said
