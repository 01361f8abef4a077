"""`run --tensor-parallel`: one target whose matrices are divided among processes, by transformers' own plan.

Each process holds a part of the matrices of the text decoder, and the processes exchange what their parts give in each
layer, so that all have the same states and logits and choose the same tokens. The image encoder is whole in each.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, distributed, nn

from fastvlm_bench.errors import UsageError
from fastvlm_bench.models.packed import plain

PROVEN = {"llama": "LLaVA", "qwen2": "LLaVA-OneVision", "qwen2_vl_text": "Qwen2-VL", "qwen2_5_vl_text": "Qwen2.5-VL"}
"""Kinds of text decoders for which tests decode the tokens of one process in two, and a model of each."""


def check(name: str, config: Any, device: torch.device) -> None:
    """UsageError where this model cannot be divided among the processes there are, in one line that says why."""
    text, world = config.get_text_config(decoder=True), distributed.get_world_size()
    if text.model_type not in PROVEN:
        known = ", ".join(f"{kind} (as of {model})" for kind, model in PROVEN.items())
        raise UsageError(f"--tensor-parallel is not proven for text decoders of type {text.model_type}, as model "
                         f"'{name}' has; it is for {known}; spread its layers with --device-map auto")  # fmt: skip
    for field in ("num_attention_heads", "num_key_value_heads", "intermediate_size"):
        count = getattr(text, field, None)
        if count and count % world:
            raise UsageError(f"--tensor-parallel: model '{name}' has {field} {count}, which {world} processes cannot "
                             "share evenly; start as many as divide it")  # fmt: skip
    here = "cuda" if torch.cuda.is_available() else "cpu"
    if device.type != here:
        raise UsageError(f"--device {device} and --tensor-parallel: transformers divides a model over the machine's "
                         f"{here} devices; leave --device out")  # fmt: skip


def options() -> dict[str, Any]:
    """The keyword arguments of `from_pretrained` that divide the model. UsageError where transformers is too old."""
    try:
        from transformers.distributed import DistributedConfig
    except ImportError:
        raise UsageError("--tensor-parallel needs a newer transformers, with transformers.distributed: "
                         "pip install --upgrade transformers") from None  # fmt: skip
    return {"distributed_config": DistributedConfig(tp_size=distributed.get_world_size(), tp_plan="auto")}


def led(work: Callable[[], str]) -> str:
    """What the leader finds, in every process: a model that one process alone can hold is loaded by one alone."""
    holder: list[Any] = [None]
    if distributed.get_rank() == 0:
        try:
            holder = [work()]
        except Exception as error:  # told to the others, who would wait
            holder = [error]
    distributed.broadcast_object_list(holder, src=0)
    if isinstance(holder[0], Exception):
        raise holder[0]
    return str(holder[0])


def whole(parameter: Tensor) -> Tensor:
    """A parameter in full. Where processes share it, all of them must ask for it at the same time."""
    return parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter


def rejoined(module: nn.Linear) -> nn.Linear:
    """A linear layer with plain matrices, of one that is packed or of which each process holds a part (`whole`)."""
    made = nn.Linear(module.in_features, module.out_features, module.bias is not None, device="meta")
    made.weight = nn.Parameter(whole(plain(module.weight.detach())).clone())
    if module.bias is not None:
        made.bias = nn.Parameter(whole(module.bias.detach()).clone())
    return made
