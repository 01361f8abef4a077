"""A KV cache that stays where it is: each token has its slot, and rolling back is to start earlier.

Keys and values lie in buffers of a fixed size. `Slots.start` says at which slot the next pass begins to write. It is
the number of tokens before that pass, for every layer and for a head that has KV of its own. So to forget rejected
drafts nothing is done: the next pass starts before them and writes over them, and the causal mask, which is made from
`start` as well, hides what is beyond.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import CacheLayerMixin, DynamicLayer, DynamicSlidingWindowLayer

KINDS = (DynamicLayer, DynamicSlidingWindowLayer)
"""The kinds of cache layer whose keys and values can be given slots. Recurrent states and convolutions have none."""


class Slots:
    """Where a pass writes. capacity: how many slots there are. start: a tensor, so that a recorded pass reads it anew.

    columns: the slots of the pass that runs, (k,); made by `open`. In a batch of `rows` every row has slots of its own
    from the first on, whatever its length: then start is (rows,), and columns (rows that go on, k).
    """

    def __init__(self, capacity: int, device: torch.device, rows: int | None = None) -> None:
        self.capacity, self.rows = capacity, rows
        self.start = torch.zeros(() if rows is None else rows, dtype=torch.long, device=device)
        self.columns = self.start[None]

    def begin(self, starts: Sequence[int]) -> None:
        """The next pass begins at these slots: of the only sequence, or one for each row that goes on."""
        self.rows = None if self.rows is None else len(starts)
        with torch.inference_mode():
            if self.rows is None:
                self.start.fill_(starts[0])
            else:
                self.start[: self.rows] = torch.tensor(starts, device=self.start.device)

    def open(self, count: int) -> None:
        """A pass over `count` tokens begins. This is a part of the pass, and is recorded with it."""
        start = self.start if self.rows is None else self.start[: self.rows, None]
        self.columns = start + torch.arange(count, device=self.start.device)

    def mask(self, dtype: torch.dtype) -> Tensor:
        """(rows that go on, 1, k, slots), to be added to the attention's logits: a column reads what is not after it.

        transformers makes masks for rows that end in the same column, which those of a batch do not in their slots.
        """
        seen = torch.arange(self.capacity, device=self.start.device) <= self.columns[:, None, :, None]
        zero = torch.zeros((), dtype=dtype, device=self.start.device)
        return torch.where(seen, zero, torch.finfo(dtype).min)


class Taken(DynamicLayer):
    """What the slots of a layer hold that are taken. A pass's mask is as wide as all of them."""


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

    def fill_rows(self, layer: DynamicLayer, lengths: Sequence[int]) -> None:
        """As `fill` for a batch, whose rows end in the last column of `layer`: each begins in its first slot."""
        assert layer.keys is not None and layer.values is not None
        rows, _, width, _ = layer.keys.shape
        first = width - torch.tensor(lengths, device=self.device)
        index = (first[:, None] + torch.arange(width, device=self.device)).clamp_max(width - 1)[:, None, :, None]
        for own, kept in ((self.keys, layer.keys), (self.values, layer.values)):
            own[:rows, :, :width] = kept.gather(2, index.expand_as(kept))
            own[:rows, :, width:] = 0  # a NaN there would reach the output through the mask

    def keep_rows(self, rows: Tensor) -> None:
        """Of a batch keep these rows, (n,), in this order: they become the first ones."""
        for states in (self.keys, self.values):
            states[: len(rows)] = states.index_select(0, rows)

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write the pass's keys and values to its slots. Returns all slots."""
        if (rows := self.slots.rows) is not None:
            place = self.slots.columns[:, None, :, None]
            self.keys[:rows].scatter_(2, place.expand_as(key_states), key_states)
            self.values[:rows].scatter_(2, place.expand_as(value_states), value_states)
            return self.keys[:rows], self.values[:rows]
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

    def as_growing(self, count: int) -> "Taken":
        """A growing layer with the same tensors: of the tokens before the latest pass, and of the `count` of that."""
        end, layer = int(self.slots.start) + count, Taken()
        layer.lazy_initialization(self.keys, self.values)
        layer.keys, layer.values = self.keys[:, :, :end], self.values[:, :, :end]
        return layer

    def keep_columns(self, before: int, columns: Tensor) -> None:
        """Of the columns after the first `before` tokens keep these, (k,), in this order. What is beyond is free."""
        with torch.inference_mode():  # in which the slots were made
            for states in (self.keys, self.values):
                states[:, :, before : before + len(columns)] = states.index_select(2, columns + before)

    def crop(self, tokens_to_remove: int) -> None:
        """Nothing is to be done: the next pass starts before the tokens that are removed."""


def seen(layer: Any) -> int:
    """How many tokens a layer of a growing cache has read."""
    return int(layer.get_seq_length())
