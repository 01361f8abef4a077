"""What the costs of passes mean: speed-up over α and γ, the least α worth having, where the gain ends, memory."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from fastvlm_bench.models.memory_need import held_bytes
from fastvlm_bench.predicting.passes import Drafting, Load
from fastvlm_bench.predicting.structure import Layer

MOST_GAMMA = 16
"""γ beyond this is not looked at: it pays only where nearly every draft stands."""
MOST_BATCH = 1 << 16


@dataclass(frozen=True)
class Acceptance:
    """How often a draft stands: α alike at each place, or a profile's conditional rates by place.

    Beyond the last place of a profile its last rate holds.
    """

    alpha: float
    by_place: tuple[float, ...] = ()

    def expected(self, gamma: int) -> float:
        """Tokens that a round emits: 1 + Σ over i ≤ γ of the product of the first i rates; of one α,
        (1-α^(γ+1))/(1-α)."""
        total, stands = 1.0, 1.0
        for place in range(gamma):
            stands *= self.by_place[min(place, len(self.by_place) - 1)] if self.by_place else self.alpha
            total += stands
        return total


@dataclass(frozen=True)
class Best:
    gamma: int
    speedup: float


class Surface:
    """Speed-ups of one exit and head at one load. Seconds of a round are computed once for each γ."""

    def __init__(self, drafting: Drafting, most_gamma: int = MOST_GAMMA) -> None:
        self.drafting, self.standard_s = drafting, drafting.standard.seconds
        self.round_s = [0.0, *(drafting.round_s(gamma) for gamma in range(1, most_gamma + 1))]

    def speedup(self, acceptance: Acceptance, gamma: int) -> float:
        """E(α, γ)·c_1 / ((γ + 1)·c_d + c_v(γ))."""
        return acceptance.expected(gamma) * self.standard_s / self.round_s[gamma]

    def best(self, acceptance: Acceptance) -> Best:
        """The γ with the highest speed-up."""
        return max((Best(gamma, self.speedup(acceptance, gamma)) for gamma in range(1, len(self.round_s))),
                   key=lambda found: found.speedup)  # fmt: skip

    def least_alpha(self, wanted: float) -> float | None:
        """The least α at which the best γ reaches a speed-up; None where no α does."""
        if self.best(Acceptance(1.0)).speedup < wanted:
            return None
        return _least(lambda alpha: self.best(Acceptance(alpha)).speedup >= wanted)


def gain_ends(drafting: Drafting, acceptance: Acceptance, most: int = MOST_BATCH) -> int | None:
    """The least batch size at which no γ gains any more; None where the best γ gains up to `most`, such as what fits.

    Searched by doubling, then by halves, so that a gain which ends and comes back counts as ended.
    """

    def gains(batch: int) -> bool:
        return Surface(drafting.sized(batch)).best(acceptance).speedup > 1

    low, high = 0, 1
    while gains(high):
        if high >= most:
            return None
        low, high = high, min(2 * high, most)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if gains(middle) else (low, middle)
    return high


def _least(holds: Callable[[float], bool]) -> float:
    low, high = 0.0, 1.0
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


@dataclass(frozen=True)
class Memory:
    """Bytes. weights: of the whole model, vision encoder and embeddings included. kv: of one sequence at the context.

    draft: the head's weights. draft_kv: the head's KV of one sequence. batch: sequences that fit beside the weights;
    None where the device's memory is not known. Activations, the images' features and fragmentation are left out.
    """

    weights: float
    kv: float
    draft: float
    draft_kv: float
    batch: int | None = field(default=None)


def memory(drafting: Drafting) -> Memory:
    """What weights, KV and draft take."""
    load = drafting.load
    whole, element = load.structure, load.element_bytes
    weights = held_bytes(whole.parameters, whole.packed, element, load.weight_bits)
    kv = kv_bytes(load, whole.layers)
    head = drafting.head
    draft = (head.weights.shared + head.weights.routed) * element if head else 0.0
    draft_kv = kv_bytes(load, [head]) if head else 0.0
    room = load.device.memory_bytes
    fits = None if room is None or not kv + draft_kv else max(0, int((room - weights - draft) // (kv + draft_kv)))
    return Memory(weights, kv, draft, draft_kv, fits)


def kv_bytes(load: Load, layers: Sequence[Layer]) -> float:
    """Bytes that the cache of one sequence takes at the load's context."""
    return float(sum(layer.kv * layer.kept(load.context) + layer.state for layer in layers) * load.element_bytes)
