"""Answers that one method gets right and the other wrong, and McNemar's exact test of whether that favours either.

It is for metrics that call each sample right or wrong. The test looks at the changed answers alone and is exact; the
interval of the difference (`bounds`) agrees with it.
"""

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

MOST = 2000
"""Most changed images for which p is computed. With more of them, p says the same as the interval."""


@dataclass(frozen=True)
class Flips:
    """won: samples that only our method gets right. lost: samples that only the reference gets right.

    p: of McNemar's exact test, two-sided; None where nothing changed, and above `MOST` changed images.
    """

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
    """The chance of a total at least as far from 0 as the one seen, if neither side were favoured (McNemar 1947).

    The total is the sum of the images' net differences. Each net difference keeps its size, and a fair coin decides
    its sign: one toss per image, because the answers to questions about one image change together. With one sample
    per image this is McNemar's exact test, 2 · P(Binomial(won + lost, ½) ≤ min(won, lost)), at most 1. None where no
    image changed, and above `MOST` changed images.
    """
    nets: Counter[Hashable] = Counter()
    for difference, image in zip(differences, images, strict=True):
        nets[image] += difference
    sizes = Counter(abs(net) for net in nets.values() if net)
    if not 0 < sum(sizes.values()) <= MOST:
        return None
    chances = {0: 1.0}  # total -> probability; the images are added in groups of equal net difference
    for size, count in sizes.items():
        own = {size * (2 * heads - count): math.comb(count, heads) / 2**count for heads in range(count + 1)}
        together: dict[int, float] = {}
        for total, chance in chances.items():
            for more, other in own.items():
                together[total + more] = together.get(total + more, 0.0) + chance * other
        chances = together
    seen = abs(sum(nets.values()))
    return min(1.0, math.fsum(chance for total, chance in chances.items() if abs(total) >= seen))
