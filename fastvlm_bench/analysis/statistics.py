"""Intervals and tests for paired measurements, in plain Python so that stored results can be read without scipy.

Every function returns None where there are too few data for its answer: "too few samples to say" is a result.
"""

import math
from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import compress
from statistics import fmean, median, variance

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A value of n observations, with its interval. `low` and `high` are None where n is too small for an interval.

    groups: how many independent groups (images) the observations fall into; None where each is its own.
    """

    value: float
    low: float | None
    high: float | None
    n: int
    groups: int | None = None

    @property
    def independent(self) -> int:
        """How many independent groups the interval rests on."""
        return self.n if self.groups is None else self.groups


def divide(numerator: float, denominator: float | None) -> float | None:
    """The quotient, or None where the denominator is zero or unknown: "not measured" is never 0 or infinity."""
    return numerator / denominator if denominator else None


# ------------------------------------------------------------------------------------------ Student's t


def _beta_fraction(x: float, a: float, b: float) -> float:
    """Continued fraction of the incomplete beta function (Lentz's method; DLMF 8.17.22)."""
    tiny = 1e-300
    c, d = 1.0, 1.0 - (a + b) * x / (a + 1.0)
    d = 1.0 / (d if abs(d) > tiny else tiny)
    result = d
    for m in range(1, 1000):
        for term in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1.0 + term * d
            d = 1.0 / (d if abs(d) > tiny else tiny)
            c = 1.0 + term / c
            c = c if abs(c) > tiny else tiny
            result *= c * d
        if abs(c * d - 1.0) < 1e-15:
            break
    return result


def regularised_beta(x: float, a: float, b: float) -> float:
    """I_x(a, b), the regularised incomplete beta function, for 0 <= x <= 1."""
    if x <= 0.0 or x >= 1.0:
        return 0.0 if x <= 0.0 else 1.0
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    if x < (a + 1.0) / (a + b + 2.0):
        return math.exp(log_front) * _beta_fraction(x, a, b) / a
    return 1.0 - math.exp(log_front) * _beta_fraction(1.0 - x, b, a) / b


def t_tail(t: float, df: float) -> float:
    """Two-sided tail P(|T| >= |t|) of Student's t with df degrees of freedom."""
    return regularised_beta(df / (df + t * t), df / 2.0, 0.5)


@lru_cache(maxsize=1024)
def t_quantile(p: float, df: float) -> float:
    """The p-quantile of Student's t, 0 < p < 1, by bisection on the tail."""
    if not 0.0 < p < 1.0 or df <= 0:
        raise ValueError(f"t_quantile needs 0 < p < 1 and df > 0, not p={p}, df={df}")
    if p < 0.5:
        return -t_quantile(1.0 - p, df)
    target = 2.0 * (1.0 - p)
    high = 1.0
    while t_tail(high, df) > target:
        high *= 2.0
    low = 0.0
    for _ in range(200):
        middle = (low + high) / 2.0
        if middle in (low, high):
            break
        low, high = (middle, high) if t_tail(middle, df) > target else (low, middle)
    return (low + high) / 2.0


# ------------------------------------------------------------------------------------------ paired ratios


def clustered_error(residuals: Sequence[float], clusters: Sequence[Hashable] | None) -> tuple[float | None, int]:
    """(Standard error of the residuals' sum, number of clusters); the error is None for fewer than two clusters.

    SE² = G/(G-1) · Σ over clusters of (sum of residuals)² (Miller, arXiv 2411.00640). None for clusters: each residual
    is its own, and SE² is n · variance.
    """
    if clusters is None:
        totals: Collection[float] = residuals
    else:
        sums: dict[Hashable, float] = {}
        for residual, cluster in zip(residuals, clusters, strict=True):
            sums[cluster] = sums.get(cluster, 0.0) + residual
        totals = sums.values()
    groups = len(totals)
    if groups < 2:
        return None, groups
    return math.sqrt(groups / (groups - 1) * math.fsum([s * s for s in totals])), groups


def geometric_mean_ratio(
    numerators: Sequence[float], denominators: Sequence[float], clusters: Sequence[Hashable] | None = None,
    confidence: float = CONFIDENCE,
) -> Estimate | None:  # fmt: skip
    """Geometric mean of the paired ratios, with a t interval of their logarithms. None without positive pairs.

    clusters: the image of each pair. Pairs of one image are not independent: the interval is cluster-robust, with as
    many degrees of freedom as there are images, less one.
    """
    kept = [a > 0 and b > 0 for a, b in zip(numerators, denominators, strict=True)]
    logs = [math.log(a / b) for a, b in zip(compress(numerators, kept), compress(denominators, kept), strict=True)]
    if not logs:
        return None
    found = mean_difference(logs, None if clusters is None else list(compress(clusters, kept)), confidence)
    assert found is not None
    low, high = (None if bound is None else math.exp(bound) for bound in (found.low, found.high))
    return Estimate(math.exp(found.value), low, high, found.n, found.groups)


def ratio_of_totals(
    numerators: Sequence[float], denominators: Sequence[float], clusters: Sequence[Hashable] | None = None,
    confidence: float = CONFIDENCE,
) -> Estimate | None:  # fmt: skip
    """R = sum(a) / sum(b) over pairs, with the delta-method interval R ± t · SE(sum(a - R·b)) / sum(b).

    clusters: the image of each pair; SE as in `clustered_error`.
    """
    n, total = len(denominators), math.fsum(denominators)
    if not n or total <= 0:
        return None
    ratio = math.fsum(numerators) / total
    error, groups = clustered_error([a - ratio * b for a, b in zip(numerators, denominators, strict=True)], clusters)
    own = None if groups == n else groups
    if error is None:
        return Estimate(ratio, None, None, n, own)
    half = t_quantile((1 + confidence) / 2, groups - 1) * error / total
    return Estimate(ratio, max(0.0, ratio - half), ratio + half, n, own)


def log_error(estimate: Estimate | None, confidence: float = CONFIDENCE) -> float | None:
    """The standard error of a geometric mean's logarithm, from its t interval. None without an interval."""
    if estimate is None or estimate.high is None or estimate.independent < 2:
        return None
    return math.log(estimate.high / estimate.value) / t_quantile((1 + confidence) / 2, estimate.independent - 1)


def p_of_one(estimate: Estimate | None) -> float | None:
    """Two-sided p of "the geometric mean ratio is 1", from its t interval on logarithms. None without an interval."""
    if estimate is None or (error := log_error(estimate)) is None:
        return None
    return _two_sided(math.log(estimate.value), error, estimate.independent - 1)


def p_of_beyond(estimate: Estimate | None, share: float) -> float | None:
    """p of "the ratio lies outside 1 ± share": two one-sided t tests. None without an interval.

    It is two-sided, that is doubled, so that it is at most 5 % where the 95 % interval lies within 1 ± share.
    """
    if estimate is None or (error := log_error(estimate)) is None:
        return None
    log = math.log(estimate.value)
    inside = (log - math.log(1 - share), math.log(1 + share) - log)
    return max(_two_sided(gap, error, estimate.independent - 1) if gap >= 0 else 1.0 for gap in inside)


def _two_sided(difference: float, error: float, df: float) -> float:
    if error <= 0:
        return 1.0 if difference == 0 else 0.0
    return t_tail(difference / error, df)


def holm(ps: Sequence[float]) -> list[float]:
    """Holm's adjusted p values (1979), in the order given. Each can be compared with the level (0.05) itself."""
    adjusted, running = [0.0] * len(ps), 0.0
    for rank, place in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        running = max(running, min(1.0, (len(ps) - rank) * ps[place]))
        adjusted[place] = running
    return adjusted


# ------------------------------------------------------------------------------------------ one arm


def percentile(values: Sequence[float], q: float) -> float | None:
    """The q-th percentile (0-100, linear interpolation); None where there are too few values for it.

    p5 to p95 need 100 values and anything further out needs 1000; with fewer, a "p99" is one lucky value.
    """
    if len(values) < (100 if 5 <= q <= 95 else 1000):
        return None
    return interpolated(sorted(values), q / 100)


def interpolated(ordered: Sequence[float], fraction: float) -> float:
    """The quantile of sorted values at a fraction from 0 to 1, linear between two of them."""
    position = fraction * (len(ordered) - 1)
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


def middle(values: Sequence[float]) -> float | None:
    """The median; None if there are no values."""
    return float(median(values)) if values else None


def relative_spread(values: Sequence[float]) -> float | None:
    """Interquartile range / median: the noise of a ratio. None below 4 values or where the median is not positive."""
    if len(values) < 4 or (centre := median(values)) <= 0:
        return None
    ordered = sorted(values)
    return (interpolated(ordered, 0.75) - interpolated(ordered, 0.25)) / centre


# ------------------------------------------------------------------------------------------ paired differences


def mean_difference(
    differences: Sequence[float], clusters: Sequence[Hashable] | None, confidence: float = CONFIDENCE
) -> Estimate | None:
    """Mean paired difference with a cluster-robust t interval, with G - 1 degrees of freedom.

    `clusters` names the image of each difference: questions about one image are not independent. None: each is its own.
    """
    n = len(differences)
    if not n:
        return None
    mean = fmean(differences)
    error, groups = clustered_error([difference - mean for difference in differences], clusters)
    own = None if groups == n else groups
    if error is None:
        return Estimate(mean, None, None, n, own)
    half = t_quantile((1 + confidence) / 2, groups - 1) * error / n
    return Estimate(mean, mean - half, mean + half, n, own)


def rule_of_three(n: int) -> float | None:
    """95 % upper bound, 3/n, of the rate of something that did not happen in n images. None for n = 0."""
    return min(1.0, 3.0 / n) if n else None


def welch_p(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Two-sided p of Welch's t-test for equal means. None where a group has fewer than 3 values."""
    if len(first) < 3 or len(second) < 3:
        return None
    a, b = variance(first) / len(first), variance(second) / len(second)
    if a + b == 0:
        return 1.0 if fmean(first) == fmean(second) else 0.0
    df = (a + b) ** 2 / (a * a / (len(first) - 1) + b * b / (len(second) - 1))
    return t_tail((fmean(first) - fmean(second)) / math.sqrt(a + b), df)
