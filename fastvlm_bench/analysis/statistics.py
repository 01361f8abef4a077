"""Intervals and tests for paired measurements, in plain Python so that stored results can be read without scipy.

Every function returns None where there are too few data for its answer: "too few samples to say" is a result.
"""

import math
import random
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import fmean, median, variance

CONFIDENCE = 0.95
BOOTSTRAP_MINIMUM = 100
"""Percentile bootstrap intervals are too narrow below this many images (coverage 0.89 at n=10 for nominal 0.95)."""


@dataclass(frozen=True)
class Estimate:
    """A value of n observations, with its interval. `low` and `high` are None where n is too small for an interval."""

    value: float
    low: float | None
    high: float | None
    n: int


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


def geometric_mean_ratio(
    numerators: Sequence[float], denominators: Sequence[float], confidence: float = CONFIDENCE
) -> Estimate | None:
    """Geometric mean of the paired ratios with a t interval on their logarithms. None without positive pairs."""
    logs = [math.log(a / b) for a, b in zip(numerators, denominators, strict=True) if a > 0 and b > 0]
    if not logs:
        return None
    n, mean = len(logs), fmean(logs)
    if n < 2:
        return Estimate(math.exp(mean), None, None, n)
    half = t_quantile((1 + confidence) / 2, n - 1) * math.sqrt(variance(logs) / n)
    return Estimate(math.exp(mean), math.exp(mean - half), math.exp(mean + half), n)


def ratio_of_totals(
    numerators: Sequence[float], denominators: Sequence[float], confidence: float = CONFIDENCE
) -> Estimate | None:
    """R = sum(a) / sum(b) over pairs, with the delta-method interval R ± t·sqrt(n·var(a - R·b)) / sum(b)."""
    pairs = list(zip(numerators, denominators, strict=True))
    n, total = len(pairs), math.fsum(b for _, b in pairs)
    if not pairs or total <= 0:
        return None
    ratio = math.fsum(a for a, _ in pairs) / total
    if n < 2:
        return Estimate(ratio, None, None, n)
    residuals = math.fsum((a - ratio * b) ** 2 for a, b in pairs) / (n - 1)
    half = t_quantile((1 + confidence) / 2, n - 1) * math.sqrt(n * residuals) / total
    return Estimate(ratio, max(0.0, ratio - half), ratio + half, n)


def p_of_one(estimate: Estimate | None, confidence: float = CONFIDENCE) -> float | None:
    """Two-sided p of "the geometric mean ratio is 1", from its t interval on logarithms with n - 1 degrees of freedom.

    None without an interval.
    """
    if estimate is None or estimate.high is None or estimate.n < 2:
        return None
    log = math.log(estimate.value)
    error = (math.log(estimate.high) - log) / t_quantile((1 + confidence) / 2, estimate.n - 1)
    if error <= 0:
        return 1.0 if log == 0 else 0.0
    return t_tail(log / error, estimate.n - 1)


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
    return _interpolated(sorted(values), q / 100)


def _interpolated(ordered: Sequence[float], fraction: float) -> float:
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
    return (_interpolated(ordered, 0.75) - _interpolated(ordered, 0.25)) / centre


# ------------------------------------------------------------------------------------------ paired differences


def mean_difference(
    differences: Sequence[float], clusters: Sequence[Hashable], confidence: float = CONFIDENCE
) -> Estimate | None:
    """Mean paired difference with a cluster-robust t interval (Miller, arXiv 2411.00640).

    `clusters` names the image of each difference: questions about one image are not independent.
    SE² = G/(G-1) · sum over images of (sum of residuals)² / n², with G - 1 degrees of freedom.
    """
    n = len(differences)
    if not n:
        return None
    mean = fmean(differences)
    sums: dict[Hashable, float] = {}
    for difference, cluster in zip(differences, clusters, strict=True):
        sums[cluster] = sums.get(cluster, 0.0) + difference - mean
    groups = len(sums)
    if groups < 2:
        return Estimate(mean, None, None, n)
    error = math.sqrt(groups / (groups - 1) * math.fsum(s * s for s in sums.values())) / n
    half = t_quantile((1 + confidence) / 2, groups - 1) * error
    return Estimate(mean, mean - half, mean + half, n)


def equivalence(estimate_90: Estimate | None, estimate_95: Estimate | None, margin: float) -> str:
    """Two one-sided tests at 5 %: "equivalent" if the 90 % interval lies inside ±margin.

    Otherwise "better" or "worse" where the 95 % interval leaves out zero, and "undecided" where it does not.
    """
    if estimate_90 is None or estimate_90.low is None or estimate_90.high is None:
        return "undecided"
    if -margin < estimate_90.low and estimate_90.high < margin:
        return "equivalent"
    if estimate_95 is not None and estimate_95.low is not None and estimate_95.low > 0:
        return "better"
    if estimate_95 is not None and estimate_95.high is not None and estimate_95.high < 0:
        return "worse"
    return "undecided"


def rule_of_three(n: int) -> float | None:
    """95 % upper bound, 3/n, of the rate of something that did not happen in n samples. None for n = 0."""
    return min(1.0, 3.0 / n) if n else None


def bootstrap_draws(
    statistic: Callable[[Sequence[int]], float], clusters: Sequence[Hashable], resamples: int = 2000, seed: int = 0
) -> list[float] | None:
    """`statistic(indices)` of each resample of the images, sorted. None below `BOOTSTRAP_MINIMUM` images.

    clusters: the image of each sample. `indices` are the samples of the drawn images; a statistic of a paired
    difference must use them for both arms. The fixed seed makes a report print the same numbers each time.
    """
    members: dict[Hashable, list[int]] = {}
    for index, cluster in enumerate(clusters):
        members.setdefault(cluster, []).append(index)
    groups = list(members.values())
    if len(groups) < BOOTSTRAP_MINIMUM:
        return None
    source = random.Random(seed)
    return sorted(
        statistic([i for group in source.choices(groups, k=len(groups)) for i in group]) for _ in range(resamples)
    )


def percentile_interval(value: float, draws: Sequence[float], n: int, confidence: float = CONFIDENCE) -> Estimate:
    """The percentile interval of sorted bootstrap draws around `value`."""
    tail = (1 - confidence) / 2
    return Estimate(value, _interpolated(draws, tail), _interpolated(draws, 1 - tail), n)


def welch_p(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Two-sided p of Welch's t-test for equal means. None where a group has fewer than 3 values."""
    if len(first) < 3 or len(second) < 3:
        return None
    a, b = variance(first) / len(first), variance(second) / len(second)
    if a + b == 0:
        return 1.0 if fmean(first) == fmean(second) else 0.0
    df = (a + b) ** 2 / (a * a / (len(first) - 1) + b * b / (len(second) - 1))
    return t_tail((fmean(first) - fmean(second)) / math.sqrt(a + b), df)
