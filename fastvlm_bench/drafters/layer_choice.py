"""CLaSp's choice of layers (arXiv 2505.24196): which to skip so that the last state stays most like the full one.

Dynamic programming over the layers, on one token that the target has just read: among all ways to skip j of the first
i layers, only the one is kept whose state is most like the full state there (by cosine). So it is exact only if the
best way to a layer does not depend on what follows; CLaSp's authors show that it is close. All ways that run a layer
run it together, as if they were several tokens at the same place: each reads the KV before the token, and its own.
"""

import copy
import inspect
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import cache as cached
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from fastvlm_bench.engine.cache_view import text_cache
from fastvlm_bench.engine.slots import SlotLayer, Taken

MASK = "attention_mask"


@dataclass
class Seen:
    """What the layers got in one pass of the whole target. columns: how many tokens the pass read.

    last_only: only the states of the last token are kept, as those of a long prompt would take memory.
    """

    last_only: bool = False
    states: dict[int, Tensor] = field(default_factory=dict)
    given: dict[int, tuple[tuple[Any, ...], dict[str, Any]]] = field(default_factory=dict)
    columns: int = 0

    def watch(self, index: int, states: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        """What a `LayerSkipper` calls."""
        out = result[0] if isinstance(result, tuple) else result
        self.columns = states.shape[1]
        kept = slice(-1, None) if self.last_only else slice(None)
        self.states[index], self.states[index + 1] = states[:, kept], out[:, kept]
        self.given[index] = (args, kwargs)

    def at(self, index: int, places: Tensor) -> Tensor:
        """(rows, width): the state that arrived at the layer, at each row's place of the pass."""
        states = self.states[index]
        rows = torch.arange(len(states), device=states.device)
        return states[rows, places - self.columns + states.shape[1]]


@torch.no_grad()
def choose_layers(
    layers: nn.ModuleList, cache: Any, seen: Seen, places: Tensor, may: Collection[int], count: int
) -> frozenset[int]:
    """The `count` layers of `may` to skip, chosen for one token of each row. The cache is left as it is.

    cache: as it is after the pass that was seen. places: (rows,), which token of that pass, on the states' device.
    """
    view, left, before = cache_copy(cache, seen.columns), len(set(may)), 0
    count = min(count, left)
    # Way j is the best way to skip j of the layers so far. `states`, (rows, ways, width), are those of the ways low and
    # up; fewer need not be followed, because too few layers are left to skip. Way 0 is the target's own states.
    low, states = max(1, count - left), None
    turns = list[tuple[int, int, Tensor]]()  # a layer, the lowest way after it, and which of the ways from it on ran it
    for index, layer in enumerate(layers):
        if index not in may:
            states = None if states is None else run_layer(layer, index, view, seen, places, states)
            continue
        left, before = left - 1, before + 1
        lowest, highest = max(1, count - left), min(before, count)
        if highest < lowest:
            continue
        own, full = seen.at(index, places)[:, None], seen.at(index + 1, places)[:, None]
        # Ways `lowest` .. `highest` after this layer, if they skip it: one more than before it.
        skip = own if states is None else torch.cat([own, states], dim=1) if lowest == 1 else states
        skip = skip[:, : highest - lowest + 1]
        running = None if states is None else states[:, lowest - low : highest - low + 1]
        ran = torch.zeros(skip.shape[1], dtype=torch.bool, device=skip.device)
        if running is not None and running.shape[1]:
            done = run_layer(layer, index, view, seen, places, running)
            ways = done.shape[1]
            ran[:ways] = similarity(done, full) > similarity(skip[:, :ways], full)
            better = torch.where(ran[None, :ways, None], done, skip[:, :ways])
            skip = torch.cat([better, skip[:, ways:]], dim=1)
        turns.append((index, lowest, ran))
        low, states = lowest, skip
    return _traced_back(turns, count)


def _traced_back(turns: Sequence[tuple[int, int, Tensor]], count: int) -> frozenset[int]:
    """The layers that way `count` skips, from what was decided at each layer. One transfer for all of them."""
    found, ran = set[int](), torch.cat([turn for *_, turn in turns]).tolist() if turns else []
    end = len(ran)
    for index, lowest, decided in reversed(turns):
        begin = end - len(decided)
        if count and not ran[begin + count - lowest]:
            found.add(index)
            count -= 1
        end = begin
    return frozenset(found)


def similarity(states: Tensor, full: Tensor) -> Tensor:
    """(ways,): how like each way's states, (rows, ways, width), are to the full ones, (rows, 1, width).

    It is the mean cosine of the rows.
    """
    return torch.cosine_similarity(states.float(), full.float(), dim=-1).mean(dim=0)


def run_layer(layer: nn.Module, index: int, view: Any, seen: Seen, places: Tensor, states: Tensor) -> Tensor:
    """The layer on several states of each row's token, (rows, ways, width). `view` is a copy of the cache.

    Each state reads what the token itself read before it, and itself. The layer gets the arguments that it got in the
    pass, cut down to this token's place.
    """
    args, kwargs = seen.given[index]
    names = [name for name, p in _parameters(layer).items() if p.kind is p.POSITIONAL_OR_KEYWORD][2:]
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    ways = states.shape[1]
    made = {
        key: view if value is not None and key.startswith("past_key_value") else cut(value, seen.columns, places, ways)
        for key, value in given.items() if key != MASK
    }  # fmt: skip
    held = text_cache(view).layers[index]
    made[MASK] = mask_of(given.get(MASK), held, seen.columns, places, states)
    result = layer(states, **made)
    out: Tensor = result[0] if isinstance(result, tuple) else result
    return out


def cut(value: Any, columns: int, places: Tensor, ways: int) -> Any:
    """What a pass over `columns` tokens was given, for `ways` states at each row's place: positions and the like."""
    if isinstance(value, tuple | list):
        return type(value)(cut(part, columns, places, ways) for part in value)
    if not isinstance(value, Tensor) or value.ndim < 2:
        return value
    along = -1 if not (value.is_floating_point() or value.is_complex()) else -2
    if value.shape[along] != columns:
        return value
    if along == -1:  # positions, (rows, columns), perhaps with a dimension before
        return cut_rows(value[..., None], places).expand(*value.shape[:-2], len(places), ways, 1)[..., 0]
    return cut_rows(value, places).expand(*value.shape[:-3], len(places), ways, value.shape[-1])


def cut_rows(value: Tensor, places: Tensor) -> Tensor:
    """(..., rows or 1, columns, width) -> (..., rows, 1, width): each row's own place."""
    value = value.expand(*value.shape[:-3], len(places), *value.shape[-2:])
    index = places.view(-1, 1, 1).expand(*value.shape[:-2], 1, value.shape[-1])
    return value.gather(-2, index)


def mask_of(mask: Tensor | None, held: Any, columns: int, places: Tensor, states: Tensor) -> Tensor:
    """(rows, 1, ways, kept columns + ways): each state reads what its token read before, and itself.

    mask: that of the pass, (rows or 1, 1, columns, all columns), of bool or to be added; None where it was causal.
    held: the layer's cache, which holds the pass.
    """
    rows, ways = states.shape[:2]
    kept = held.keys.shape[-2] if held.keys is not None and held.keys.numel() else 0
    last = kept - columns + places  # the column of each row's token itself, which is not read: its states stand for it
    before = torch.arange(kept, device=states.device)[None, :] < last[:, None]
    if mask is not None:
        mask = mask.expand(rows, *mask.shape[1:])[:, 0]
        first = 0 if isinstance(held, Taken) else mask.shape[-1] - kept
        row = mask.gather(1, places.view(-1, 1, 1).expand(rows, 1, mask.shape[-1]))[:, 0, first : first + kept]
        before = before & (row if row.dtype is torch.bool else row >= 0)
    itself = torch.eye(ways, dtype=torch.bool, device=states.device).expand(rows, ways, ways)
    reads = torch.cat([before[:, None].expand(rows, ways, kept), itself], dim=-1)[:, None]
    if mask is not None and mask.dtype is torch.bool:
        return reads
    dtype = states.dtype if mask is None else mask.dtype
    return torch.zeros(reads.shape, dtype=dtype, device=reads.device).masked_fill_(~reads, torch.finfo(dtype).min)


def cache_copy(cache: Any, columns: int = 0) -> Any:
    """A cache with the same tensors. What is appended to it does not reach the original.

    A sliding layer becomes one without a window, which hands out all that it holds: what a pass recorded beyond the
    window is what its earlier tokens read. The mask keeps the window. So does a layer of slots, of which only those
    count that are taken: by the tokens before the latest pass, and by the `columns` of that pass.
    """
    view = copy.copy(cache)
    view.layers = [_plain(layer, columns) for layer in cache.layers]
    return view


def _plain(layer: Any, columns: int) -> Any:
    if isinstance(layer, SlotLayer):
        return layer.as_growing(columns)
    if not isinstance(layer, DynamicSlidingWindowLayer):
        return copy.copy(layer)
    plain = DynamicLayer()
    if layer.is_initialized:
        plain.lazy_initialization(layer.keys, layer.values)
        plain.keys, plain.values = layer.keys, layer.values
    return plain


def last_places(counts: Sequence[int], device: torch.device) -> Tensor:
    """The place, in a verification, of the last token that stands: its output gave the target's own next token."""
    return torch.tensor([count - 1 for count in counts], device=device)


def _parameters(layer: nn.Module) -> dict[str, inspect.Parameter]:
    return _parameters_of(type(layer))  # type: ignore[arg-type]


@cached
def _parameters_of(kind: type[nn.Module]) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(kind.forward).parameters)
