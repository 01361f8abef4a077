"""Finds the text decoder's layers in any vision-language model of `transformers`."""

from typing import Any

from torch import nn

from fastvlm_bench.errors import UsageError


def decoder_layers(model: Any) -> nn.ModuleList:
    """The longest ModuleList of the text decoder: `get_decoder()` where the model tells, without any vision part.

    BLIP-2 tells of its whole text model, which with T5 holds an encoder too, and is asked in turn.
    """
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else model
    if getattr(getattr(decoder, "config", None), "is_encoder_decoder", False) and hasattr(decoder, "get_encoder"):
        decoder = decoder.get_decoder()
    found = _longest(decoder)
    if found is None:
        raise UsageError(f"{type(model).__name__} has no list of decoder layers that can be gated; see `models`")
    return found


def vision_module(model: Any) -> nn.Module | None:
    """The image encoder, or None where it cannot be told by name; used to time it, nothing else."""
    for name, module in model.named_modules():
        if name.rsplit(".", 1)[-1] in ("vision_tower", "vision_model", "visual", "image_encoder"):
            return module
    return None


def _longest(decoder: nn.Module) -> nn.ModuleList | None:
    lists = [m for m in decoder.modules() if isinstance(m, nn.ModuleList) and len(m) > 1]
    return max(lists, key=len, default=None)
