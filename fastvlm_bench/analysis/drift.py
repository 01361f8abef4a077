"""Finds times that do not belong together: outliers, a slow first sample, a trend. They are flagged, never dropped."""

import math
from collections.abc import Sequence
from statistics import NormalDist, median

OUTLIER_Z = 3.5
TREND_P, TREND_SHARE = 0.01, 0.05
"""There is a trend where Mann-Kendall's p is below the first and the change from start to end exceeds the second."""
MOST = 300
"""Of more values than this, an even selection is searched for a trend: the work grows with the square of n."""


def modified_z(values: Sequence[float]) -> list[float]:
    """Distance of each value from the median, in standard deviations estimated from the MAD (Iglewicz & Hoaglin 1993).

    z = 0.6745 (x - median) / MAD. Where the MAD is 0, the standard deviation is estimated as 0.7413 times the
    interquartile range. Where that is 0, too, or with fewer than 4 values, all z are 0: nothing can be told apart.
    """
    if len(values) < 4:
        return [0.0] * len(values)
    centre = median(values)
    deviation = median(abs(value - centre) for value in values) / 0.6745
    if not deviation:
        ordered = sorted(values)
        deviation = 0.7413 * (ordered[(3 * len(ordered)) // 4] - ordered[len(ordered) // 4])
    return [(value - centre) / deviation if deviation else 0.0 for value in values]


def outliers(values: Sequence[float]) -> list[int]:
    """The indices of the values with |modified z| > 3.5."""
    return [place for place, z in enumerate(modified_z(values)) if abs(z) > OUTLIER_Z]


def slow_start(values: Sequence[float]) -> bool:
    """Whether the first value is an outlier upwards, as of a sample that still paid for the warm-up.

    False with fewer than 8 values.
    """
    return len(values) >= 8 and modified_z(values)[0] > OUTLIER_Z


def trend(values: Sequence[float]) -> float | None:
    """The relative change from the first value to the last (0.1 is 10 %) if there is a trend, else None.

    Mann-Kendall's test decides whether there is one, Theil-Sen's slope gives the change. A change of 5 % or less is no
    trend, and neither is anything in fewer than 20 values.
    """
    n = len(values)
    if n < 20:
        return None
    if n > MOST:
        values = [values[i * n // MOST] for i in range(MOST)]
        n = MOST
    signs, slopes = 0, []
    for i in range(n):
        for j in range(i + 1, n):
            step = values[j] - values[i]
            signs += (step > 0) - (step < 0)
            slopes.append(step / (j - i))
    spread = math.sqrt(n * (n - 1) * (2 * n + 5) / 18)  # standard deviation of `signs` if there is no trend
    z = (abs(signs) - 1) / spread if signs else 0.0
    change = median(slopes) * (n - 1) / median(values) if median(values) > 0 else 0.0
    p = 2 * (1 - NormalDist().cdf(z))
    return change if p < TREND_P and abs(change) > TREND_SHARE else None
