"""Feeds a head with the target's states as `state_reader` does, by recorded passes: for one sequence."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastvlm_bench.drafters.state_reader import Reader
from fastvlm_bench.engine.rows import Tokens
from fastvlm_bench.engine.side_passes import SidePasses


class RecordedReader(Reader):
    """Goes on where a `Reader` is that has read the prompt of one sequence.

    passes: of the head; they hold the slots of its cache, of which the first `_taken` come from the target's states.
    """

    def __init__(self, reader: Reader, passes: SidePasses) -> None:
        vars(self).update(vars(reader))  # not `__init__`, which opens a generation
        self.passes, self._taken, self._ahead = passes, reader.cached, 0
        passes.take(reader.cache.layers)
        self.cache = passes

    def read(self, places: list[int]) -> Tensor:
        (new,) = (self._new[place] for place in places)
        states, positions = self._given()
        count = len(new)
        tokens = torch.tensor([new], device=self.device)
        given = (tokens, positions[..., :count], *(one[:, :count] for one in states))
        self.states, logits = self.passes.run("read", self._taken, given, self._reads)
        self.positions = positions[..., count - 1 : count]
        self._taken += count
        return logits

    def go_on(self, columns: Tokens) -> Tensor:
        tokens = torch.tensor([row[-1:] for row in columns], device=self.device)
        self.positions = self.positions + 1
        start = self._taken + self._ahead
        self.states, logits = self.passes.run("go on", start, (tokens, self.positions, self.states), self._goes_on)
        self._ahead += 1
        return logits

    def forget(self, drawn: int) -> None:
        self._ahead = 0

    def _reads(self, tokens: Tensor, positions: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        return self._step(tokens, positions, self.head.fuse(states))

    def _goes_on(self, tokens: Tensor, positions: Tensor, states: Tensor) -> tuple[Tensor, ...]:
        return self._step(tokens, positions, states)

    def _step(self, tokens: Tensor, positions: Tensor, states: Tensor) -> tuple[Tensor, ...]:
        """The state of the last column, and the logits after it."""
        mask = self.passes.mask(tokens.shape[1])
        own = self.head(self.head.embed(tokens).to(states), states, positions, self.cache, mask)[:, -1:]
        return own, self.head.logits(own)


def recorded(reader: Reader, known: dict[int, SidePasses], engine: Any, model: Any, capacity: int) -> Reader | str:
    """The reader by recorded passes; or why not. known: those of earlier generations, by their capacity."""
    layers: Sequence[Any] = reader.cache.layers
    if not reader.head.takes_slots or any(layer.keys is None for layer in layers):
        return f"{type(reader.head).__name__} drafts by passes of its own"
    if capacity not in known:
        known[capacity] = SidePasses(engine, model, reader.head, layers, capacity)
    return RecordedReader(reader, known[capacity])
