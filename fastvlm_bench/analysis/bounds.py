"""Bounds of a paired difference that hold their level although few samples changed, or none.

A t interval or a bootstrap knows only the changes that it saw: where none of 50 scores changed, it says ±0. Here each
bound counts one more image, which changed as much as it can (Gaffke 2005; Learned-Miller & Thomas, arXiv 1905.06208).
With x_g the sum of the differences of image g of G, m_g its number of samples, and independent weights
e_0, …, e_G ~ Exp(1):

    low  = quantile of (Σ e_g·x_g − e_0·B·m) / (Σ e_g·m_g + e_0·m)
    high = quantile of (Σ e_g·x_g + e_0·B·m) / (Σ e_g·m_g + e_0·m)

B is the largest possible difference of one sample, m = Σ m_g² / Σ m_g the size of a random sample's image. Where scores
of 0 and 1 only fell, the lower bound is exactly Clopper-Pearson's; where nothing changed, both are ∓B·(1 − α^(1/G)),
which at 5 % is about 3/G. A pooled metric has its counts in the place of x_g; for the image that is added, these are
the counts of a text with every word wrong on one side, and of one with every word right on the other.
"""

from collections.abc import Callable, Generator, Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from fastvlm_bench.analysis.statistics import CONFIDENCE, Estimate, interpolated
from fastvlm_bench.visible import waited

if TYPE_CHECKING:
    import numpy as np

Found = TypeVar("Found")
Drawn: TypeAlias = "tuple[np.ndarray, np.ndarray]"
Steps: TypeAlias = Generator[Sequence[Sequence[float]], Drawn, Found]
"""A computation that hands out the rows of its images, is sent their sums of each draw, and comes to a result."""

DRAWS = 10_000
"""Draws of the weights. They are the same in each report; at 5 % the level is off by 0.2 % at most, as a rule."""
_BLOCK = 250
MANY, FEW_KINDS = 5000, 10
"""Of more images than the first, of which so many are of one kind, a weight is drawn for each kind of them."""


@dataclass(frozen=True, eq=False)
class Bounds:
    """A difference of n samples on `groups` images. lows, highs: the sorted draws of which its bounds are quantiles."""

    value: float
    lows: Sequence[float]
    highs: Sequence[float]
    n: int
    groups: int

    def interval(self, confidence: float = CONFIDENCE) -> Estimate:
        """The two-sided interval: each bound misses in half of the cases that confidence leaves."""
        tail = (1 - confidence) / 2
        low, high = interpolated(self.lows, tail), interpolated(self.highs, 1 - tail)
        groups = None if self.groups == self.n else self.groups
        return Estimate(self.value, min(low, self.value), max(high, self.value), self.n, groups)

    def margin(self, confidence: float = CONFIDENCE) -> float:
        """The smallest margin within which the difference lies by two one-sided tests, each at 1 − confidence."""
        narrow = self.interval(2 * confidence - 1)
        return max(-(narrow.low or 0.0), narrow.high or 0.0)

    def p_of_none(self) -> float:
        """Two-sided p of "there is no difference"."""
        return min(1.0, 2 * min(_share(self.lows, 0.0), _share([-x for x in reversed(self.highs)], 0.0)))

    def p_of(self, margin: float) -> float:
        """p of "the difference is at least `margin`, in either direction": the larger of the two one-sided tests'."""
        return max(_share(self.lows, -margin), _share([-x for x in reversed(self.highs)], -margin))


def _share(ordered: Sequence[float], most: float) -> float:
    """The share of sorted draws up to `most`. It is never 0, because so few draws cannot show that."""
    from bisect import bisect_right

    return max(1, bisect_right(ordered, most)) / len(ordered)


def together(many: Sequence[Steps[Found]]) -> list[Found]:
    """What each of these comes to. The weights are drawn once for all that wait for theirs: they take longest."""
    found: dict[int, Found] = {}
    waiting: dict[int, Any] = dict.fromkeys(range(len(many)))  # place -> what its steps are sent
    while waiting:
        rows: dict[int, Sequence[Sequence[float]]] = {}
        for place, sent in waiting.items():
            try:
                rows[place] = many[place].send(sent)
            except StopIteration as ended:
                found[place] = ended.value
        waiting = dict(zip(rows, weighted_sums(list(rows.values())), strict=True)) if rows else {}
    return [found[place] for place in range(len(many))]


def alone(steps: Steps[Found]) -> Found:
    """What one of these comes to."""
    return together([steps])[0]


def mean_steps(differences: Sequence[float], images: Sequence[Hashable], largest: float) -> Steps[Bounds | None]:
    """The bounds of a mean of paired differences, each within ±largest. images: of each sample. None without one."""
    n = len(differences)
    if not n:
        return None
    rows = by_image([(difference, 1.0) for difference in differences], images)
    sizes = [row[1] for row in rows]
    value, groups = sum(differences) / n, len(rows)
    if not any(differences) and len(set(sizes)) == 1:  # the quantiles are known: those of a Beta(1, groups)
        shares = [1 - (1 - i / (DRAWS - 1)) ** (1 / groups) for i in range(DRAWS)]
        highs = [largest * share for share in shares]
        return Bounds(value, [-x for x in reversed(highs)], highs, n, groups)
    size = typical_size(sizes)
    sums, extra = yield rows
    total = sums[:, 1] + extra * size
    lows, highs_ = ((sums[:, 0] + sign * extra * largest * size) / total for sign in (-1, 1))
    return Bounds(value, sorted(lows.tolist()), sorted(highs_.tolist()), n, groups)


