"""Sampled acceptance gives the target's distribution exactly: by enumeration, by chi-square, and mutants that fail.

Enumeration runs the real code with its two sources of chance replaced. The uniform number takes each midpoint of a grid
of twentieths, which is exact because p/q is a multiple of 1/20. The draw is replaced by its whole distribution.
"""

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pytest
import torch
from covering import covering
from scipy.stats import chisquare
from torch import Tensor

from fastvlm_bench.engine import accept
from fastvlm_bench.engine.accept import accept_sampled, residual

V, GRID = 5, 20
Distribution = dict[tuple[int, ...], float]


def table(rows: dict[Any, list[int]]) -> Callable[[tuple[int, ...]], Tensor]:
    """The distribution of the next token by the last token of the prefix (None: no prefix). rows: in twentieths."""
    return lambda prefix: torch.tensor(rows[prefix[-1] if prefix else None], dtype=torch.float64) / 20


# In twentieths, q is a divisor of 20 wherever a token can be drawn. So p/q is a multiple of 1/20, as the grid needs it.
Q = table({None: [4, 4, 4, 4, 4], 0: [10, 5, 5, 0, 0], 1: [4, 4, 4, 4, 4], 2: [0, 10, 10, 0, 0], 3: [20, 0, 0, 0, 0],
           4: [5, 5, 5, 5, 0]})  # fmt: skip
P = table({None: [8, 5, 4, 3, 0], 0: [5, 5, 0, 4, 6], 1: [4, 4, 4, 4, 4], 2: [0, 0, 0, 0, 20], 3: [20, 0, 0, 0, 0],
           4: [1, 2, 3, 4, 10]})  # fmt: skip


def enumerate_round(drafted: tuple[int, ...], last: tuple[int, ...]) -> Distribution:
    """The distribution of what one round emits, the drafted tokens given and the `last` token before them, if any."""
    steps = [last + drafted[:i] for i in range(len(drafted) + 1)]
    q, p = torch.stack([Q(s) for s in steps[:-1]]), torch.stack([P(s) for s in steps])
    found: Distribution = defaultdict(float)
    numbers: Iterator[float] = iter(())
    weights: list[Tensor] = []

    def draw(given: Tensor, _: Any) -> int:
        weights.append(given / given.sum())
        return -1

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(accept, "_uniform", lambda _: next(numbers))
        patch.setattr(accept, "draw", draw)
        for us in itertools.product([(j + 0.5) / GRID for j in range(GRID)], repeat=len(drafted)):
            numbers = iter(us)
            accepted, _ = accept_sampled(drafted, q, p)
            (only,) = weights
            weights.clear()
            for token, weight in enumerate(only.tolist()):
                if weight:
                    found[(*drafted[:accepted], token)] += weight / GRID ** len(drafted)
    return found


def outputs(length: int, gamma: int) -> Distribution:
    """The distribution of the first `length` tokens of draft-and-verify rounds, over everything that may be drafted."""
    one_round = cache(enumerate_round)  # the same round follows many prefixes
    found: Distribution = defaultdict(float)

    def grow(prefix: tuple[int, ...], weight: float) -> None:
        if len(prefix) >= length:
            found[prefix[:length]] += weight
            return
        for drafted in itertools.product(range(V), repeat=gamma):
            chance = 1.0
            for i, token in enumerate(drafted):
                chance *= float(Q(prefix + drafted[:i])[token])
            if chance:
                for emitted, share in one_round(drafted, prefix[-1:]).items():
                    grow(prefix + emitted, weight * chance * share)

    grow((), 1.0)
    return found


def wanted(length: int) -> Distribution:
    found: Distribution = {}
    for sequence in itertools.product(range(V), repeat=length):
        chance = 1.0
        for i, token in enumerate(sequence):
            chance *= float(P(sequence[:i])[token])
        if chance:
            found[sequence] = chance
    return found


def distance(gamma: int, length: int) -> float:
    """The total variation distance from the target's own sequences."""
    ours, theirs = outputs(length, gamma), wanted(length)
    return sum(abs(ours.get(s, 0.0) - theirs.get(s, 0.0)) for s in {*ours, *theirs}) / 2


@pytest.mark.parametrize(("gamma", "length"), covering([(1, 3), (2, 2)], [(1, 3)]))
def test_every_sequence_has_exactly_the_targets_probability(gamma: int, length: int) -> None:
    assert distance(gamma, length) < 1e-12


# ------------------------------------------------------------------------------------------ chi-square


