"""Quality of an arm and its paired difference to the reference, metric by metric."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, wraps
from typing import Any

from fastvlm_bench import metrics
from fastvlm_bench.analysis.arms import Arm, Pair, scored
from fastvlm_bench.analysis.flips import Flips, count_flips
from fastvlm_bench.analysis.statistics import (
    Estimate,
    bootstrap_draws,
    equivalence,
    mean_difference,
    percentile_interval,
)
from fastvlm_bench.errors import UsageError
from fastvlm_bench.metrics.cider_d import DocumentFrequencies
from fastvlm_bench.records.document_frequencies import FREQUENCIES

Judged = tuple[Estimate | None, str]
MARGIN = 0.005
"""Half a point of 100, on the 0-1 scale: a difference within it counts as none, unless the user sets another margin."""


def margin_of(config: Mapping[str, Any], points: float | None = None) -> float:
    """The margin on the 0-1 scale: from `points` (of 100) if given, else from the run's config, else `MARGIN`.

    UsageError unless it is above 0 and at most 100 points.
    """
    points = config.get("margin") if points is None else points
    if points is None:
        return MARGIN
    if not 0 < points <= 100:
        raise UsageError(f"--margin is {points:g}; it must be above 0 and at most 100, points of the 0-100 scale")
    return points / 100


@dataclass(frozen=True)
class Quality:
    """One metric of one arm, and its paired difference to the reference.

    value: on the metric's own scale; None if there is none, and then `reason` or `failure` says why. delta: ours minus
    the reference's; None for the reference itself and where no sample is paired. verdict: "identical" (all texts are,
    so the delta is exactly 0 and needs no interval), "equivalent", "better", "worse", "undecided", or "" without a
    delta. parts: further values that the metric yields. groups: the metric over each group of samples that the data set
    itself makes (answer types, NoCaps domains), each scored as a set of its own. reason: why the metric says nothing
    about these texts. failure: the error that it raised, in one line. flips: the samples that changed between right and
    wrong, for metrics that give no partial credit.
    """

    metric: str
    value: float | None
    delta: Estimate | None
    verdict: str
    parts: Mapping[str, float] = field(default_factory=dict, hash=False)
    groups: Mapping[str, float] = field(default_factory=dict, hash=False)
    reason: str = ""
    failure: str = ""
    flips: Flips | None = None


def score(
    metric: str, suite: Mapping[str, Any], texts: Sequence[str], references: Sequence[Sequence[str]], group: str = ""
) -> metrics.MetricScore | None:
    """The metric over some samples of a suite; None where it has no value (no sample at all, CIDEr-D of one image).

    A metric that weighs words by how many images use them counts them in the whole suite, so that a failed sample or a
    `--limit` does not change the scores of the others; with `group`, in the samples of that group. The metric's variant
    is the one in the suite's `variants`.
    """
    return attempt(metric, suite, texts, references, group)[0]


def attempt(
    metric: str, suite: Mapping[str, Any], texts: Sequence[str], references: Sequence[Sequence[str]], group: str = ""
) -> tuple[metrics.MetricScore | None, str]:
    """As `score`, together with the reason why there is no score ("" if there is one)."""
    whole = tuple(tuple(sample["references"]) for sample in suite["samples"] if group in ("", sample.get("group", "")))
    frequencies = suite.get(FREQUENCIES, {}).get(group)
    variant = suite.get("variants", {}).get(metric, "")
    scorer: Any = metrics.load(metric)
    return _scored(scorer, tuple(texts), tuple(map(tuple, references)), whole, frequencies, variant)


@lru_cache(maxsize=64)
def _scored(
    scorer: Any, texts: tuple[str, ...], references: tuple[tuple[str, ...], ...], whole: tuple[tuple[str, ...], ...],
    frequencies: DocumentFrequencies | None, variant: str,
) -> tuple[metrics.MetricScore | None, str]:  # fmt: skip
    """Cached, because the arms of lossless methods have the same texts and a report is made more than once."""
    known = inspect.signature(scorer.score).parameters
    extra: dict[str, Any] = {}
    if "frequencies" in known:
        extra = {"document_frequency_references": whole} if frequencies is None else {"frequencies": frequencies}
    if variant and "variant" in known:
        extra["variant"] = variant
    try:
        result: metrics.MetricScore = scorer.score(texts, references, **extra)
    except UsageError as error:
        return None, str(error)
    return result, ""


def group_names(suite: Mapping[str, Any]) -> list[str]:
    """The groups of a suite's samples, in order of appearance; [] unless there are at least two."""
    found = list(dict.fromkeys(name for sample in suite["samples"] if (name := sample.get("group", ""))))
    return found if len(found) > 1 else []


def compare_quality(metric: str, arm: Arm, paired: Sequence[Pair] | None, margin: float = MARGIN) -> Quality:
    """The metric of an arm and its difference over the pairs (ours, reference); None or no pairs give no difference.

    An exception in the metric is stored in `failure` and does not spoil the report: texts can be scored again, while
    times would have to be measured again. margin: on the 0-1 scale.
    """
    try:
        return _compared(metric, arm, paired, margin)
    except Exception as error:
        return Quality(metric, None, None, "", failure=failure_of(error))


