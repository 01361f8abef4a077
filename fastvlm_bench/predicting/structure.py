"""What a model is made of, counted on the meta device: parameters, routed experts, and what its cache keeps.

The model is built from its configuration without weights, and its text decoder runs over two and over three positions
without values. So the cache's own tensors tell what a position adds (KV heads, shared KV, latent attention), what stays
(recurrent and convolution states), and where a window ends it: there are no formulas for families.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from fastvlm_bench.drafts.heads import HEADS, new_head
from fastvlm_bench.drafts.manifest import AT_THE_END, first_line
from fastvlm_bench.errors import UsageError, did_you_mean
from fastvlm_bench.models.layers import decoder_layers, output_embeddings, owner
from fastvlm_bench.models.memory_need import packed_parameters, without_weights

RAW = "none"
TOP_K = ("num_experts_per_tok", "num_experts_per_token", "top_k_experts", "moe_topk", "moe_top_k")
"""Names under which configurations say how many experts a token is given to."""


@dataclass(frozen=True)
class Weights:
    """Parameters that a pass reads. shared: every one of them at each position. routed: of all experts of a layer.

    experts, chosen: how many there are, and how many each position is given to; 0 where there are none.
    """

    shared: int
    routed: int = 0
    experts: int = 0
    chosen: int = 0

    @property
    def active(self) -> float:
        """Parameters that one position is multiplied with."""
        return self.shared + (self.routed * self.chosen / self.experts if self.experts else 0)

    def touched(self, positions: float) -> float:
        """Parameters that are read for so many positions, if the router spreads them evenly: of E experts,
        E·(1-(1-k/E)^positions)."""
        if not self.experts:
            return self.shared
        return self.shared + self.routed * (1 - (1 - self.chosen / self.experts) ** positions)


@dataclass(frozen=True)
class Layer:
    """One decoder layer. kv: elements that a position adds to its cache. read: elements a position of the context costs
    to attend to, its own or those of the layer whose KV it shares. state: elements that do not grow. window: positions
    that are kept, None for all. attention: FLOPs of one position attending to one other."""

    weights: Weights
    kv: int
    read: int
    state: int
    window: int | None
    attention: int

    def kept(self, context: float) -> float:
        """Positions of a context that the layer attends to."""
        return context if self.window is None else min(context, self.window)


@dataclass(frozen=True)
class Structure:
    """A model. beside: parameters of the text model that each pass reads beside its layers and the LM head. output: of
    the LM head. parameters: of the whole model, the vision encoder included. packed: those of them that 4bit and 8bit
    pack."""

    name: str
    layers: Sequence[Layer]
    beside: int
    output: int
    vocabulary: int
    width: int
    parameters: int
    packed: int


def count(config: Any, name: str, *, trust_remote_code: bool = False) -> tuple[Structure, Any]:
    """The structure of the model that `config` describes, and the model on the meta device.

    UsageError, in one line, where something of it cannot be known without weights.
    """
    if getattr(config, "quantization_config", None) is not None:
        config.quantization_config = None  # the shapes before packing; --quantize says how they are packed
    try:
        model = without_weights(config, trust_remote_code, dtype=torch.bfloat16)
    except Exception as error:  # some architectures compute with values while they are built
        raise UsageError(f"'{name}' ({config.model_type}) cannot be built without weights, so predict cannot count it "
                         f"({first_line(error)}); measure it by `run`") from None  # fmt: skip
    found = decoder_layers(model)
    text = config.get_text_config(decoder=True)
    try:
        caches = [_cache(owner(model, found), text, positions) for positions in (2, 3)]
    except Exception as error:  # some architectures compute with values in their passes
        raise UsageError(f"what the cache of '{name}' ({config.model_type}) keeps cannot be known without weights "
                         f"({first_line(error)}); measure it by `run`") from None  # fmt: skip
    output = output_embeddings(model)
    text_model = owner(model, found)
    inside = {id(parameter) for parameter in found.parameters()} | _looked_up(text_model)
    inside |= {id(parameter) for parameter in output.parameters()}
    return Structure(
        name=name,
        layers=_layers(found, text, caches, name),
        beside=_size(parameter for parameter in text_model.parameters() if id(parameter) not in inside),
        output=_size(output.parameters()),
        vocabulary=int(output.weight.shape[0]),
        width=int(output.weight.shape[1]),
        parameters=_size(model.parameters()),
        packed=packed_parameters(model),
    ), model


def count_head(model: Any, structure: Structure, kind: str, exit_layer: int, **options: int) -> Layer | None:
    """An imitation head at an exit as one further layer; None for the raw exit. see `check_head`."""
    if kind == RAW:
        return None
    with torch.device("meta"):
        head = new_head(kind, model, exit_layer, options)
    like = structure.layers[exit_layer : exit_layer + 1]
    depth = len(getattr(head, "layers", ())) if head.attends else 0
    own = like[0] if depth else Layer(Weights(0), 0, 0, 0, None, 0)
    text = model.config.get_text_config(decoder=True)
    return Layer(_weights(head, text, structure.name), own.kv * depth, own.read * depth, own.state * depth, own.window,
                 own.attention * depth)  # fmt: skip


def check_head(kind: str) -> None:
    """UsageError unless a head of this kind stands at an exit, or it is the raw exit."""
    if kind not in (RAW, *HEADS):
        more = f"; {kind} heads follow the last layer and run no early layers" if kind in AT_THE_END else ""
        raise UsageError(f"--head is '{kind}': one of {', '.join((RAW, *HEADS))}{more or did_you_mean(kind, HEADS)}")


def check_exits(exits: Sequence[int], structure: Structure) -> None:
    """UsageError unless each exit lies below the model's last layer, and none is named twice."""
    layers = len(structure.layers)
    for exit_layer in exits:
        if not 1 <= exit_layer < layers:
            raise UsageError(f"--exit-layer {exit_layer} is not within 1 .. {layers - 1} of '{structure.name}'")
    if len(set(exits)) != len(exits):
        raise UsageError(f"--exit-layer {','.join(map(str, exits))} names one twice; name each once")