def counts(size: int, seed: int, vocabulary: int = 12) -> tuple[Tensor, Tensor]:
    """How often each token comes first in `size` rounds with a fixed draft and target, and how often it should."""
    generator = torch.Generator().manual_seed(seed)
    q, p = (torch.rand(vocabulary, generator=generator, dtype=torch.float64) ** 2 for _ in range(2))
    q[0], p[0], p[1] = 0.0, 0.3, 0.0  # the draft never proposes 0; the target never wants 1
    q, p = q / q.sum(), p / p.sum()
    found = torch.zeros(vocabulary, dtype=torch.float64)
    drafts = torch.multinomial(q, size, replacement=True, generator=generator).tolist()
    for draft in drafts:
        accepted, token = accept_sampled([draft], q[None], torch.stack([p, p]), generator)
        found[draft if accepted else token] += 1
    return found, size * p


def chi_square_p(size: int, seed: int) -> float:
    found, expected = counts(size, seed)
    if bool((found[expected == 0] > 0).any()):
        return 0.0
    there = expected > 0
    return float(chisquare(found[there], expected[there]).pvalue)


@pytest.mark.parametrize("seed", covering(range(3), [0]))
def test_samples_follow_the_target(seed: int) -> None:
    assert chi_square_p(3000, seed) > 1e-3


# ------------------------------------------------------------------------------------------ mutants


def resample_from_p(p: Tensor, q: Tensor) -> Tensor:
    return p


def no_clamp(p: Tensor, q: Tensor) -> Tensor:
    return (p - q).abs()


@pytest.mark.parametrize("mutant", covering([resample_from_p, no_clamp], [resample_from_p]))
def test_a_wrong_residual_is_caught(mutant: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accept, "residual", mutant)
    assert distance(1, 2) > 1e-3
    assert chi_square_p(3000, 0) < 1e-4


@pytest.mark.slow  # test_sampling.py adds up every probability in the default run
@pytest.mark.parametrize("factor", covering([1.1, 1 / 1.1], [1.1]))
def test_a_ratio_that_is_wrong_by_a_tenth_is_caught(factor: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten per cent more or less acceptance: the uniform number is compared with p/q times the factor.

    Seed 2 draws a draft that is far from its target, so few rounds show it; they follow the target without the mutant.
    """
    assert chi_square_p(4000, 2) > 1e-3
    real = accept._uniform
    monkeypatch.setattr(accept, "_uniform", lambda generator: real(generator) / factor)
    assert chi_square_p(4000, 2) < 1e-6


def test_never_accepting_and_always_accepting_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    for number in (2.0, -1.0):
        monkeypatch.setattr(accept, "_uniform", lambda generator, number=number: number)
        assert chi_square_p(1000, 0) < 1e-4


# ------------------------------------------------------------------------------------------ edges


def test_equal_distributions_always_stand_and_nothing_is_divided_by_zero() -> None:
    generator = torch.Generator().manual_seed(0)
    p = torch.tensor([0.5, 0.25, 0.25, 0.0])
    assert torch.equal(residual(p, p), p)
    for _ in range(200):
        accepted, token = accept_sampled([0, 1], torch.stack([p, p]), torch.stack([p, p, p]), generator)
        assert accepted == 2 and token != 3


def test_temperature_towards_zero_is_greedy() -> None:
    """One-hot target: the draft stands exactly where it is the argmax, otherwise the argmax replaces it."""
    q, p = torch.full((2, 4), 0.25), torch.eye(4)[[2, 1, 3]]
    assert accept_sampled([2, 1], q, p) == (2, 3)
    assert accept_sampled([2, 0], q, p) == (1, 1)
    assert accept_sampled([0, 1], q, p) == (0, 2)


def test_nothing_drafted_is_plain_sampling() -> None:
    assert accept_sampled([], torch.empty(0, 4), torch.eye(4)[[1]]) == (0, 1)


def test_a_seed_makes_it_repeatable() -> None:
    def draw(seed: int) -> list[tuple[int, int]]:
        generator = torch.Generator().manual_seed(seed)
        q = torch.full((3, 8), 1 / 8)
        p = torch.softmax(torch.arange(32.0).reshape(4, 8).sin(), dim=-1)
        return [accept_sampled([1, 2, 3], q, p, generator) for _ in range(20)]

    assert draw(1) == draw(1) != draw(2)


def test_impossible_input_is_refused() -> None:
    p = torch.full((2, 4), 0.25)
    with pytest.raises(ValueError, match="draft probability 0.0"):
        accept_sampled([0], torch.tensor([[0.0, 0.5, 0.5, 0.0]]), p)
    with pytest.raises(ValueError, match="draft probability nan"):
        accept_sampled([0], torch.full((1, 4), float("nan")), p)
    with pytest.raises(ValueError, match="need q"):
        accept_sampled([0, 1], p[:1], p)
    with pytest.raises(RuntimeError):
        accept_sampled([0], torch.full((1, 4), 0.25), torch.full((2, 4), float("nan")))
