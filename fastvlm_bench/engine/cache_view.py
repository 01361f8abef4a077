"""The KV cache as verification must see it, and which part of a cache grows with the text."""

import copy
from collections.abc import Collection
from typing import Any

Kind = tuple[type, bool, int | None]
"""The kind of a layer's cache: its class, whether it is fixed, its sliding window. Layers of one kind share a mask."""


def text_cache(cache: Any) -> Any:
    """The part of a cache that grows with the text. An encoder-decoder's cross-attention cache does not grow."""
    return getattr(cache, "self_attention_cache", cache)


def cache_view(cache: Any, exit_layer: int, drafted: int, fixed: Collection[int]) -> Any:
    """The cache as verification must see it: every layer as long as it was before `drafted` tokens passed.

    Masks and positions are sized from the first layers, which have grown while drafting. In the view, a layer of the
    same kind from the exit on stands in for each of them. Where there is none, a copy that is cut back does. Layers
    below the exit are skipped, so neither is ever written to. fixed: indices of layers that never grow.
    """
    layers = text_cache(cache).layers
    kinds: dict[Kind, Any] = {}
    for index in range(len(layers) - 1, exit_layer - 1, -1):
        kinds[kind(layers, index, fixed)] = layers[index]
    view = copy.copy(cache)
    below = [kinds.get(kind(layers, i, fixed)) or _cut(layers[i], drafted, i in fixed) for i in range(exit_layer)]
    if view is not (text := text_cache(view)):
        text = view.self_attention_cache = copy.copy(text)
    text.layers = below + layers[exit_layer:]
    return view


def kind(layers: list[Any], index: int, fixed: Collection[int]) -> Kind:
    """The kind of the cache layer at `index`."""
    return type(layers[index]), index in fixed, getattr(layers[index], "sliding_window", None)


def _cut(layer: Any, drafted: int, fixed: bool) -> Any:
    if fixed or not hasattr(layer, "keys") or layer.keys is None:
        return layer  # neither masks nor positions are sized from it
    layer = copy.copy(layer)
    if hasattr(layer, "conv_states"):  # a layer that attends and convolves (Inkling): `crop` changes this in place
        layer.conv_states = dict(layer.conv_states)
    layer.crop(-drafted)
    return layer
