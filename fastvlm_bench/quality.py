"""Quality of an arm and its paired difference to the reference, metric by metric."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fastvlm_bench import metrics
from fastvlm_bench.arms import Arm, Measured
from fastvlm_bench.statistics import (
    Estimate,
    bootstrap_draws,
    equivalence,
    mean_difference,
    percentile_interval,
)

MARGIN = 0.005
"""Half a point on the 0-1 scale: the difference that counts as no difference."""


@dataclass(frozen=True)
class Quality:
    """One metric of one arm. `value` None: nothing to score. `delta` None: it is the reference, or nothing is paired.

    `verdict`: "identical" (all texts are, so the delta is exactly 0 and needs no interval), "equivalent", "better",
    "worse", "undecided", or "" where there is no delta.
    """

    metric: str
    value: float | None
    delta: Estimate | None
    verdict: str


def score(metric: str, samples: Sequence[Measured]) -> float | None:
    """The metric over these samples, None of none."""
    if not samples:
        return None
    return float(metrics.load(metric).score([s.text for s in samples], [s.references for s in samples]).value)


def compare_quality(metric: str, arm: Arm, paired: Sequence[tuple[Measured, Measured]] | None) -> Quality:
    """The metric over all measured samples of the arm, and its difference over the pairs (ours, reference).

    A metric that is a mean over samples gets the cluster-robust t interval of its per-sample differences (for
    CIDEr-D this keeps the document frequencies fixed); a corpus metric (BLEU) gets a bootstrap over images.
    """
    value = score(metric, list(arm.measured.values()))
    if not paired:
        return Quality(metric, value, None, "")
    n = len(paired)
    if all(a["text"] == b["text"] for ours, theirs in paired for a, b in zip(ours.lines, theirs.lines, strict=True)):
        return Quality(metric, value, Estimate(0.0, None, None, n), "identical")
    scorer = metrics.load(metric)
    ours_texts = [ours.text for ours, _ in paired]
    their_texts = [theirs.text for _, theirs in paired]
    references = [ours.references for ours, _ in paired]
    images = [ours.image_id for ours, _ in paired]
    ours, theirs = scorer.score(ours_texts, references), scorer.score(their_texts, references)
    delta = float(ours.value - theirs.value)
    differences = [float(a - b) for a, b in zip(ours.per_sample, theirs.per_sample, strict=True)]
    if abs(sum(differences) / n - delta) < 1e-9:
        interval = mean_difference(differences, images)
        verdict = equivalence(mean_difference(differences, images, 0.90), interval, MARGIN)
        return Quality(metric, value, interval, verdict)

    draws = _resampled(scorer, ours_texts, their_texts, references, images)
    if draws is None:
        return Quality(metric, value, Estimate(delta, None, None, n), "undecided")
    interval = percentile_interval(delta, draws, n)
    return Quality(metric, value, interval, equivalence(percentile_interval(delta, draws, n, 0.90), interval, MARGIN))


def _resampled(
    scorer: Any, ours: Sequence[str], theirs: Sequence[str], references: Sequence[Sequence[str]], images: Sequence[str]
) -> list[float] | None:
    """Bootstrap draws of the difference of a pooled metric; None if the metric does not give its counts apart.

    Such a metric has `counts(predictions, references)`, a tuple a sample, and `combine(sums) -> float`: scoring the
    texts again for each of thousands of draws would take minutes.
    """
    if not (hasattr(scorer, "counts") and hasattr(scorer, "combine")):
        return None
    both = [scorer.counts(ours, references), scorer.counts(theirs, references)]

    def difference(indices: Sequence[int]) -> float:
        a, b = (scorer.combine([sum(column) for column in zip(*(c[i] for i in indices), strict=True)]) for c in both)
        return float(a - b)

    return bootstrap_draws(difference, images)
