"""Rolls back each row of a rectangular KV cache: moves it right until its last kept token is in the last column.

The rows of a batch accept different numbers of drafted tokens. After each round the caches are gathered along the
sequence, so that the batch looks like a left-padded prompt again: it has no holes, and a distance in columns is a
distance in positions. So sliding windows and chunked attention stay right, which a mask with holes would not ensure,
and transformers' own code for left padding does the rest. `DynamicCache` copies itself at each append, so one more
copy per round costs little. The same copy drops finished rows, and columns that no row needs any more.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from fastvlm_bench.errors import UsageError

KINDS = (DynamicLayer, DynamicSlidingWindowLayer)
"""The kinds of cache layer that can be moved row by row. Convolutions and recurrent states cannot."""


@dataclass
class Move:
    """Row i of the new tensors is made of the `length` columns of old row `rows[i]` that end before column `ends[i]`.

    rows, ends: (n,), on the caches' device. Columns left of a row's first token get arbitrary values, since the
    attention mask leaves them out.
    """

    rows: Tensor
    ends: Tensor
    length: int
    _indices: dict[tuple[int, ...], Tensor] = field(default_factory=dict)

    def columns(self, length: int, skipped: int = 0) -> Tensor:
        """(n, length): the old column for each new one. `skipped`: how many first columns the old tensor lacks."""
        span = torch.arange(length, device=self.ends.device)
        return (self.ends[:, None] - skipped - length + span).clamp_min(0)

    def text(self, tensor: Tensor, batch_dim: int = 0) -> Tensor:
        """Move a tensor with one value per token: ids, masks, positions. Columns follow the batch's dimension."""
        index = (self.rows[:, None], self.columns(self.length))
        return tensor[:, index[0], index[1]] if batch_dim else tensor[index]

    def keys(self, tensor: Tensor, length: int, skipped: int) -> Tensor:
        """Move keys or values, (batch, heads, columns, width), in one copy of whole vectors."""
        _, heads, columns, width = tensor.shape
        shape = (heads, columns, length, skipped)
        if shape not in self._indices:
            head = torch.arange(heads, device=self.rows.device)
            first = (self.rows[:, None] * heads + head) * columns
            self._indices[shape] = (first[:, :, None] + self.columns(length, skipped)[:, None, :]).reshape(-1)
        moved = tensor.reshape(-1, width).index_select(0, self._indices[shape])
        return moved.view(len(self.rows), heads, length, width)


def check_kinds(cache: Any, model: Any) -> None:
    """UsageError if a layer of the cache keeps anything but keys and values of single tokens."""
    for layer in cache.layers:
        if type(layer) not in KINDS:
            raise UsageError(
                f"{type(model).__name__} keeps {type(layer).__name__} state, which cannot be moved row by row; "
                "use --batch-size 1"
            )


def move_layer(layer: Any, move: Move) -> None:
    """Move one layer in place. A layer that has not been used yet stays as it is."""
    if layer.keys is None or layer.keys.numel() == 0:
        return
    length, skipped = move.length, 0
    if type(layer) is DynamicSlidingWindowLayer:  # it holds only the last columns, but counts all
        skipped = layer.cumulative_length - layer.keys.shape[-2]
        length = min(length, layer.sliding_window - 1)
        layer.cumulative_length = move.length
    layer.keys, layer.values = (move.keys(states, length, skipped) for states in (layer.keys, layer.values))


def select_rows(layer: Any, rows: Tensor) -> None:
    """Keep these rows of a layer that does not grow with the text: an image's or an encoder's KV."""
    if layer.keys is not None and layer.keys.numel():
        layer.keys, layer.values = layer.keys.index_select(0, rows), layer.values.index_select(0, rows)
