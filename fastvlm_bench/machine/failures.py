"""Failures of one sample: which errors fail the sample alone, how its line records them, and which end the run."""

from collections.abc import Mapping
from typing import Any

import torch

from fastvlm_bench.errors import LoopFailed, NonFiniteLogits, TooLong

FAILURES = (RuntimeError, ValueError, IndexError, FloatingPointError)
"""The errors that fail one sample without ending the run."""
TOKENS = ("token_chars", "rejected_ids", "rejected_pieces")
"""What a line says of single tokens. A failed line lacks it."""


def failed(line: Mapping[str, Any], failure: str) -> dict[str, Any]:
    """The line of a failed sample: `line` with every measured field emptied, and `failure` as its error."""
    nothing = dict.fromkeys(("token_ids", "text", "stop", "ttft_s", "vision_s", "prefill_s", "decode_s", "memory"))
    kept = {key: value for key, value in line.items() if key not in TOKENS}
    return {**kept, **nothing, "rounds": [], "scores": {}, "error": failure}


def failure_text(error: Exception) -> str:
    """What a failed line says of an error: its kind and the first line of its message."""
    return f"{_kind(error)}: {(str(error).strip() or 'no message').splitlines()[0][:200]}"


def _kind(error: Exception) -> str:
    if isinstance(error, NonFiniteLogits):
        return "nan_logits"
    if isinstance(error, TooLong):
        return "too_long"
    if isinstance(error, LoopFailed):
        return "transformers"
    if device_lost(error):
        return "device_lost"
    return "out_of_memory" if out_of_memory(error) else type(error).__name__


def device_lost(error: BaseException) -> bool:
    """Whether the device failed for good, so that every later call on it fails or returns wrong numbers.

    torch's AcceleratorError means that, unless memory ran out. The message does not tell it: cuBLAS and cuDNN also
    write "CUDA error" where a single call failed.
    """
    return isinstance(error, torch.AcceleratorError) and not out_of_memory(error)


def out_of_memory(error: BaseException) -> bool:
    """Whether the device or the machine had no memory left."""
    said = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "out of memory" in said or "enough memory" in said
