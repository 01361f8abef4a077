"""Whether the passes of a session can be recorded, and what they may read."""

from typing import Any

import torch
from torch import Tensor

from fastvlm_bench.engine.slots import KINDS
from fastvlm_bench.models.layers import decoder_layers
from fastvlm_bench.models.own_masks import refuses_own_masks


def unfit(session: Any, method: Any) -> str | None:
    """Why the passes of a session cannot be recorded; None where nothing speaks against it."""
    model, several = session.model, session.takes_several
    if several and not method.takes_recorded_batches:
        return f"{type(method).__name__} decodes a batch by eager: it reads all rows at the same length"
    if several and (fault := refuses_own_masks(model)):
        return f"{type(model).__name__} takes no mask for rows of different lengths ({fault})"
    if model.config.is_encoder_decoder or not hasattr(session.cache, "layers"):
        return f"{type(model).__name__} has a cache that is not of its text alone"
    if session.fixed:
        return f"{type(model).__name__} attends to its image in layers of their own"
    if len(set((getattr(model, "hf_device_map", None) or {}).values())) > 1:
        return "the model lies on several devices"
    for layer in [*session.cache.layers, *(one for cache in head_caches(session) for one in cache.layers)]:
        if type(layer) not in KINDS:
            known = next(kind for kind in type(layer).__mro__ if kind.__module__.startswith("transformers"))
            return f"{type(model).__name__} keeps {known.__name__} state"
    mask = session.kwargs.get("attention_mask")
    if not several and mask is not None and not bool(mask.all()):
        return "the prompt is padded"
    return None


def hidden(session: Any, method: Any) -> str | None:
    """Why a method's passes would be repeated without what it does in them; None where it says all of it.

    Hooks run, and replaced `forward`s decide, only when a module is called. So what hooks take must be in `carriers`,
    and what replaced `forward`s decide by, in `pass_key`.
    """
    parts = [part for layer in decoder_layers(session.model) for part in layer.modules()]
    hooked = any(part._forward_hooks or part._forward_pre_hooks for part in parts)
    if hooked and len(method.carriers()) <= (method.gate is not None):
        return f"{type(method).__name__} has hooks on the layers, and no carrier of what they take"
    gated = any("forward" in vars(part) and not hasattr(part, "_hf_hook") for part in parts)
    if gated and method.gate is None and not method.keys_passes:
        return f"{type(method).__name__} replaces parts of the layers, and has no pass_key of its own"
    return None


def head_caches(session: Any) -> list[Any]:
    """The caches of gated heads that have KV."""
    return session._gate.head_caches if session._gate is not None else []


def weights(session: Any) -> list[Tensor]:
    """All that stays as it is while the session decodes: of the target, of heads and of reduced LM heads."""
    gate = session._gate
    modules, found = [session.model], list[Tensor]()
    for head, output in gate.drafts if gate is not None else ():
        modules += [head] if isinstance(head, torch.nn.Module) else []
        found += [one for one in vars(output).values() if isinstance(one, Tensor)] if output is not None else []
    return found + [one for module in modules for one in (*module.parameters(), *module.buffers())]
