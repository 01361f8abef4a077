"""Bytes, FLOPs and roofline seconds of single passes: of the whole target, of a draft, of a verification.

Each part of a pass (a layer's weights, its attention, the LM head) takes max(bytes / bandwidth, FLOPs / peak), and the
parts run one after the other. Launching kernels takes no time here, and kernels reach the peaks.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from fastvlm_bench.predicting.devices import Device
from fastvlm_bench.predicting.structure import Layer, Structure

ELEMENT_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class Cost:
    """What one pass reads and writes, computes, and takes at least."""

    bytes: float = 0.0
    flops: float = 0.0
    seconds: float = 0.0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.bytes + other.bytes, self.flops + other.flops, self.seconds + other.seconds)

    def times(self, many: int) -> "Cost":
        return Cost(self.bytes * many, self.flops * many, self.seconds * many)


@dataclass(frozen=True)
class Load:
    """What is decoded, and on what. dtype: of KV and states, and of weights that are not packed.

    weight_bits: of a parameter of a layer. batch: sequences at a time. context: positions that each has in its cache.
    """

    structure: Structure
    device: Device
    dtype: str
    weight_bits: float
    batch: int = 1
    context: int = 1024

    def sized(self, batch: int) -> "Load":
        return replace(self, batch=batch)

    @property
    def element_bytes(self) -> int:
        return ELEMENT_BYTES[self.dtype]

    def standard(self) -> Cost:
        """One token of each sequence by the whole target."""
        return self.layers(self.structure.layers, 1) + self.ending(1)

    def layers(self, layers: Sequence[Layer], positions: int) -> Cost:
        """A pass of these layers over so many positions of each sequence."""
        alike = Counter(layers)  # most models have one or two kinds of layers
        return sum(
            (part.times(many) for layer, many in alike.items() for part in self._parts(layer, positions)), Cost()
        )

    def ending(self, positions: int, vocabulary: int = 0) -> Cost:
        """What follows the layers: the final norm, what else stands beside them, and the LM head over the positions.

        vocabulary: token ids that a draft may write, 0 for all.
        """
        whole = self.structure
        output = whole.output * (vocabulary / whole.vocabulary if vocabulary else 1)
        rows = self.batch * positions
        return self._part((whole.beside + output) * self.element_bytes, 2 * (whole.beside + output) * rows)

    def _parts(self, layer: Layer, positions: int) -> Iterator[Cost]:
        rows, kept = self.batch * positions, layer.kept(self.context)
        yield self._part(layer.weights.touched(rows) * self.weight_bits / 8, 2 * layer.weights.active * rows)
        moved = layer.read * kept + layer.kv * positions + 2 * layer.state  # a state is read and written
        yield self._part(self.batch * moved * self.element_bytes, layer.attention * kept * rows)

    def _part(self, moved: float, flops: float) -> Cost:
        return Cost(moved, flops, max(moved / self.device.bandwidth, flops / self.device.flops[self.dtype]))


@dataclass(frozen=True)
class Drafting:
    """Decoding by a draft: layers 1 … exit_layer, then the head. vocabulary: token ids it may write, 0 for all."""

    load: Load
    exit_layer: int
    head: Layer | None = None
    vocabulary: int = 0

    @cached_property
    def standard(self) -> Cost:
        return self.load.standard()

    @cached_property
    def draft(self) -> Cost:
        """One token through the early layers, the head and the LM head. A head is never packed."""
        early = self.load.layers(self.load.structure.layers[: self.exit_layer], 1)
        whole = replace(self.load, weight_bits=8 * self.load.element_bytes)
        return early + (whole.layers([self.head], 1) if self.head else Cost()) + self.load.ending(1, self.vocabulary)

    def verify(self, gamma: int) -> Cost:
        """The layers after the exit and the LM head over γ + 1 positions."""
        positions = gamma + 1
        return self.load.layers(self.load.structure.layers[self.exit_layer :], positions) + self.load.ending(positions)

    def round_s(self, gamma: int) -> float:
        """(γ + 1)·c_d + c_v(γ), as `run` prices rounds: the verification needs the last draft's state at the exit, too,
        and the loop gets it by one more draft pass."""
        return (gamma + 1) * self.draft.seconds + self.verify(gamma).seconds

    def sized(self, batch: int) -> "Drafting":
        return replace(self, load=self.load.sized(batch))
