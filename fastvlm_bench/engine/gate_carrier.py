"""What a layer gate hands from pass to pass, for recorded passes: the states that drafting keeps, and a head's own."""

from torch import Tensor

from fastvlm_bench.engine.layer_gate import LayerGate, Mode


class GateCarrier:
    """The `Carrier` of a gate. A drafting pass leaves the states that it keeps, and verification is given them.

    A head that recurs also gets its own latest state, or the last layer's.
    """

    def __init__(self, gate: LayerGate) -> None:
        self.gate = gate
        self._recurs = gate.head is not None and gate.head.recurs
        self._before: tuple[list[Tensor], Tensor | None, Tensor | None] = [], None, None

    @property
    def _drafting(self) -> bool:
        return self.gate.mode is Mode.DRAFT

    def given(self) -> tuple[Tensor, ...]:
        gate = self.gate
        if gate.mode is Mode.VERIFY:
            return (gate.kept_states(),)
        return (gate.previous,) if self._recurs and self._drafting and gate.previous is not None else ()

    def give(self, fixed: tuple[Tensor, ...]) -> None:
        self._before = list(self.gate.kept), self.gate.previous, self.gate.last
        if self.gate.mode is Mode.VERIFY:
            (self.gate.fixed,) = fixed
        elif fixed:
            (self.gate.previous,) = fixed

    def undo(self) -> None:
        gate, (kept, previous, last) = self.gate, self._before
        gate.kept[:], gate.previous, gate.last, gate.fixed = kept, previous, last, None

    def taken(self) -> tuple[Tensor, ...]:
        """What the pass has left, which is the gate's only once it was given to `take`."""
        gate = self.gate
        found = [gate.kept[-1]] if self._drafting else []
        own = gate.previous if self._drafting else gate.last
        if self._recurs and own is not None:
            found.append(own)
        self.undo()
        return tuple(found)

    def take(self, found: tuple[Tensor, ...]) -> None:
        gate = self.gate
        if self._drafting:
            gate.kept.append(found[0].clone())  # the next drafting pass writes over it
            if self._recurs:
                gate.previous = found[1]
        elif found:
            (gate.last,) = found
            gate.previous = found[0][:, -1:]
