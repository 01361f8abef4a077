"""The KV cache of a gated head: of the kinds of layer that follow its exit, and filled with the prompt."""

import copy
from typing import Any

from torch import Tensor, nn

from fastvlm_bench.engine.cache_view import text_cache
from fastvlm_bench.engine.recurrent_state import make_restorable
from fastvlm_bench.errors import UsageError


def shifted(states: Tensor) -> Tensor:
    """At each position the state of the position before, (batch, tokens, width); zeros at the first."""
    return nn.functional.pad(states, (0, 0, 1, 0))[:, :-1]


def like_cache(cache: Any, exit_layer: int, default: Any) -> Any:
    """An empty cache for the head, with the kinds of layer (full, sliding, cross-attending) that follow the exit.

    cache: the target's. Its layers from the exit on are copied before the prompt reaches them, so the copies are empty.
    default: returned where the cache has no layers, or has already seen a part of the prompt.
    """
    if hasattr(cache, "self_attention_cache"):
        own, cross = (
            like_cache(part, exit_layer, default) for part in (cache.self_attention_cache, cache.cross_attention_cache)
        )
        return type(cache)(own, cross)
    layers = getattr(cache, "layers", ())  # a DynamicCache made without a configuration gets them as they are needed
    if len(layers) <= exit_layer or _has_seen(layers[exit_layer]):
        return default
    own = copy.copy(cache)
    own.layers = copy.deepcopy(cache.layers[exit_layer:])
    own.activate_past_recording()
    make_restorable(own)
    return own


def check_seen(cache: Any, exit_layer: int, head_cache: Any) -> None:
    """UsageError where the target's cache holds tokens of an earlier turn, which the head's own cache lacks."""
    seen = [_has_seen(layer) for layer in getattr(text_cache(cache), "layers", ())[exit_layer : exit_layer + 1]]
    if any(seen) and not any(map(_has_seen, text_cache(head_cache).layers)):
        raise UsageError(
            "past_key_values hold tokens that the draft's head, which has a cache of its own, has not seen: leave them "
            "out, so that all is read again, or take a head without a cache, such as mlp"
        )


def _has_seen(layer: Any) -> bool:
    """Whether a cache layer holds anything. A layer that only convolves (LFM2) cannot be asked for its length."""
    if hasattr(layer, "get_seq_length"):
        return int(layer.get_seq_length()) > 0
    return any(getattr(layer, "is_conv_states_initialized", {}).values())
