"""Proposes sets of sub-layers to skip, and learns from how they did: random sets, near ones, and ones from a model.

The model is Bayesian linear regression: a set's score is the sum of what each unit adds. A draw from the posterior is a
guess of what each unit adds; the best set by that guess is proposed (Thompson sampling). Draft & Verify and SWIFT use a
Gaussian process in this place; on a hundred binary unknowns and a few dozen observations a linear model is as much as
can be told apart, and it needs no further package.
"""

import random
from collections.abc import Sequence

import numpy as np

from fastvlm_bench.drafters.skip_drafting import spread
from fastvlm_bench.drafts.skip_set import SkipSet

Chosen = frozenset[int]
"""Indices into the units."""
PRIOR = 1.0
"""How strongly the model believes that a unit adds nothing, in observations."""


class Proposals:
    """units: what may be skipped. seed: of everything random. The same calls in the same order propose the same."""

    def __init__(self, units: Sequence[SkipSet], seed: int) -> None:
        self.units = list(units)
        self.sizes = [len(unit) for unit in self.units]
        self.total = sum(self.sizes)
        self._random, self._generator = random.Random(seed), np.random.default_rng(seed)
        self.known: list[tuple[Chosen, float]] = []

    def set_of(self, chosen: Chosen) -> SkipSet:
        return SkipSet.union(self.units[i] for i in sorted(chosen))

    def uniform(self, count: int) -> Chosen:
        """Evenly spread units that skip `count` sub-layers."""
        return frozenset(spread(self.units, count))

    def fresh(self, count: int) -> Chosen:
        """Random units that skip `count` sub-layers, or one fewer where they do not add up to it."""
        return self._filled(self._random.sample(range(len(self.units)), len(self.units)), count)

    def near(self, best: Chosen, *, resize: bool = False) -> Chosen:
        """`best` with one unit, or with two, exchanged for others. resize: a unit may also be added or dropped."""
        inside, outside = sorted(best), sorted(set(range(len(self.units))) - best)
        found = set(best)
        for _ in range(self._random.choice((1, 1, 2))):
            move = self._random.choice(("swap", "add", "drop")) if resize else "swap"
            if move != "add" and inside:
                found.discard(self._random.choice(inside))
            if move != "drop" and outside:
                found.add(self._random.choice(outside))
        return frozenset(found)

    def modelled(self, count: int | None = None) -> Chosen:
        """The best set by a draw from the model. count: how many sub-layers it skips; None for as many as promise gain.

        A random set while nothing is known.
        """
        if not self.known:
            return self.fresh(count if count is not None else self.total // 2)
        gains = self._draw()
        order = np.argsort(-gains / np.array(self.sizes), kind="stable").tolist()
        if count is None:
            return frozenset(i for i in order if gains[i] > 0)
        return self._filled(order, count)

    def learn(self, chosen: Chosen, score: float) -> None:
        self.known.append((chosen, score))

    def _draw(self) -> "np.ndarray":
        """What each unit adds to the score, drawn from the posterior."""
        skipped = np.array([[float(i in chosen) for i in range(len(self.units))] for chosen, _ in self.known])
        scores = np.array([score for _, score in self.known])
        skipped, scores = skipped - skipped.mean(axis=0), scores - scores.mean()
        precision = skipped.T @ skipped + PRIOR * np.eye(len(self.units))
        mean = np.linalg.solve(precision, skipped.T @ scores)
        noise = float(np.std(scores - skipped @ mean)) or 1e-6
        root = np.linalg.cholesky(np.linalg.inv(precision))
        drawn: np.ndarray = mean + noise * root @ self._generator.standard_normal(len(mean))
        return drawn

    def _filled(self, order: Sequence[int], count: int) -> Chosen:
        found, left = set[int](), count
        for index in order:
            if self.sizes[index] <= left:
                found.add(index)
                left -= self.sizes[index]
        return frozenset(found)
