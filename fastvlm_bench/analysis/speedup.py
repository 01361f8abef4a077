"""The group `speedup` of a row: the reference's seconds divided by an arm's, with intervals and a word for each."""

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import compress
from operator import attrgetter

from fastvlm_bench.analysis.arms import Measured, Pair
from fastvlm_bench.analysis.batches import by_batch
from fastvlm_bench.analysis.drift import outliers
from fastvlm_bench.analysis.statistics import (
    CONFIDENCE,
    Estimate,
    geometric_mean_ratio,
    holm,
    p_of_beyond,
    p_of_one,
    ratio_of_totals,
    relative_spread,
)

FASTER, SLOWER, SAME, AMBIGUOUS = "FASTER", "SLOWER", "SAME", "AMBIGUOUS"
SAME_WITHIN = 0.01
FEWEST_SAMPLES = 5


def word(estimate: Estimate | None, holm_p: float | None = None, same_holm_p: float | None = None) -> str:
    """FASTER or SLOWER where the interval leaves out 1, SAME where it lies within ±1 %, AMBIGUOUS otherwise.

    It is always AMBIGUOUS below 5 images. holm_p, same_holm_p: the p values of `adjusted`, where there are several
    comparisons. Above 5 %, the first forbids FASTER and SLOWER, and the second SAME.
    """
    if estimate is None or estimate.low is None or estimate.high is None or estimate.independent < FEWEST_SAMPLES:
        return AMBIGUOUS
    within = estimate.low >= 1 - SAME_WITHIN and estimate.high <= 1 + SAME_WITHIN
    if within and (same_holm_p is None or same_holm_p <= 1 - CONFIDENCE):
        return SAME
    if holm_p is not None and holm_p > 1 - CONFIDENCE:
        return AMBIGUOUS
    if estimate.low > 1:
        return FASTER
    return SLOWER if estimate.high < 1 else AMBIGUOUS


def adjusted(estimates: Sequence[Estimate | None]) -> list[tuple[float | None, float | None]]:
    """The p values (of "equally fast", of "not within ±1 %") of several comparisons, by Holm's method.

    Each kind is adjusted over all comparisons that have an interval. (None, None) for one that has none, and for all if
    fewer than two have one.
    """
    known = [place for place, estimate in enumerate(estimates) if p_of_one(estimate) is not None]
    found: list[tuple[float | None, float | None]] = [(None, None)] * len(estimates)
    if len(known) < 2:
        return found
    ones = holm([p_of_one(estimates[place]) or 0.0 for place in known])
    beyond = holm([p_of_beyond(estimates[place], SAME_WITHIN) or 0.0 for place in known])
    for place, one, out in zip(known, ones, beyond, strict=True):
        found[place] = one, out
    return found


@dataclass(frozen=True)
class Speedup:
    """Ratios against the reference on the same samples; above 1, this arm is faster. The reference itself has none.

    decode, e2e: of the seconds of decoding, and of the whole request. geomean: the geometric mean of the pairs' ratios,
    the headline. totals: the ratio of the summed seconds. holm_p: p of "as fast as the reference", and same_holm_p: of
    "not within ±1 % of it", adjusted over the methods and suites of the run; None where there is one of each.
    speedup_by_invocation: of each process alone, () where there is one; speedup_between: their geometric mean.
    outliers: pairs whose end-to-end ratio lies far from the others.
    ratio_spread: interquartile range / median of the end-to-end ratios. e2e_speedup_ceiling: what the end-to-end
    speed-up would be if decoding took no time.
    """

    decode_speedup_geomean: Estimate | None = None
    e2e_speedup_geomean: Estimate | None = None
    decode_speedup_totals: Estimate | None = None
    e2e_speedup_totals: Estimate | None = None
    decode_speedup_holm_p: float | None = None
    e2e_speedup_holm_p: float | None = None
    decode_speedup_same_holm_p: float | None = None
    e2e_speedup_same_holm_p: float | None = None
    speedup_by_invocation: tuple[float, ...] = ()
    speedup_between: Estimate | None = None
    outliers: int | None = None
    e2e_speedup_without_outliers: Estimate | None = None
    ratio_spread: float | None = None
    e2e_speedup_ceiling: float | None = None

    @property
    def decode_speedup_verdict(self) -> str | None:
        """The `word` of the decode speed-up; None where there is no speed-up."""
        estimate = self.decode_speedup_geomean
        return word(estimate, self.decode_speedup_holm_p, self.decode_speedup_same_holm_p) if estimate else None

    @property
    def e2e_speedup_verdict(self) -> str | None:
        """The `word` of the end-to-end speed-up; None where there is no speed-up."""
        estimate = self.e2e_speedup_geomean
        return word(estimate, self.e2e_speedup_holm_p, self.e2e_speedup_same_holm_p) if estimate else None


DECODE, E2E = "decode", "e2e"


def common(speedups: Iterable[Speedup]) -> str:
    """The speed-up by which these can stand side by side: `DECODE`, or `E2E` if one has no other.

    A method whose answers all have one token decodes nothing; its end-to-end ratio is no decode ratio of another.
    """
    known = [each for each in speedups if each.e2e_speedup_geomean is not None]
    return E2E if any(each.decode_speedup_geomean is None for each in known) else DECODE


