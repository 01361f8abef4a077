"""What a layer gate hands from pass to pass, for recorded passes: the states that drafting keeps, and a head's own."""

from typing import Any

import torch
from torch import Tensor

from fastvlm_bench.engine.layer_gate import LayerGate, Mode
from fastvlm_bench.engine.level_gate import LevelGate


class GateCarrier:
    """The `Carrier` of a gate. A drafting pass leaves the states that it keeps, and verification is given them.

    A head that recurs also gets its own latest state, or the last layer's. A plain pass leaves a head that attends
    what it is given to catch up with.
    """

    def __init__(self, gate: LayerGate) -> None:
        self.gate = gate
        self._attends = gate.head is not None and gate.head.attends
        self._recurs = gate.head is not None and gate.head.recurs
        self._before: tuple[list[Tensor], list[Any], Tensor | None, Tensor | None] = [], [], None, None
        self._catching: tuple[Tensor, ...] = ()

    @property
    def _drafting(self) -> bool:
        return self.gate.mode is Mode.DRAFT

    def catch(self, count: int) -> None:
        """The next pass lets the head catch up with the first `count` tokens that it has missed."""
        gate = self.gate
        now, gate.missed[:] = gate.missed[:count], gate.missed[count:]
        parts = [[states for states, _, _ in now]]
        parts += [[kwargs["previous"] for _, _, kwargs in now]] if self._recurs else []
        self._catching = tuple(torch.cat(part, dim=1) for part in parts)

    def given(self) -> tuple[Tensor, ...]:
        gate = self.gate
        if gate.mode is Mode.CATCH_UP:
            return self._catching
        if gate.mode is Mode.VERIFY:
            return (gate.kept_states(),)
        return (gate.previous,) if self._recurs and self._drafting and gate.previous is not None else ()

    def give(self, fixed: tuple[Tensor, ...]) -> None:
        gate = self.gate
        self._before = list(gate.kept), list(gate.missed), gate.previous, gate.last
        if gate.mode in (Mode.VERIFY, Mode.CATCH_UP):
            gate.fixed, fixed = fixed[0], fixed[1:]
        if fixed:
            (gate.previous,) = fixed

    def undo(self) -> None:
        gate, (kept, missed, previous, last) = self.gate, self._before
        gate.kept[:], gate.missed[:], gate.previous, gate.last, gate.fixed = kept, missed, previous, last, None

    def taken(self) -> tuple[Tensor, ...]:
        """What the pass has left, which is the gate's only once it was given to `take`."""
        gate, found = self.gate, list[Tensor]()
        if self._drafting:
            found.append(gate.kept[-1])
        elif gate.mode is Mode.PLAIN and self._attends:
            found.append(gate.missed[-1][0])
        own = gate.previous if self._drafting else gate.last
        if self._recurs and own is not None and gate.mode is not Mode.CATCH_UP:
            found.append(own)
        self.undo()
        return tuple(found)

    def take(self, found: tuple[Tensor, ...]) -> None:
        gate, left = self.gate, list(found)
        if self._drafting:
            gate.kept.append(left[0].clone())  # the next drafting pass writes over it
            if self._recurs:
                gate.previous = left[1]
            return
        if gate.mode is Mode.PLAIN and self._attends:
            before = {"previous": gate.previous.clone()} if self._recurs and gate.previous is not None else {}
            gate.missed.append((left.pop(0).clone(), (), before))
        if left:
            (gate.last,) = left
            gate.previous = gate.last[:, -1:]


class LevelCarrier:
    """The `Carrier` of a gate with several exits: what arrives at each of them in a pass, and where the next begins."""

    def __init__(self, gate: LevelGate) -> None:
        self.gate = gate
        self._before: list[Tensor | None] = []

    def given(self) -> tuple[Tensor, ...]:
        return () if self.gate.start is None else (self.gate.entering(),)

    def give(self, fixed: tuple[Tensor, ...]) -> None:
        gate = self.gate
        self._before = [level.kept for level in gate.levels]
        gate.fixed = fixed[0] if fixed else None
        for level in gate.passed:
            level.kept = None

    def undo(self) -> None:
        self.gate.fixed = None
        for level, kept in zip(self.gate.levels, self._before, strict=True):
            level.kept = kept

    def taken(self) -> tuple[Tensor, ...]:
        found = tuple(level.kept for level in self.gate.passed if level.kept is not None)
        self.undo()
        return found

    def take(self, found: tuple[Tensor, ...]) -> None:
        for level, states in zip(self.gate.passed, found, strict=True):
            level.keep(states.clone())  # the next pass of this kind writes over it
