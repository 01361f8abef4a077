"""Recorded passes of a head that drafts beside the target, on slots of its own: what `recorded.py` is for the target.

A drafter says what a pass computes, as a function of tensors alone. Its first run records it, and later ones repeat it.
"""

import time
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastvlm_bench.engine.recorded_pass import cause, record
from fastvlm_bench.engine.slots import SlotLayer, Slots, seen

Run = Callable[..., tuple[Tensor, ...]]


class SidePasses:
    """The passes of one head for all generations of one size. layers: the slots of its cache, which `take` fills.

    engine: the `Graphs`. model: the target, whose linear maps of a few rows the head shares. like: layers of the cache
    that the head has filled with the prompt.
    """

    def __init__(self, engine: Any, model: Any, head: nn.Module, like: Sequence[Any], capacity: int) -> None:
        self._engine, self._model, self._head = engine, model, head
        assert like[0].keys is not None
        with torch.inference_mode():
            self.slots = Slots(capacity, like[0].keys.device)
            self.layers = [SlotLayer(self.slots, layer) for layer in like]
        self._passes: dict[Hashable, tuple[tuple[Tensor, ...], Any]] = {}
        self.refused: str | None = None

    def take(self, layers: Sequence[Any]) -> None:
        """Take over what a growing cache holds."""
        with torch.inference_mode():
            for own, layer in zip(self.layers, layers, strict=True):
                own.fill(layer, seen(layer))

    def mask(self, count: int) -> Tensor:
        """Which slots each column of the pass that runs reads, (1, 1, count, slots). It is a part of the pass."""
        self.slots.open(count)
        there = torch.arange(self.slots.capacity, device=self.slots.start.device)
        return (there <= self.slots.columns[:, None])[None, None]

    def run(self, what: str, start: int, given: tuple[Tensor, ...], run: Run) -> tuple[Tensor, ...]:
        """`run(*given)`, which begins at this slot. The next pass of the same kind writes over what it returns."""
        self.slots.begin([start])
        with torch.inference_mode():
            key = (what, tuple((one.shape, one.dtype) for one in given))
            if key not in self._passes and self.refused is None:
                self._record(key, given, run)
            if key not in self._passes:
                return run(*given)
            fixed, made = self._passes[key]
            for place, now in zip(fixed, given, strict=True):
                place.copy_(now)
            made.replay()
            found: tuple[Tensor, ...] = made.outputs
            return found

    def _record(self, key: Hashable, given: tuple[Tensor, ...], run: Run) -> None:
        began, fixed = time.perf_counter(), tuple(one.clone() for one in given)
        changing = [self.slots.start, *fixed, *(one for layer in self.layers for one in (layer.keys, layer.values))]
        known = [*self._model.parameters(), *self._model.buffers(), *self._head.parameters(), *self._head.buffers()]
        try:
            made = record(self._engine, self._model, lambda: run(*fixed), changing, known)
        except Exception as error:  # a head's own code may do what cannot be repeated, in whatever way
            self.refused = f"{type(self._head).__name__}: {cause(error)}"
            self._engine.reasons.setdefault(self.refused)
            return
        self._passes[key] = fixed, made
        self._engine.made(1, time.perf_counter() - began, made.nbytes)