def speedup_of(paired: Sequence[Pair] | None, sampled: bool) -> Speedup:
    """The speed-ups over pairs (ours, the reference's); None for the reference itself.

    sampled: tokens were drawn, so that seconds are compared per token. The p values are left to `summary.summarise`,
    which knows all suites.
    """
    if paired is None:
        return Speedup()
    units = by_batch(paired)
    of_decoding, of_e2e = _seconds(units, sampled)
    decode, e2e = geometric_mean_ratio(*of_decoding), geometric_mean_ratio(*of_e2e)
    decode_totals, e2e_totals = ratio_of_totals(*of_decoding), ratio_of_totals(*of_e2e)
    ratios = [theirs.e2e_s / ours.e2e_s * (ours.tokens / theirs.tokens if sampled else 1)
              for ours, theirs in units if ours.e2e_s > 0]  # fmt: skip
    logs = [math.log(ratio) if ratio > 0 else 0.0 for ratio in ratios]
    odd = set(outliers(logs)) if len(logs) == len(units) else set()
    each = by_invocation(paired, sampled) if len(_invocations(paired)) > 1 else []
    return Speedup(
        decode_speedup_geomean=decode,
        e2e_speedup_geomean=e2e,
        decode_speedup_totals=decode_totals,
        e2e_speedup_totals=e2e_totals,
        speedup_by_invocation=tuple(each) if len(each) > 1 else (),
        speedup_between=geometric_mean_ratio(each, [1.0] * len(each)) if len(each) > 1 else None,
        outliers=len(odd),
        e2e_speedup_without_outliers=geometric_mean_ratio(*_without(odd, of_e2e)) if odd else None,
        ratio_spread=relative_spread(ratios),
        e2e_speedup_ceiling=amdahl_ceiling([theirs for _, theirs in units]),
    )


def speedups(
    paired: Sequence[Pair], estimator: Callable[..., Estimate | None], per_token: bool = False
) -> tuple[Estimate | None, Estimate | None]:
    """(decode, end-to-end) speed-up: reference seconds / our seconds, combined by `estimator`; None without a pair.

    One-token answers have no decoding and do not count in the decode speed-up. per_token: compare seconds per token,
    because sampled answers of the two arms differ in length. The samples of one batch are one observation. Intervals
    are clustered by image; a batch counts as one of its first sample's image.
    """
    decoding, e2e = _seconds(by_batch(paired), per_token)
    return estimator(*decoding), estimator(*e2e)


Compared = tuple[list[float], list[float], list[str]]
"""Of each observation the reference's seconds, ours, and its image."""


def _seconds(units: Sequence[Pair], per_token: bool) -> tuple[Compared, Compared]:
    """What is compared of these observations: (decoding where both decode, end to end)."""
    decoding = [pair for pair in units if pair[0].decodes and pair[1].decodes]

    def compared(own: Sequence[Pair], seconds: Callable[[Measured], float]) -> Compared:
        return ([seconds(theirs) for _, theirs in own], [seconds(ours) for ours, _ in own],
                [ours.image_id for ours, _ in own])  # fmt: skip

    if per_token:
        return (compared(decoding, lambda of: decode_seconds(of, True)),
                compared(units, lambda of: e2e_seconds(of, True)))  # fmt: skip
    return compared(decoding, attrgetter("decode_s")), compared(units, attrgetter("e2e_s"))


def _without(odd: Collection[int], compared: Compared) -> Compared:
    """What is compared, without the observations at these places."""
    theirs_s, ours_s, images = compared
    kept = [place not in odd for place in range(len(images))]
    return list(compress(theirs_s, kept)), list(compress(ours_s, kept)), list(compress(images, kept))


def decode_seconds(of: Measured, per_token: bool) -> float:
    return of.decode_s / (of.tokens - of.answers) if per_token else of.decode_s


def e2e_seconds(of: Measured, per_token: bool) -> float:
    return of.e2e_s / of.tokens if per_token else of.e2e_s


@dataclass(frozen=True)
class SampleRatio:
    """The speed-up of one sample, or of one batch as a whole. decode: None for an answer of one token.

    tokens: new tokens of our answer, the median over its repeats; of a batch, the sum over its samples.
    """

    sample_id: str
    tokens: float
    decode: float | None
    e2e: float


def sample_ratios(paired: Sequence[Pair], per_token: bool = False) -> list[SampleRatio]:
    """The ratios of which `speedups` takes the geometric mean. A pair of which ours took no time is left out."""
    return [
        SampleRatio(
            ours.sample_id,
            ours.tokens,
            decode_seconds(theirs, per_token) / decode_seconds(ours, per_token)
            if ours.decodes and theirs.decodes
            else None,
            e2e_seconds(theirs, per_token) / e2e_seconds(ours, per_token),
        )
        for ours, theirs in by_batch(paired)
        if ours.e2e_s > 0
    ]


def _invocations(paired: Sequence[Pair]) -> set[int]:
    return {line.get("invocation") or 0 for ours, _ in paired for line in ours.lines}


def by_invocation(paired: Sequence[Pair], per_token: bool) -> list[float]:
    """The speed-up of each invocation over its own samples: of decoding, or end to end where nothing is decoded."""
    found = []
    for number in sorted(_invocations(paired)):
        own = [
            (a, b) for ours, theirs in paired
            if (a := ours.within(number)) is not None and (b := theirs.within(number)) is not None
        ]  # fmt: skip
        decode, e2e = speedups(own, geometric_mean_ratio, per_token)
        if (estimate := decode or e2e) is not None:
            found.append(estimate.value)
    return found


def amdahl_ceiling(reference: Sequence[Measured]) -> float | None:
    """The end-to-end speed-up if decoding took no time: geometric mean of the reference's e2e / TTFT.

    By Amdahl's law it is 1 / (1 - d) for a sample that spends the share d of its time in decoding. It is a geometric
    mean because the headline speed-up is one. None without a sample.
    """
    estimate = geometric_mean_ratio([m.e2e_s for m in reference], [m.ttft_s for m in reference])
    return estimate.value if estimate is not None else None
