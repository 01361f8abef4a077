"""Answers that one method gets right and the other wrong, and McNemar's exact test of whether that favours either.

For metrics that say right or wrong of each sample. The interval of the mean difference rests on a t distribution, which
a handful of changed answers among hundreds cannot carry; this test conditions on the changed answers and is exact.
"""

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

MOST = 2000
"""Changed images up to which p is computed; beyond them it says what the interval says."""


@dataclass(frozen=True)
class Flips:
    """won: samples that only ours gets right. lost: only the reference. p: two-sided, None where nothing changed."""

    won: int
    lost: int
    p: float | None


def count_flips(ours: Sequence[float], theirs: Sequence[float], images: Sequence[Hashable]) -> Flips | None:
    """The flips between two lists of scores of the same samples; None unless every score is 0 or 1."""
    if not ours or not {*ours, *theirs} <= {0.0, 1.0}:
        return None
    differences = [int(a) - int(b) for a, b in zip(ours, theirs, strict=True)]
    return Flips(differences.count(1), differences.count(-1), exact_p(differences, images))


def exact_p(differences: Sequence[int], images: Sequence[Hashable]) -> float | None:
    """P(|Σ| at least as large) where the sign of each image's net difference is a fair coin (McNemar 1947).

    With one sample an image this is McNemar's exact test, 2 · P(Binomial(won + lost, ½) ≤ min(won, lost)), at most 1.
    Questions about one image change together, so an image's sign is tossed once.
    """
    nets: Counter[Hashable] = Counter()
    for difference, image in zip(differences, images, strict=True):
        nets[image] += difference
    sizes = Counter(abs(net) for net in nets.values() if net)
    if not 0 < sum(sizes.values()) <= MOST:
        return None
    chances = {0: 1.0}  # of each sum, images of one size after the other
    for size, count in sizes.items():
        own = {size * (2 * heads - count): math.comb(count, heads) / 2**count for heads in range(count + 1)}
        together: dict[int, float] = {}
        for total, chance in chances.items():
            for more, other in own.items():
                together[total + more] = together.get(total + more, 0.0) + chance * other
        chances = together
    seen = abs(sum(nets.values()))
    return min(1.0, math.fsum(chance for total, chance in chances.items() if abs(total) >= seen))