def _layers(found: Iterable[Any], text: Any, caches: Sequence[Any], name: str) -> list[Layer]:
    small, large = ([_elements(layer) for layer in cache.layers] for cache in caches)
    heads = int(getattr(text, "num_attention_heads", 0) or 0)
    kinds = list(getattr(text, "layer_types", None) or [])
    made: list[Layer] = []
    for index, layer in enumerate(found):
        weights = _weights(layer, text, name)
        if index < len(large):
            grown = large[index] - small[index]
            state = small[index] - 2 * grown
            cached = caches[1].layers[index]
            width = _attended_width(cached, text)
            window = getattr(cached, "sliding_window", None)
            made.append(Layer(weights, grown, grown, state, window if grown else None, 2 * heads * width))
        else:  # it attends to what an earlier layer of its kind has cached
            giver = next(one for one in reversed(list(enumerate(made[: len(large)])))
                         if not kinds or kinds[one[0]] == kinds[index])[1]  # fmt: skip
            made.append(Layer(weights, 0, giver.read, 0, giver.window, giver.attention))
    return made


def _cache(text_model: Any, text: Any, positions: int) -> DynamicCache:
    """The cache after a pass over so many positions, without values."""
    with torch.device("meta"), torch.inference_mode():
        cache = DynamicCache(config=text)
        ids = torch.zeros(1, positions, dtype=torch.long)
        text_model(input_ids=ids, past_key_values=cache, use_cache=True)
    return cache


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from _tensors(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _tensors(one)


def _elements(cached: Any) -> int:
    """Elements of all tensors that one layer's cache holds for a sequence."""
    return sum(tensor.numel() for tensor in _tensors(vars(cached)) if tensor.ndim > 1)


def _attended_width(cached: Any, text: Any) -> int:
    """What a query of a head costs at a position, halved: the widths of a key and a value together; 0 where nothing is
    attended.

    Latent attention (MLA) caches the latent in the place of the key and the rotary part in that of the value. A query
    is multiplied with both, and its scores once more with the latent, which is the value.
    """
    keys, values = getattr(cached, "keys", None), getattr(cached, "values", None)
    if keys is None or values is None or keys.ndim < 2:
        return 0
    latent = int(getattr(text, "kv_lora_rank", 0) or 0)
    again = latent if latent == keys.shape[-1] and keys.shape[1] == 1 else 0
    return int(keys.shape[-1] + values.shape[-1]) + again


def _looked_up(module: nn.Module) -> set[int]:
    """The parameters of tables, of which a pass reads a row."""
    return {id(one.weight) for one in module.modules() if isinstance(one, nn.Embedding)}


def _size(parameters: Iterable[Tensor]) -> int:
    return sum({id(one): one.numel() for one in parameters}.values())


def _weights(module: nn.Module, text: Any, name: str) -> Weights:
    """The parameters of a layer, with those of its routed experts apart."""
    routed, experts = 0, 0
    for path, part in module.named_modules():
        kind = type(part).__name__
        own = path.rpartition(".")[2] == "experts" or kind.endswith("Experts")
        if own and "Shared" not in kind and not routed:
            routed = _size(part.parameters())
            fused = [parameter.shape[0] for parameter in part.parameters(recurse=False) if parameter.ndim == 3]
            experts = int(fused[0]) if fused else len(list(part.children()))
    total = _size(one for one in module.parameters() if id(one) not in _looked_up(module))
    if not routed:
        return Weights(total)
    chosen = next((value for key in TOP_K if isinstance(value := getattr(text, key, None), int) and value > 0), None)
    if chosen is None or not experts:
        raise UsageError(f"how many of the experts of '{name}' read a token is not told by its configuration "
                         f"({', '.join(TOP_K)}); measure it by `run`")  # fmt: skip
    return Weights(total - routed, routed, experts, min(chosen, experts))
