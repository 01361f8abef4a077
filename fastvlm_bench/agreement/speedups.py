"""The predicted decode speed-up of every exit, γ and threshold, and of hierarchies of exits.

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
    """The lowest exit drafts, each one above checks, until the last has γ tokens; the target checks those.

    levels: the exits, from the lowest up. each: how many tokens each but the last adds before the next checks them.
    single: the best speed-up of one exit by the same formula.
    """

    levels: tuple[Source, ...]
    each: tuple[int, ...]
    gamma: int
    speedup: float
    single: float

    @property
    def name(self) -> str:
        """In tables and files: "1 raw → 4 mlp"."""
        return " → ".join(f"{level.exit_layer} {level.head}" for level in self.levels)


@dataclass(frozen=True)
class _Way:
    """The cheapest known way to a token of an exit, in standard passes, and the exits and numbers that it takes."""

    token: float
    levels: tuple[Source, ...]
    each: tuple[int, ...]


def hierarchies(
    sources: Sequence[Source], gammas: Sequence[int], agreement: Matrix, prices: Prices
) -> list[Hierarchy]:  # fmt: skip
    """Every pair of exits with its best numbers of tokens, and the best hierarchy of more, where that is the fastest.

    The fastest first; [] with fewer than two exits. Exits that cannot check several tokens in one pass (eagle heads)
    are left out above the lowest level and in it, as `hierarchical` takes none.

    In units of a standard pass, with E(α, n) of `expected`:
      a token of exit i           l_i = (n · l_j + d_j + m_ji(n + 1)) / E(α_ji, n), and d_i where i is the lowest
      a token of the target       (γ · l_i + d_i + v_i(γ + 1)) / E(α_i,target, γ)
    m_ji(k): a pass of the layers between the exits, norm and LM head over k positions. As many layers and the same norm
    and LM head verify for the raw exit at (all layers - layers between), so its verification is taken. d_j and d_i, a
    draft pass, go beyond the paper's formula: as exits share states, the last token passes the layers below, too.

    A token of exit i costs the same whatever follows, so the best hierarchy of any length is found from the lowest exit
    up, by the best way to each (the paper's dynamic programme, K² · n steps of it).
    """
    usable = [source for source in sources if source.head != "eagle"]
    single = max((independent(s, gamma, agreement, prices) for s in usable for gamma in gammas), default=0.0)

    def whole(way: _Way) -> Hierarchy:
        top = way.levels[-1]
        speedup, gamma = max((expected(agreement.with_target(top), gamma) / _outer(way, gamma, prices), -gamma)
                             for gamma in gammas)  # fmt: skip
        return Hierarchy(way.levels, way.each, -gamma, speedup, single)

    alone = {source: _Way(_drafts(source, prices), (source,), ()) for source in usable}
    above: dict[Source, _Way] = {}  # the best way of two exits or more
    pairs, longer = list[Hierarchy](), list[Hierarchy]()
    for upper in sorted(usable, key=lambda source: source.exit_layer):
        below = [source for source in usable if source.exit_layer < upper.exit_layer]
        two = [_above(alone[lower], upper, agreement, prices) for lower in below]
        more = [_above(above[lower], upper, agreement, prices) for lower in below if lower in above]
        pairs += map(whole, two)
        longer += map(whole, more)
        if below:
            above[upper] = min([*two, *more], key=lambda way: (way.token, len(way.levels)))
    found = sorted(pairs, key=lambda one: -one.speedup)
    fastest = max(longer, key=lambda one: one.speedup, default=None)
    return [fastest, *found] if fastest is not None and fastest.speedup > found[0].speedup else found


def hierarchy_speedup(
    lower: Source, upper: Source, drafted: int, gamma: int, agreement: Matrix, prices: Prices
) -> float:
    """Of two exits: the lower one drafts `drafted` tokens at a time, the target checks γ of the upper one."""
    below = _Way(_drafts(lower, prices), (lower,), ())
    way = _Way(_token(below, upper, drafted, agreement, prices), (lower, upper), (drafted,))
    return expected(agreement.with_target(upper), gamma) / _outer(way, gamma, prices)


def _drafts(source: Source, prices: Prices) -> float:
    own = prices.of(source)
    return _of(own.draft_s, own.standard_s)


def _above(way: _Way, upper: Source, agreement: Matrix, prices: Prices) -> _Way:
    """The way one exit further up, with the best number of tokens before it checks."""
    token, drafted = min((_token(way, upper, n, agreement, prices), n) for n in range(1, MOST_DRAFTED + 1))
    return _Way(token, (*way.levels, upper), (*way.each, drafted))


def _token(way: _Way, upper: Source, drafted: int, agreement: Matrix, prices: Prices) -> float:
    """What a token of `upper` costs where it checks so many tokens of the way's last exit at a time."""
    lower, above = way.levels[-1], prices.of(upper)
    between = prices.raw(prices.layers - (upper.exit_layer - lower.exit_layer))
    head_s = max(above.draft_s - prices.raw(upper.exit_layer).draft_s, 0.0) if upper.head != RAW else 0.0
    inner = drafted * way.token + _drafts(lower, prices)
    inner += _of(between.verification(drafted + 1), between.standard_s) + _of(head_s, above.standard_s)
    return inner / expected(agreement.between(lower, upper), drafted)


def _outer(way: _Way, gamma: int, prices: Prices) -> float:
    """A round of γ tokens of the way's last exit, which the target checks."""
    own = prices.of(way.levels[-1])
    return gamma * way.token + _of(own.draft_s + own.verification(gamma + 1), own.standard_s)


def _of(seconds: float, standard_s: float) -> float:
    return seconds / standard_s
