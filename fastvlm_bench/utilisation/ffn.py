"""Finds the FFN of each decoder layer, in whatever family: the matrix that leads from its neurons back to the states.

It is a linear map onto the width of the states. Beside it lies one from that width to as many neurons, or to twice as
many where gate and value are one matrix. What mixes tokens (attention, convolutions, recurrences) has maps of the same
shapes, and is told by the names of its classes.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from fastvlm_bench.errors import UsageError
from fastvlm_bench.models.layers import decoder_layers, output_embeddings
from fastvlm_bench.models.packed import packed

MIXES = re.compile(r"attention|attn|mamba|delta|conv|mixer|recurren|lru|ssm|router|adapter|lora", re.IGNORECASE)


def down_projections(model: Any) -> list[nn.Linear]:
    """For each decoder layer the matrix from its neurons to the states, (width, neurons).

    UsageError where a layer has none, or several (experts), where it is packed (`--quantize`), or where the states are
    not what enters the LM head.
    """
    found, name, width = [], type(model).__name__, output_embeddings(model).in_features
    for number, layer in enumerate(decoder_layers(model)):
        own = list(dict.fromkeys(_maps_down(layer, width)))
        if len(own) != 1 or _has_packed_experts(layer):
            count = len(own) if len(own) > 1 else "packed"
            what = f"{count} FFNs (experts, each of which reads only some tokens)" if own else (
                f"no FFN that is a linear map onto its {width} states")  # fmt: skip
            raise UsageError(f"the utilisation of {name} cannot be told: its layer {number} has {what}; choose a model "
                             "with one FFN in each layer")  # fmt: skip
        if packed(own[0].weight) or not own[0].weight.is_floating_point():
            raise UsageError(f"the utilisation of {name} cannot be told from packed weights; leave --quantize out")
        found.append(own[0])
    return found


def _maps_down(module: nn.Module, width: int) -> Iterator[nn.Linear]:
    """The maps onto `width` below a module that have a map up beside them."""
    linear = [child for child in module.children() if isinstance(child, nn.Linear)]
    for child in linear:
        if child.out_features == width and _fed(child, [other for other in linear if other is not child], width):
            yield child
    for part in module.children():
        if not isinstance(part, nn.Linear) and not MIXES.search(type(part).__name__):
            yield from _maps_down(part, width)


def _has_packed_experts(layer: nn.Module) -> bool:
    """Whether many experts lie in one tensor of three dimensions, beside a shared one that would be found alone."""
    parts = [part for part in layer.modules() if not MIXES.search(type(part).__name__)]
    return any(own.ndim == 3 for part in parts for own in part.parameters(recurse=False))


def _fed(down: nn.Linear, others: Sequence[nn.Linear], width: int) -> bool:
    neurons = down.in_features
    return any(other.in_features == width and other.out_features in (neurons, 2 * neurons) for other in others)


def directions(model: Any, tokens: Sequence[int]) -> Tensor:
    """(tokens, width): the LM head's row of each token, float32: in which direction states say it."""
    weight = output_embeddings(model).weight
    if packed(weight) or not weight.is_floating_point():
        raise UsageError("the utilisation cannot be told from a packed LM head; leave --quantize out")
    return weight.detach()[list(tokens)].float()
