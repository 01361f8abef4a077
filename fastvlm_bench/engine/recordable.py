"""Whether the passes of a session can be recorded, and what they may read."""

from typing import Any

import torch
from torch import Tensor

from fastvlm_bench.engine.slots import KINDS


def unfit(session: Any) -> str | None:
    """Why the passes of a session cannot be recorded; None where nothing speaks against it."""
    model = session.model
    if session.takes_several:
        return "a batch is decoded by eager: its rows move in the cache"
    if model.config.is_encoder_decoder or not hasattr(session.cache, "layers"):
        return f"{type(model).__name__} has a cache that is not of its text alone"
    if session.fixed:
        return f"{type(model).__name__} attends to its image in layers of their own"
    if len(set((getattr(model, "hf_device_map", None) or {}).values())) > 1:
        return "the model lies on several devices"
    for layer in [*session.cache.layers, *getattr(head_cache(session), "layers", ())]:
        if type(layer) not in KINDS:
            known = next(kind for kind in type(layer).__mro__ if kind.__module__.startswith("transformers"))
            return f"{type(model).__name__} keeps {known.__name__} state"
    mask = session.kwargs.get("attention_mask")
    if mask is not None and not bool(mask.all()):
        return "the prompt is padded"
    return None


def head_cache(session: Any) -> Any:
    """The cache of a gated head that has KV; None where there is none."""
    return session._gate.head_cache if session._gate is not None else None


def weights(session: Any) -> list[Tensor]:
    """All that stays as it is while the session decodes: of the target, the head and a reduced LM head."""
    gate = session._gate
    modules = [session.model, *([gate.head] if gate is not None and isinstance(gate.head, torch.nn.Module) else [])]
    reduced = vars(gate.output).values() if gate is not None and gate.output is not None else ()
    found = [one for module in modules for one in (*module.parameters(), *module.buffers())]
    return found + [one for one in reduced if isinstance(one, Tensor)]
