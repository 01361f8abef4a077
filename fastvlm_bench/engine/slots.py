"""A KV cache that stays where it is: each token has its slot, and rolling back is to start earlier.

Keys and values lie in buffers of a fixed size. `Slots.start` says at which slot the next pass begins to write. It is
the number of tokens before that pass, for every layer and for a head that has KV of its own. So to forget rejected
drafts nothing is done: the next pass starts before them and writes over them, and the causal mask, which is made from
`start` as well, hides what is beyond.
"""

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import CacheLayerMixin, DynamicLayer, DynamicSlidingWindowLayer

KINDS = (DynamicLayer, DynamicSlidingWindowLayer)
"""The kinds of cache layer whose keys and values can be given slots. Recurrent states and convolutions have none."""


class Slots:
    """Where a pass writes. capacity: how many slots there are. start: a tensor, so that a recorded pass reads it anew.

    columns: the slots of the pass that runs, (k,); made by `open`.
    """

    def __init__(self, capacity: int, device: torch.device) -> None:
        self.capacity = capacity
        self.start = torch.zeros((), dtype=torch.long, device=device)
        self.columns = self.start[None]

    def open(self, count: int) -> None:
        """A pass over `count` tokens begins. This is a part of the pass, and is recorded with it."""
        self.columns = self.start + torch.arange(count, device=self.start.device)


class SlotLayer(CacheLayerMixin):
    """One layer's keys and values, (rows, heads, capacity, width), with the slots of `slots`.

    like: the layer that has read the prompt. A sliding window becomes a part of the mask alone.
    """

    is_compileable = True  # transformers then makes every mask of the buffers' size, from `start`
    is_croppable = True

    def __init__(self, slots: Slots, like: DynamicLayer) -> None:
        super().__init__()
        assert like.keys is not None and like.values is not None
        self.slots = slots
        self.is_sliding = isinstance(like, DynamicSlidingWindowLayer)
        self.sliding_window = getattr(like, "sliding_window", None)
        self.dtype, self.device = like.keys.dtype, like.keys.device
        self.keys, self.values = (
            states.new_zeros(*states.shape[:2], slots.capacity, states.shape[-1]) for states in (like.keys, like.values)
        )
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        raise RuntimeError("slots are made from a layer that has read the prompt")

    def fill(self, layer: DynamicLayer, length: int) -> None:
        """Take over what a layer has kept of `length` tokens: all of them, or a window. What follows is zeros."""
        assert layer.keys is not None and layer.values is not None
        first = length - layer.keys.shape[-2]
        for own, kept in ((self.keys, layer.keys), (self.values, layer.values)):
            own[:, :, first:length].copy_(kept)
            own[:, :, length:].zero_()  # a NaN there would reach the output through the mask

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write the pass's keys and values to its slots. Returns all slots."""
        self.keys.index_copy_(2, self.slots.columns, key_states)
        self.values.index_copy_(2, self.slots.columns, value_states)
        return self.keys, self.values

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.slots.capacity, 0

    def get_seq_length(self) -> Tensor:
        """How many tokens were there before the pass that runs."""
        return self.slots.start

    def get_max_length(self) -> int:
        return self.slots.capacity

    def crop(self, tokens_to_remove: int) -> None:
        """Nothing is to be done: the next pass starts before the tokens that are removed."""


def seen(layer: Any) -> int:
    """How many tokens a layer of a growing cache has read."""
    return int(layer.get_seq_length())
