"""Quality of an arm and its paired difference to the reference, metric by metric."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from fastvlm_bench import metrics
from fastvlm_bench.analysis.arms import Arm, Measured, Pair, scored
from fastvlm_bench.analysis.bounds import Steps, alone
from fastvlm_bench.analysis.differences import BETTER, WORSE, Difference, adjusted, difference_of, no_difference, word
from fastvlm_bench.analysis.flips import Flips, count_flips
from fastvlm_bench.analysis.statistics import Estimate
from fastvlm_bench.errors import UsageError
from fastvlm_bench.metrics.cider_d import DocumentFrequencies
from fastvlm_bench.records.document_frequencies import FREQUENCIES

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

    value: on the metric's own scale; None if there is none, and then `reason` or `failure` says why. delta, verdict,
    changed, bound, difference_p, margin_p: as in `Difference`; without a delta for the reference itself and where no
    sample is paired. parts: further values that the metric yields. groups: the metric over each group of samples that
    the data set itself makes (answer types, NoCaps domains), each scored as a set of its own. reason: why the metric
    says nothing about these texts. failure: the error that it raised, in one line. flips: the samples that changed
    between right and wrong, for metrics that give no partial credit.
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
    changed: int | None = None
    bound: float | None = None
    difference_p: float | None = None
    margin_p: float | None = None


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
    frequencies = suite.get(FREQUENCIES, {}).get(group)
    variant = suite.get("variants", {}).get(metric, "")
    scorer: Any = metrics.load(metric)
    whole: tuple[tuple[str, ...], ...] = ()
    if frequencies is None and "frequencies" in inspect.signature(scorer.score).parameters:
        own = (sample["references"] for sample in suite["samples"] if group in ("", sample.get("group", "")))
        whole = tuple(map(tuple, own))
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


_Texts = tuple[list[str], list[str], list[tuple[str, ...]], list[str]]
"""Of each pair our text, the reference's, the references that both are scored by, and the image."""


def compare_quality(metric: str, arm: Arm, paired: Sequence[Pair] | None, margin: float = MARGIN) -> Steps[Quality]:
    """The metric of an arm and its difference over the pairs (ours, reference); None or no pairs give no difference.

    An exception in the metric is stored in `failure` and does not spoil the report: texts can be scored again, while
    times would have to be measured again. margin: on the 0-1 scale. The texts are taken from the pairs at once, so that
    what waits for its weights holds no pairs.
    """
    try:
        quality, differing = _without_difference(metric, arm, paired)
    except Exception as error:
        quality, differing = Quality(metric, None, None, "", failure=failure_of(error)), None
    return _with_difference(quality, arm.suite, differing, margin)


def _with_difference(
    quality: Quality, suite: Mapping[str, Any], differing: _Texts | None, margin: float
) -> Steps[Quality]:  # fmt: skip
    if differing is None:
        return quality
    try:
        own_difference = yield from _difference(quality.metric, suite, *differing, margin)
        changed = flips(quality.metric, suite, *differing)
    except Exception as error:
        return Quality(quality.metric, None, None, "", failure=failure_of(error))
    return replace(quality, **vars(own_difference), flips=changed)


