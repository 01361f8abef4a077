"""The interval of a share whose tokens are not independent: tokens of one image agree, or are accepted, together."""

from collections.abc import Iterable
from math import fsum, sqrt

from fastvlm_bench.analysis.speedup import FEWEST_SAMPLES
from fastvlm_bench.analysis.statistics import CONFIDENCE, Estimate, t_quantile


def share_of(counts: Iterable[Iterable[float]]) -> Estimate:
    """Σ agreeing / Σ tokens of the images, with its interval. counts: (agreeing, tokens) of each; some may have none.

    Wilson's interval, of as many independent tokens as give the variance that the images show (the ratio estimator's
    jackknife), with t instead of the normal quantile. Where the images show none, for instance because all agree, an
    image counts as one token: that nothing was seen to go wrong in 5 images says little.
    """
    pairs = [(float(agreeing), float(tokens)) for agreeing, tokens in counts if tokens > 0]
    agreeing, tokens, count = fsum(a for a, _ in pairs), fsum(n for _, n in pairs), len(pairs)
    value = agreeing / tokens
    if count < FEWEST_SAMPLES:
        return Estimate(value, None, None, int(tokens), count)
    without = [(a - value * n) / (1 - n / tokens) for a, n in pairs]  # what leaving out an image changes
    variance = fsum(change * change for change in without) / tokens**2
    independent = value * (1 - value) / variance if variance else float(count)
    square = t_quantile((1 + CONFIDENCE) / 2, count - 1) ** 2
    centre = (value + square / (2 * independent)) / (1 + square / independent)
    half = sqrt(square * (value * (1 - value) / independent + square / (4 * independent**2))) / (
        1 + square / independent
    )
    low, high = min(value, max(0.0, centre - half)), max(value, min(1.0, centre + half))  # rounding leaves p within
    return Estimate(value, low, high, int(tokens), count)
