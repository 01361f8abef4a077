"""Compares the memory that a model's weights need, known from its configuration alone, with what is free."""

from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

from fastvlm_bench.errors import UsageError
from fastvlm_bench.machine.limits import available_bytes
from fastvlm_bench.models.layers import output_embeddings
from fastvlm_bench.models.whole import reads_text_alone

BITS = {"4bit": 4.5, "8bit": 8.5, "int8": 8.5}  # of a weight, its share of its block's scale included
GIB = 1 << 30


def free_bytes(device: torch.device) -> int:
    """Free bytes on `device`, within the container's limit. Apple's GPU shares the machine's memory."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return available_bytes()


def weight_bytes(config: Any, dtype: Any, quantize: str | None, trust_remote_code: bool = False) -> int | None:
    """Bytes of the weights of the model that `config` describes; None where it cannot be built without weights.

    dtype: a torch dtype, or "auto" for the checkpoint's own.
    """
    try:
        model = without_weights(config, trust_remote_code)
        packed = packed_parameters(model) if quantize else 0
    except Exception:  # some architectures compute with values while they are built
        return None
    kind = dtype if isinstance(dtype, torch.dtype) else getattr(config, "dtype", None) or torch.float32
    parameters, element = sum(p.numel() for p in model.parameters()), torch.empty((), dtype=kind).element_size()
    return int(held_bytes(parameters, packed, element, BITS.get(quantize or "", 0)))


def held_bytes(parameters: int, packed: int, element_bytes: float, bits: float) -> float:
    """Bytes of so many parameters, of which `packed` ones take so many bits each, and the others whole elements."""
    return packed * bits / 8 + (parameters - packed) * element_bytes


def packed_parameters(model: nn.Module) -> int:
    """How many of a model's parameters 4bit and 8bit pack, each counted once: the weights of linear layers, the image
    encoder's too, and of routed experts. The LM head, embeddings, norms, biases and convolutions stay as they are."""
    kept = {id(parameter) for parameter in output_embeddings(model).parameters()}
    packed: dict[int, int] = {}
    for module in model.modules():
        fused = "Experts" in type(module).__name__
        for parameter in module.parameters(recurse=False):
            linear = isinstance(module, nn.Linear) and parameter.ndim == 2
            if id(parameter) not in kept and (linear or (fused and parameter.ndim == 3)):
                packed[id(parameter)] = parameter.numel()
    return sum(packed.values())


def without_weights(config: Any, trust_remote_code: bool = False, **options: Any) -> Any:
    """The model that `config` describes, on the meta device: shapes alone. Raises what building it raises."""
    with torch.device("meta"):
        kind = AutoModelForCausalLM if reads_text_alone(config) else AutoModelForImageTextToText
        return kind.from_config(config, trust_remote_code=trust_remote_code, **options)


def check_room(
    config: Any, name: str, dtype: Any, quantize: str | None, device: torch.device, trust_remote_code: bool
) -> None:
    """UsageError where the weights alone need more than is free on the device."""
    need, free = weight_bytes(config, dtype, quantize, trust_remote_code), free_bytes(device)
    if need is not None and need > free:
        raise UsageError(
            f"the weights of model '{name}' take {need / GIB:.1f} GiB and {free / GIB:.1f} GiB are free on {device}: "
            "try --dtype bfloat16, --quantize 4bit or --device-map auto"
        )
