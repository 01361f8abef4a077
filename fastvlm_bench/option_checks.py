"""Checks of options that several commands take: the line that refuses what cannot be. Without torch."""

import math
import os
import re
import tempfile
from pathlib import Path
from typing import Any

from fastvlm_bench.errors import UsageError, did_you_mean
from fastvlm_bench.models.names import SHORT_DTYPES

DTYPES = ("auto", "float32", "bfloat16", "float16")
DEVICES = ("auto", "cpu", "cuda", "cuda:N", "mps")
CHOICES = {"dtype": DTYPES, "device_map": ("auto",), "attn": ("sdpa", "eager", "flash_attention_2"),
           "quantize": ("4bit", "8bit", "int8"), "engine": ("auto", "eager", "graphs")}  # fmt: skip


def check_loading(*, device: str, **chosen: str | None) -> None:
    """UsageError unless each option of loading a model (`dtype`, `device_map`, `attn`, `quantize`) is one there is."""
    for name, value in chosen.items():
        if value is not None and value not in (allowed := CHOICES[name]):
            if name == "dtype":
                allowed = (*allowed, *SHORT_DTYPES)
            word = name.replace("_", "-")
            raise UsageError(f"unknown {word} '{value}': one of {', '.join(allowed)}{did_you_mean(value, allowed)}")
    if not re.fullmatch(r"auto|cpu|mps|cuda(:[0-9]{1,3})?", device):
        is_gpu = device.lower().startswith(("gpu", "nvidia"))
        meant = "; did you mean 'cuda'?" if is_gpu else did_you_mean(device, DEVICES)
        raise UsageError(f"unknown device '{device}': one of {', '.join(DEVICES)}{meant}")


def check_writable(folder: Path) -> None:
    """UsageError unless `folder` is, or could be made, a folder that takes files: tried, with nothing left."""
    if str(folder) == "-":
        raise UsageError("'-' is the standard output, and a folder is written: name one")
    nearest = folder.expanduser().absolute()
    while not os.path.lexists(nearest) and nearest != nearest.parent:
        nearest = nearest.parent
    if not nearest.is_dir():
        raise UsageError(f"cannot write results to {folder}: {nearest} is not a folder; choose another --out")
    try:
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise UsageError(f"cannot write results to {folder}: {error.strerror}; choose another --out") from None


def whole(name: str, value: Any, low: int, high: float = math.inf) -> None:
    """UsageError unless the option's value is a whole number within the limits, or None where that says something."""
    if value is None and name not in ("repeats", "warmup", "seed", "batch_size"):
        return
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        limits = f"{low} .. {high}" if high < math.inf else f"at least {low}"
        raise UsageError(f"--{name.replace('_', '-')} is {value}; it must be a whole number, {limits}")