def failure_of(error: Exception) -> str:
    """An exception in one line: its type, and the first 120 characters of its message's first line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:120]}" if lines else type(error).__name__


def _without_difference(metric: str, arm: Arm, paired: Sequence[Pair] | None) -> tuple[Quality, _Texts | None]:
    """The metric over all measured samples of the arm, and the texts of the pairs (ours, reference) if any differ."""
    own = list(arm.measured.values())
    found, reason = attempt(metric, arm.suite, [s.text for s in own], [s.references for s in own])
    if found is None:
        return Quality(metric, None, None, "", reason=reason), None
    quality = Quality(metric, found.value, None, "", found.parts, _by_group(metric, arm))
    if not paired:
        return quality, None
    texts, other = ([sample.text for sample in side] for side in zip(*paired, strict=True))
    # Texts that differ in a later repeat are not identical, although the first repeat alone is scored.
    if texts == other and all(
        scored(a) == scored(b) for ours, theirs in paired if len(ours.lines) > 1
        for a, b in zip(ours.lines, theirs.lines, strict=True)
    ):  # fmt: skip
        unchanged = count_flips(found.per_sample, found.per_sample, range(len(found.per_sample)))
        return replace(quality, **vars(no_difference(len(paired))), flips=unchanged), None
    return quality, (texts, other, [ours.references for ours, _ in paired], [ours.image_id for ours, _ in paired])


def _by_group(metric: str, arm: Arm) -> dict[str, float]:
    found: dict[str, float] = {}
    if not (names := group_names(arm.suite)):
        return found
    group_of = {sample["sample_id"]: sample.get("group") or "" for sample in arm.suite["samples"]}
    members: dict[str, list[Measured]] = {name: [] for name in ("", *names)}
    for sample in arm.measured.values():
        members[group_of[sample.sample_id]].append(sample)
    for name in names:
        own = members[name]
        part = score(metric, arm.suite, [s.text for s in own], [s.references for s in own], name)
        if part is not None:
            found[name] = part.value
    return found


def difference(
    metric: str, suite: Mapping[str, Any], own: Sequence[str], other: Sequence[str],
    references: Sequence[Sequence[str]], images: Sequence[str], margin: float = MARGIN,
) -> Difference:  # fmt: skip
    """Paired difference of two lists of texts on the same samples (own − other), and its word.

    images: the image of each sample, by which intervals are clustered. margin: on the metric's own scale.
    """
    if list(own) == list(other):
        return no_difference(len(references))
    return alone(_difference(metric, suite, own, other, references, images, margin))


def _difference(
    metric: str, suite: Mapping[str, Any], own: Sequence[str], other: Sequence[str],
    references: Sequence[Sequence[str]], images: Sequence[str], margin: float,
) -> Steps[Difference]:  # fmt: skip
    ours, theirs = (score(metric, suite, texts, references) for texts in (own, other))
    if ours is None or theirs is None:
        return Difference()
    found = yield from difference_of(metrics.load(metric), ours, theirs, (own, other), references, images, margin)
    return found if found.delta is None else replace(found, verdict=_in_direction(metric, found.verdict))


def _in_direction(metric: str, verdict: str) -> str:
    """The verdict, with better and worse exchanged for a metric of which less is better."""
    if metrics.kind_of(metric).higher_is_better:
        return verdict
    return {BETTER: WORSE, WORSE: BETTER}.get(verdict, verdict)


def adjust(families: Sequence[Sequence[Quality]]) -> list[tuple[Quality, ...]]:
    """The qualities of several comparisons, each a list of metrics, with p values and words adjusted over all of them.

    Each metric is a family of its own: its words in all comparisons are wrong together in at most 5 % of runs.
    """
    found = [list(qualities) for qualities in families]
    for metric in {quality.metric for qualities in families for quality in qualities}:
        places = [(i, j) for i, qualities in enumerate(families) for j, q in enumerate(qualities) if q.metric == metric]
        own = [families[i][j] for i, j in places]
        none, beyond = adjusted([q.difference_p for q in own]), adjusted([q.margin_p for q in own])
        for (i, j), q, difference_p, margin_p in zip(places, own, none, beyond, strict=True):
            if q.delta is not None and difference_p is not None:
                verdict = _in_direction(metric, word(q.delta.value, difference_p, margin_p))
                found[i][j] = replace(q, difference_p=difference_p, margin_p=margin_p, verdict=verdict)
    return [tuple(qualities) for qualities in found]


def flips(
    metric: str, suite: Mapping[str, Any], own: Sequence[str], other: Sequence[str],
    references: Sequence[Sequence[str]], images: Sequence[str],
) -> Flips | None:  # fmt: skip
    """The samples that only one of two lists of texts gets right; None for a metric that gives partial credit."""
    first, second = (own, other) if metrics.kind_of(metric).higher_is_better else (other, own)
    ours, theirs = (score(metric, suite, texts, references) for texts in (first, second))
    return None if ours is None or theirs is None else count_flips(ours.per_sample, theirs.per_sample, images)
