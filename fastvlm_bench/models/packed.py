"""Weights that torchao packed (`--quantize int8`): tensors that say they are floating-point, and hold whole numbers."""

from typing import Any

from torch import Tensor


def packed(weight: Tensor) -> bool:
    """Whether torchao packed it. What bitsandbytes packs says of itself that it is of whole numbers."""
    return type(weight).__module__.partition(".")[0] == "torchao"


def plain(weight: Any) -> Any:
    """A weight as a plain tensor; itself where it is one."""
    return weight.dequantize() if packed(weight) else weight


def held_bytes(weight: Any) -> int:
    """The bytes that a weight takes, its scales included."""
    if not packed(weight):
        return int(weight.numel() * weight.element_size())
    parts = (getattr(weight, name) for name in weight.__tensor_flatten__()[0])
    return sum(held_bytes(part) for part in parts if isinstance(part, Tensor))
