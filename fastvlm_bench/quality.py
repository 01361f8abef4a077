"""Quality of an arm and its paired difference to the reference, metric by metric."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from fastvlm_bench import metrics
from fastvlm_bench.arms import Arm, Measured
from fastvlm_bench.errors import UsageError
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
    "worse", "undecided", or "" where there is no delta. `failure`: the error that a metric raised, in one line.
    """

    metric: str
    value: float | None
    delta: Estimate | None
    verdict: str
    failure: str = ""


def score(
    metric: str, suite: Mapping[str, Any], texts: Sequence[str], references: Sequence[Sequence[str]]
) -> metrics.MetricScore | None:
    """The metric over some samples of a suite; None where it says nothing about them (none at all, CIDEr-D of one).

    A metric that weighs words by how many images use them gets the references of the whole suite for that, so that a
    failed sample does not change the scores of the others.
    """
    whole = tuple(tuple(sample["references"]) for sample in suite["samples"])
    scorer: Any = metrics.load(metric)
    return _scored(scorer, tuple(texts), tuple(map(tuple, references)), whole)


@lru_cache(maxsize=64)
def _scored(
    scorer: Any, texts: tuple[str, ...], references: tuple[tuple[str, ...], ...], whole: tuple[tuple[str, ...], ...]
) -> metrics.MetricScore | None:
    """Cached: the arms of lossless methods have the same texts, and a report is made more than once."""
    known = inspect.signature(scorer.score).parameters
    extra = {"document_frequency_references": whole} if "document_frequency_references" in known else {}
    try:
        result: metrics.MetricScore = scorer.score(texts, references, **extra)
    except UsageError:
        return None
    return result


def compare_quality(metric: str, arm: Arm, paired: Sequence[tuple[Measured, Measured]] | None) -> Quality:
    """`_compared`; a metric that raises leaves the times alone, which cannot be measured again as easily."""
    try:
        return _compared(metric, arm, paired)
    except Exception as error:
        return Quality(metric, None, None, "", failure_of(error))


def failure_of(error: Exception) -> str:
    """An exception in one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:120]}" if lines else type(error).__name__


def _compared(metric: str, arm: Arm, paired: Sequence[tuple[Measured, Measured]] | None) -> Quality:
    """The metric over all measured samples of the arm, and its difference over the pairs (ours, reference).

    A metric that is a mean over samples gets the cluster-robust t interval of its per-sample differences (for
    CIDEr-D this keeps the document frequencies fixed); a pooled metric (BLEU-4) gets a bootstrap over images.
    """
    own = list(arm.measured.values())
    scored = score(metric, arm.suite, [s.text for s in own], [s.references for s in own])
    value = scored.value if scored is not None else None
    if not paired or scored is None:
        return Quality(metric, value, None, "")
    n = len(paired)
    if all(a["text"] == b["text"] for ours, theirs in paired for a, b in zip(ours.lines, theirs.lines, strict=True)):
        return Quality(metric, value, Estimate(0.0, None, None, n), "identical")
    texts = [ours.text for ours, _ in paired], [theirs.text for _, theirs in paired]
    references = [ours.references for ours, _ in paired]
    images = [ours.image_id for ours, _ in paired]
    ours, theirs = (score(metric, arm.suite, own_texts, references) for own_texts in texts)
    if ours is None or theirs is None:
        return Quality(metric, value, None, "")
    delta = ours.value - theirs.value
    scorer = metrics.load(metric)
    if hasattr(scorer, "counts") and hasattr(scorer, "combine"):
        draws = _resampled(scorer, texts, references, images)
        if draws is not None:
            wide = percentile_interval(delta, draws, n)
            return Quality(metric, value, wide, equivalence(percentile_interval(delta, draws, n, 0.90), wide, MARGIN))
    differences = [a - b for a, b in zip(ours.per_sample, theirs.per_sample, strict=True)]
    if hasattr(scorer, "counts") or abs(sum(differences) / n - delta) > 1e-9:
        return Quality(metric, value, Estimate(delta, None, None, n), "undecided")
    estimate = mean_difference(differences, images)
    return Quality(metric, value, estimate, equivalence(mean_difference(differences, images, 0.90), estimate, MARGIN))


def _resampled(
    scorer: Any, texts: tuple[Sequence[str], Sequence[str]], references: Sequence[Sequence[str]], images: Sequence[str]
) -> list[float] | None:
    """Bootstrap draws of the difference of a pooled metric.

    Such a metric gives its counts apart, so that a draw adds numbers instead of scoring texts again:
    `counts(predictions, references)`, a tuple a sample, and `combine(sums) -> float`.
    """
    both = [scorer.counts(own, references) for own in texts]

    def difference(indices: Sequence[int]) -> float:
        a, b = (scorer.combine([sum(column) for column in zip(*(c[i] for i in indices), strict=True)]) for c in both)
        return float(a - b)

    return bootstrap_draws(difference, images)
