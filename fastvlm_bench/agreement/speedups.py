"""The predicted decode speed-up of every exit, γ and threshold, and of hierarchies of two exits.

A single exit's rounds are simulated along the answers (`training/prediction.py`), and priced with measured passes. A
hierarchy is priced by the formula of hierarchical speculative decoding (arXiv 2510.19705), which takes tokens as
independent; so is, for comparison with it, each single exit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from fastvlm_bench.agreement.guesses import Text
from fastvlm_bench.agreement.pricing import Prices
from fastvlm_bench.agreement.rates import Matrix
from fastvlm_bench.agreement.sources import Source
from fastvlm_bench.sweeping.grid import RAW
from fastvlm_bench.training.prediction import simulate

MOST_DRAFTED = 8
"""Most tokens that the lower exit of a hierarchy drafts before the upper one checks them."""


@dataclass(frozen=True)
class Promise:
    """What is predicted of one cell. alpha, tau: over its simulated rounds."""

    source: Source
    gamma: int
    stop_below: float
    speedup: float
    alpha: float
    tau: float


def promises(
    texts: Sequence[Text], sources: Sequence[Source], gammas: Sequence[int], stops: Sequence[float],
    prices: Mapping[bool, Prices],
) -> list[Promise]:  # fmt: skip
    """Every cell, source by source. prices: whether the loop may stop in doubt -> the costs."""
    found = []
    for source in sources:
        checked = [text.checked(source) for text in texts]
        for gamma, stop in product(gammas, stops):
            seen = simulate(checked, gamma, stop)
            found.append(Promise(source, gamma, stop, seen.speedup(prices[stop > 0].of(source)), seen.alpha, seen.tau))
    return found


def best_of(cells: Sequence[Promise]) -> list[Promise]:
    """Of each source the cell with the largest speed-up, the smaller γ on a tie."""
    return [
        max((cell for cell in cells if cell.source == source), key=lambda cell: (cell.speedup, -cell.gamma))
        for source in dict.fromkeys(cell.source for cell in cells)
    ]


def expected(alpha: float, drafted: int) -> float:
    """Tokens that a round emits where each draft stands with the chance α, independently: Σ α^i for i = 0 .. γ."""
    return float(sum(alpha**i for i in range(drafted + 1)))


def independent(source: Source, gamma: int, agreement: Matrix, prices: Prices) -> float:
    """The speed-up of a single exit, by its α alone: E(α, γ) · c_1 / ((γ + 1) · c_d + c_v(γ + 1))."""
    own = prices.of(source)
    cost = (gamma + 1) * own.draft_s + own.verification(gamma + 1)
    return expected(agreement.with_target(source), gamma) * own.standard_s / cost


@dataclass(frozen=True)
class Hierarchy:
    """The lower exit drafts `drafted` tokens, the upper one checks them, until it has γ; the target checks those.

    single: the best speed-up of one exit by the same formula.
    """

    lower: Source
    upper: Source
    drafted: int
    gamma: int
    speedup: float
    single: float


def hierarchies(
    sources: Sequence[Source], gammas: Sequence[int], agreement: Matrix, prices: Prices
) -> list[Hierarchy]:  # fmt: skip
    """Every pair of exits with its best numbers of tokens, the fastest first. [] with fewer than two exits.

    In units of a standard pass, with E(α, n) of `expected`:
      a token of the upper exit   l = ((n + 1) · d_lower + m(n + 1)) / E(α_lower,upper, n)
      a token of the target       (γ · l + d_upper + v_upper(γ + 1)) / E(α_upper,target, γ)
    m(k): a pass of the layers between the exits, norm and LM head over k positions. As many layers and the same norm
    and LM head verify for the raw exit at (all layers - layers between), so its verification is taken. n + 1 and
    d_upper go beyond the paper's formula: as exits share states, the last drafted token passes the early layers too.
    """
    single = max((independent(s, gamma, agreement, prices) for s in sources for gamma in gammas), default=0.0)
    found = []
    for lower, upper in product(sources, sources):
        if lower.exit_layer >= upper.exit_layer:
            continue
        cells = [(hierarchy_speedup(lower, upper, n, gamma, agreement, prices), n, gamma)
                 for n in range(1, MOST_DRAFTED + 1) for gamma in gammas]  # fmt: skip
        speedup, n, gamma = max(cells, key=lambda cell: (cell[0], -cell[1], -cell[2]))
        found.append(Hierarchy(lower, upper, n, gamma, speedup, single))
    return sorted(found, key=lambda one: -one.speedup)


def hierarchy_speedup(
    lower: Source, upper: Source, drafted: int, gamma: int, agreement: Matrix, prices: Prices
) -> float:
    """One cell of `hierarchies`."""
    below, above = prices.of(lower), prices.of(upper)
    between = prices.raw(prices.layers - (upper.exit_layer - lower.exit_layer))
    head_s = max(above.draft_s - prices.raw(upper.exit_layer).draft_s, 0.0) if upper.head != RAW else 0.0
    inner = (drafted + 1) * _of(below.draft_s, below.standard_s)
    inner += _of(between.verification(drafted + 1), between.standard_s) + _of(head_s, above.standard_s)
    token = inner / expected(agreement.between(lower, upper), drafted)
    outer = gamma * token + _of(above.draft_s + above.verification(gamma + 1), above.standard_s)
    return expected(agreement.with_target(upper), gamma) / outer


def _of(seconds: float, standard_s: float) -> float:
    return seconds / standard_s
