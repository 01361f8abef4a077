"""Loads the weights of a checkpoint, and refuses one that does not fill its whole model.

`from_pretrained` gives random values to what the files lack, and drops what the class does not know, without an error.
"""

import re
import traceback
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

from fastvlm_bench.errors import UsageError
from fastvlm_bench.models.layers import decoder_layers

NAMED = 3
"""How many keys a message names; the rest is counted."""
COMPUTED = re.compile(
    r"inv_freq$|(^|\.)(position_ids|masked_bias|num_batches_tracked|_extra_state|(cos|sin)_cached)$"
    r"|\.(attn|attention|self_attn)\.bias$|\.[kqv]_scale$|(^|\.)lora_"
)
"""Names of tensors that files may hold beside the weights of a class: what the class computes itself (positions, masks,
counters), scales of a quantized KV cache, and adapters."""
NEXT_TOKEN_LAYERS = ("num_nextn_predict_layers", "mtp_num_hidden_layers", "num_mtp_layers")
"""Settings that say how many layers follow the decoder's own in the files, to predict further tokens."""


def reads_text_alone(config: Any) -> bool:
    """Whether transformers has a language model for this configuration, and none that reads images."""
    own = type(config)
    return own not in AutoModelForImageTextToText._model_mapping and own in AutoModelForCausalLM._model_mapping


def load_weights(name: str, source: str, text_alone: bool = False, **options: Any) -> tuple[Any, list[str]]:
    """The model of a checkpoint, and the keys of its files that the model does not use and need not.

    name: what the user typed. text_alone: it is a language model. options: of `from_pretrained`. UsageError, in one
    line with the count, the first keys and the remedy, where weights are missing, have another shape, or show that they
    were saved of another class.
    """
    try:
        kind = AutoModelForCausalLM if text_alone else AutoModelForImageTextToText
        loaded = kind.from_pretrained(source, output_loading_info=True, ignore_mismatched_sizes=True, **options)
    except RuntimeError as error:
        if faults := _unjoined(error):
            raise UsageError(_sentence(name, faults, "the model")) from None
        raise
    model, found = loaded
    wrong, unused = sort_unexpected(model, found["unexpected_keys"])
    faults = [
        *_missing(model, found["missing_keys"]),
        *_mismatched(found["mismatched_keys"]),
        *_listed(wrong, "of another class or configuration, which the model would leave out"),
    ]
    if faults:
        raise UsageError(_sentence(name, faults, f"a {type(model).__name__}"))
    return model, unused


def _sentence(name: str, faults: Iterable[str], what: str) -> str:
    return (
        f"the checkpoint of model '{name}' is not that of {what} as its config.json describes it: "
        f"{'; '.join(faults)}; take a complete checkpoint with its own config.json, or save it again"
    )


def _listed(keys: Iterable[str], what: str) -> Iterator[str]:
    """ "N weights WHAT (a, b, c and M more)", or nothing."""
    if names := sorted(keys):
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        yield f"{len(names)} weight{'s' * (len(names) > 1)} {what} ({', '.join(names[:NAMED])}{more})"


def _missing(model: nn.Module, keys: Iterable[str]) -> Iterator[str]:
    parameters, buffers = dict(model.named_parameters(remove_duplicate=False)), dict(model.named_buffers())
    lacking = [key for key in keys if key in parameters or not (key in buffers and computed(buffers[key]))]
    yield from _listed(lacking, "missing in its files, which would stay random")


def computed(buffer: torch.Tensor) -> bool:
    """Whether a buffer that the files lack was computed by the class, so that nothing is missing.

    Integers and booleans are positions, masks and counters. Of floating-point buffers, those that hold different values
    are frequencies or positions; those that hold one value wait for the checkpoint (running means, scales, biases).
    """
    if not buffer.is_floating_point():
        return True
    return not buffer.is_meta and buffer.numel() > 1 and bool((buffer != buffer.flatten()[0]).any())


def _mismatched(keys: Iterable[tuple[str, Any, Any]]) -> Iterator[str]:
    told = (f"{key}: {tuple(stored)} in the files, {tuple(wanted)} by config.json" for key, stored, wanted in keys)
    yield from _listed(told, "of another shape")


def _unjoined(error: RuntimeError) -> list[str]:
    """What transformers knows about weights that it could not join into one (experts), or could not tie; [] otherwise.

    Its message names no key, so the keys are read from the frames that raised it.
    """
    if isinstance(error, NotImplementedError) and "Meta tensors" in str(error):
        return ["tied weights (embeddings and LM head) of another shape"]
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    found = (getattr(frame.f_locals.get("loading_info"), "conversion_errors", None) for frame in frames)
    keys: list[str] = next((list(errors) for errors in found if errors), [])
    return list(_listed(keys, "that cannot be joined from the files: parts are missing or have another shape"))


def sort_unexpected(model: nn.Module, keys: Iterable[str]) -> tuple[list[str], list[str]]:
    """The keys of the files that the model does not know: (those that show another class, harmless leftovers).

    A key shows that the checkpoint was made for another class, or another configuration, if it belongs
    * to a part that has weights and no parts of its own: a bias of a linear layer that has none here;
    * to a layer of the text decoder, or to a layer beyond its last that is no layer for predicting further tokens;
    * to half of the layers of any other stack, or to half as many layers more than it has.
    All others are parts that the class leaves out on purpose: a pooling head, a decoder of images, a few last layers of
    an image encoder. What the class computes itself, adapters and the scales of quantized files are leftovers anywhere.
    """
    modules, buffers = dict(model.named_modules()), dict(model.named_buffers())
    quantized = getattr(getattr(model, "config", None), "quantization_config", None) is not None
    wrong: list[str] = []
    unused: list[str] = []
    stacks: dict[tuple[str, str], dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for key in sorted(keys):
        owner = _owner(key, modules)
        stack = next((name for name in _above(owner) if isinstance(modules[name], nn.ModuleList)), None)
        if key in buffers or COMPUTED.search(key) or not owner:
            unused.append(key)
        elif not quantized and not list(modules[owner].children()) and list(modules[owner].parameters()):
            wrong.append(key)
        elif stack is None:
            unused.append(key)
        else:
            index, _, rest = key[len(stack) + 1 :].partition(".")
            part = "" if stack == owner else rest  # "" for a layer that the stack lacks altogether
            stacks[stack, part][index].append(key)
    for (stack, part), layers in stacks.items():
        told = wrong if len(layers) > _harmless(model, modules[stack], layers, part) else unused
        told.extend(key for own in layers.values() for key in own)
    return wrong, unused


def _owner(key: str, modules: Mapping[str, nn.Module]) -> str:
    """The name of the deepest module of the model within which the key lies; "" for the model itself."""
    return next((name for name in _above(key) if name in modules and name != key), "")


def _above(name: str) -> Iterator[str]:
    """The name itself, then what it lies in, from the inside to the outside; without the whole model."""
    while name:
        yield name
        name = name.rpartition(".")[0]


def _harmless(model: nn.Module, stack: nn.Module, layers: Mapping[str, Any], part: str) -> float:
    """In how many layers of a stack the files may hold more than the model has."""
    count = len(list(stack.children()))
    try:
        decoder = any(stack is own for own in (decoder_layers(model),))
    except UsageError:
        decoder = False
    if not decoder:
        return (count - 1) / 2
    if part or min(map(_number, layers)) < count:
        return 0
    config: Any = getattr(model, "config", None)
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    return max((getattr(text, name, None) or 0 for name in NEXT_TOKEN_LAYERS), default=0)


def _number(index: str) -> int:
    return int(index) if index.isdigit() else 0
