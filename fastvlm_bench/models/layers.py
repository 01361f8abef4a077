"""Finds the text decoder's layers in any vision-language model of `transformers`, and replaces modules' `forward`."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from fastvlm_bench.errors import UsageError


def decoder_layers(model: Any) -> nn.ModuleList:
    """The layers of the text decoder: the longest ModuleList in what `get_decoder()` returns, or else in the model.

    A list within an entry of another list, as a layer's experts are, is no list of layers, however long it is.
    BLIP-2 returns its whole text model, which has an encoder, too, if it is T5: such a model's own `get_decoder()` is
    called in turn. UsageError if there is no such list.
    """
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else model
    if getattr(getattr(decoder, "config", None), "is_encoder_decoder", False) and hasattr(decoder, "get_encoder"):
        decoder = decoder.get_decoder()
    found = _longest(decoder)
    if found is None:
        raise UsageError(f"{type(model).__name__} has no list of decoder layers that can be gated; see `models`")
    return found


def owner(model: Any, layers: nn.ModuleList) -> Any:
    """The text model that runs these layers, and whose output is the state after its final norm."""
    return next(module for module in model.modules() if any(child is layers for child in module.children()))


def output_embeddings(model: Any) -> Any:
    """The LM head, of the model or else of one of its children, as in Nemotron-H Omni. UsageError if there is none."""
    for module in (model, *model.children()):
        if hasattr(module, "get_output_embeddings") and (found := module.get_output_embeddings()) is not None:
            return found
    raise UsageError(f"{type(model).__name__} has no LM head that can be found; see `models`")


def vocabulary(model: Any) -> int:
    """How many token ids the LM head has; by the configuration where the model does not return its LM head (BLIP)."""
    output = model.get_output_embeddings()
    if output is not None and getattr(output, "weight", None) is not None:
        return int(output.weight.shape[0])
    return int(model.config.get_text_config(decoder=True).vocab_size)


def vision_module(model: Any) -> nn.Module | None:
    """The image encoder, or None where no module has one of its usual names. It is used for timing only."""
    for name, module in model.named_modules():
        if name.rsplit(".", 1)[-1] in ("vision_tower", "vision_model", "visual", "image_encoder"):
            return module
    return None


def _longest(decoder: nn.Module) -> nn.ModuleList | None:
    return max(_outermost(decoder), key=len, default=None)


def _outermost(module: nn.Module) -> Iterator[nn.ModuleList]:
    """The lists of several modules within a module that lie in no other such list, in its order."""
    for child in module.children():
        if isinstance(child, nn.ModuleList) and len(child) > 1:
            yield child
        else:
            yield from _outermost(child)


@contextmanager
def replaced(forwards: Iterable[tuple[nn.Module, Callable[..., Any]]]) -> Iterator[None]:
    """Give each module another `forward` within the block, and restore its own exactly afterwards."""
    before = []
    try:
        for module, forward in forwards:
            before.append((module, module.__dict__.get("forward")))  # not None where accelerate has hooked it
            module.forward = forward
        yield
    finally:
        for module, own in before:
            if own is None:
                del module.forward
            else:
                module.forward = own