def pooled_steps(
    ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]], images: Sequence[Hashable],
    combine: Callable[[Sequence[float]], float], wrong: Sequence[float], right: Sequence[float],
) -> Steps[Bounds | None]:  # fmt: skip
    """The bounds of combine(Σ ours) − combine(Σ theirs). None without a sample.

    ours, theirs: the counts of each sample. wrong, right: those of the worst and of the best text that one more sample
    could have; the lower bound gives ours the worst and theirs the best, the upper bound the reverse.
    """
    if not ours:
        return None
    import numpy as np

    width = len(wrong)
    rows = by_image([(*a, *b, 1.0) for a, b in zip(ours, theirs, strict=True)], images)
    size = typical_size([row[-1] for row in rows])
    sums, extra = yield [row[:-1] for row in rows]

    def differences(added: Sequence[float]) -> list[float]:
        drawn = (sums + np.outer(extra * size, added)).tolist()
        return sorted(combine(row[:width]) - combine(row[width:]) for row in drawn)

    whole = [sum(column) for column in zip(*rows, strict=True)]
    value = combine(whole[:width]) - combine(whole[width:-1])
    lows, highs = differences([*wrong, *right]), differences([*right, *wrong])
    return Bounds(value, lows, highs, len(ours), len(rows))


def mean_bounds(differences: Sequence[float], images: Sequence[Hashable], largest: float) -> Bounds | None:
    """`mean_steps`, alone."""
    return alone(mean_steps(differences, images, largest))


def pooled_bounds(*given: Any) -> Bounds | None:
    """`pooled_steps`, alone."""
    return alone(pooled_steps(*given))


def by_image(rows: Sequence[Sequence[float]], images: Sequence[Hashable]) -> list[list[float]]:
    """The sums of the samples' rows over each image, in order of appearance."""
    found: dict[Hashable, list[float]] = {}
    for row, image in zip(rows, images, strict=True):
        sums = found.get(image)
        if sums is None:
            found[image] = [float(value) for value in row]
        else:
            for place, value in enumerate(row):
                sums[place] += value
    return list(found.values())


def typical_size(sizes: Sequence[float]) -> float:
    """The number of samples on the image of a random sample: Σ m² / Σ m."""
    return sum(size * size for size in sizes) / sum(sizes)


def weighted_sums(many: Sequence[Sequence[Sequence[float]]]) -> list[Drawn]:
    """For each list of rows Σ e_g·row_g of each draw, shape (DRAWS, columns), and the weight e_0, (DRAWS,)."""
    import numpy as np

    values = [np.asarray(rows, dtype=float) for rows in many]
    alike = [_alike(own) for own in values]
    sums = [np.zeros((DRAWS, own.shape[1])) for own in values]
    values = [own[:0] if few is not None else own for own, few in zip(values, alike, strict=True)]
    for of_draws, few in zip(sums, alike, strict=True):
        if few is not None:
            rows, counts = few
            source = np.random.RandomState(0)
            for row, count in zip(rows, counts.tolist(), strict=True):
                of_draws += source.standard_gamma(count, DRAWS)[:, None] * row
    blocks = -(-max(map(len, values)) // _BLOCK)
    for number in waited(range(blocks), blocks, "drawing weights of images"):
        weights = _weights(number)
        for own, of_draws in zip(values, sums, strict=True):
            if len(block := own[number * _BLOCK : (number + 1) * _BLOCK]):
                of_draws += weights[: len(block)].T @ block
    return [(of_draws, _quantiles()) for of_draws in sums]


def _alike(rows: "np.ndarray") -> "tuple[np.ndarray, np.ndarray] | None":
    """The different rows and how often each is there, where there are very many of few kinds; None otherwise.

    A data set has tens of thousands of images of which nearly all changed nothing. The sum of n weights of Exp(1) is
    one of Gamma(n), so that a weight is drawn for each kind of row in the place of one for each image.
    """
    import numpy as np

    if len(rows) <= MANY:
        return None
    kinds, counts = np.unique(rows, axis=0, return_counts=True)
    return (kinds, counts) if len(kinds) <= len(rows) // FEW_KINDS else None


def _quantiles() -> "np.ndarray":
    """As many quantiles of Exp(1) as there are draws, in order."""
    import numpy as np

    return -np.log1p(-(np.arange(DRAWS) + 0.5) / DRAWS)


@lru_cache(maxsize=4)
def _weights(seed: int) -> "np.ndarray":
    """Draws of independent Exp(1), shape (_BLOCK, DRAWS).

    Each row holds all quantiles in an order of its own (a Latin hypercube), which is more exact than random values.
    RandomState gives the same order in each version of numpy.
    """
    import numpy as np

    source, column = np.random.RandomState(seed), _quantiles()
    drawn = np.empty((_BLOCK, DRAWS))
    for place in range(_BLOCK):
        drawn[place] = source.permutation(column)
    return drawn