def failure_of(error: Exception) -> str:
    """An exception in one line: its type, and the first 120 characters of its message's first line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:120]}" if lines else type(error).__name__


def _compared(metric: str, arm: Arm, paired: Sequence[Pair] | None, margin: float) -> Quality:
    """The metric over all measured samples of the arm, and its difference over the pairs (ours, reference)."""
    own = list(arm.measured.values())
    found, reason = attempt(metric, arm.suite, [s.text for s in own], [s.references for s in own])
    if found is None:
        return Quality(metric, None, None, "", reason=reason)
    groups = _by_group(metric, arm)
    if not paired:
        return Quality(metric, found.value, None, "", found.parts, groups)
    if all(scored(a) == scored(b) for ours, theirs in paired for a, b in zip(ours.lines, theirs.lines, strict=True)):
        same = Estimate(0.0, None, None, len(paired))
        unchanged = count_flips(found.per_sample, found.per_sample, range(len(found.per_sample)))
        return Quality(metric, found.value, same, "identical", found.parts, groups, flips=unchanged)
    texts, other = ([sample.text for sample in side] for side in zip(*paired, strict=True))
    references, images = ([getattr(ours, name) for ours, _ in paired] for name in ("references", "image_id"))
    delta, verdict = difference(metric, arm.suite, texts, other, references, images, margin)
    changed = flips(metric, arm.suite, texts, other, references, images)
    return Quality(metric, found.value, delta, verdict, found.parts, groups, flips=changed)


def _by_group(metric: str, arm: Arm) -> dict[str, float]:
    found: dict[str, float] = {}
    for name in group_names(arm.suite):
        ids = {sample["sample_id"] for sample in arm.suite["samples"] if sample.get("group", "") == name}
        own = [s for s in arm.measured.values() if s.sample_id in ids]
        part = score(metric, arm.suite, [s.text for s in own], [s.references for s in own], name)
        if part is not None:
            found[name] = part.value
    return found


def in_direction(judged: Callable[..., Judged]) -> Callable[..., Judged]:
    """The same, with the words better and worse exchanged for a metric of which less is better."""

    @wraps(judged)
    def judge(metric: str, *given: Any, **options: Any) -> Judged:
        delta, verdict = judged(metric, *given, **options)
        if not metrics.kind_of(metric).higher_is_better:
            verdict = {"better": "worse", "worse": "better"}.get(verdict, verdict)
        return delta, verdict

    return judge


@in_direction
def difference(
    metric: str, suite: Mapping[str, Any], own: Sequence[str], other: Sequence[str],
    references: Sequence[Sequence[str]], images: Sequence[str], margin: float = MARGIN,
) -> tuple[Estimate | None, str]:  # fmt: skip
    """Paired difference of two lists of texts on the same samples (own − other), and its verdict.

    A metric that is a mean over samples gets the cluster-robust t interval of its per-sample differences (for
    CIDEr-D this keeps the document frequencies fixed); a pooled metric (BLEU-4) gets a bootstrap over images. A pooled
    metric without counts (METEOR), or with too few images, has no interval and is "undecided". images: the image of
    each sample, by which intervals are clustered. margin: bound of the two one-sided tests, on the metric's own scale.
    """
    n = len(references)
    if list(own) == list(other):
        return Estimate(0.0, None, None, n), "identical"
    ours, theirs = (score(metric, suite, texts, references) for texts in (own, other))
    if ours is None or theirs is None:
        return None, ""
    delta = ours.value - theirs.value
    scorer: Any = metrics.load(metric)
    pooled = hasattr(scorer, "counts") and hasattr(scorer, "combine")
    if pooled:
        draws = _resampled(scorer, (own, other), references, images)
        if draws is not None:
            wide = percentile_interval(delta, draws, n)
            return wide, equivalence(percentile_interval(delta, draws, n, 0.90), wide, margin)
    differences = [a - b for a, b in zip(ours.per_sample, theirs.per_sample, strict=True)]
    if pooled or abs(sum(differences) / n - delta) > 1e-9:
        return Estimate(delta, None, None, n), "undecided"
    estimate = mean_difference(differences, images)
    return estimate, equivalence(mean_difference(differences, images, 0.90), estimate, margin)


def flips(
    metric: str, suite: Mapping[str, Any], own: Sequence[str], other: Sequence[str],
    references: Sequence[Sequence[str]], images: Sequence[str],
) -> Flips | None:  # fmt: skip
    """The samples that only one of two lists of texts gets right; None for a metric that gives partial credit."""
    first, second = (own, other) if metrics.kind_of(metric).higher_is_better else (other, own)
    ours, theirs = (score(metric, suite, texts, references) for texts in (first, second))
    return None if ours is None or theirs is None else count_flips(ours.per_sample, theirs.per_sample, images)


def _resampled(
    scorer: Any, texts: tuple[Sequence[str], Sequence[str]], references: Sequence[Sequence[str]], images: Sequence[str]
) -> list[float] | None:
    """Sorted bootstrap draws of the difference of a pooled metric; None with too few images.

    Such a metric offers its counts separately, so that a draw only adds numbers instead of scoring texts again:
    `counts(predictions, references)` gives one tuple per sample, and `combine(sums)` the value of their sums.
    """
    both = [scorer.counts(own, references) for own in texts]

    def drawn(indices: Sequence[int]) -> float:
        a, b = (scorer.combine([sum(column) for column in zip(*(c[i] for i in indices), strict=True)]) for c in both)
        return float(a - b)

    return bootstrap_draws(drawn, images)
