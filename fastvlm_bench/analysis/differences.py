"""The word for a paired difference of quality, and how it is adjusted where several comparisons are made at once."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from fastvlm_bench.analysis.bounds import Bounds, Steps, mean_steps, pooled_steps
from fastvlm_bench.analysis.statistics import CONFIDENCE, Estimate, holm
from fastvlm_bench.metrics import MetricScore

IDENTICAL, EQUIVALENT, BETTER, WORSE, UNDECIDED = "identical", "equivalent", "better", "worse", "undecided"
_NO_WORD = "zqxjkv"
"""A word of no language, of which a text is made that has every word wrong."""


@dataclass(frozen=True)
class Difference:
    """A paired difference (ours − the reference's) and its word.

    delta: with its 95 % interval, where the metric allows one; None where the metric has no value. verdict: "identical"
    (all texts are the same, a fact that needs no interval), else a `word`, or "" without a delta. changed: samples
    whose score changed. bound: the smallest margin within which the difference is shown to lie. difference_p: p of "no
    difference"; margin_p: of "at least the margin, in either direction"; adjusted where several comparisons are made.
    """

    delta: Estimate | None = None
    verdict: str = ""
    changed: int | None = None
    bound: float | None = None
    difference_p: float | None = None
    margin_p: float | None = None


def word(value: float, difference_p: float | None, margin_p: float | None) -> str:
    """The word at 5 %: "equivalent" if the difference is shown to be less than the margin; else "better" or "worse" if
    it is shown not to be 0; else "undecided".
    """  # fmt: skip
    if margin_p is not None and margin_p <= 1 - CONFIDENCE:
        return EQUIVALENT
    if difference_p is not None and difference_p <= 1 - CONFIDENCE:
        return BETTER if value > 0 else WORSE
    return UNDECIDED


def no_difference(n: int) -> Difference:
    """All n texts are the same."""
    return Difference(Estimate(0.0, None, None, n), IDENTICAL, 0)


def judged(bounds: Bounds, changed: int, margin: float) -> Difference:
    """The difference with everything that its bounds say. margin: on the metric's own scale."""
    none, beyond = bounds.p_of_none(), bounds.p_of(margin)
    return Difference(
        bounds.interval(), word(bounds.value, none, beyond), changed, bounds.margin(), none, beyond
    )  # fmt: skip


def difference_of(
    scorer: Any, ours: MetricScore, theirs: MetricScore, texts: tuple[Sequence[str], Sequence[str]],
    references: Sequence[Sequence[str]], images: Sequence[Hashable], margin: float,
) -> Steps[Difference]:  # fmt: skip
    """The difference of two lists of texts that have these scores on the same samples.

    A metric that is a mean over samples is bounded by its per-sample differences (for CIDEr-D this keeps the document
    frequencies fixed); a pooled one (BLEU-4) by its counts, which it offers through `counts(predictions, references)`,
    one tuple per sample, and `combine(sums)`. A pooled metric without counts (METEOR) has no interval and is
    "undecided". images: of each sample, by which bounds are clustered.
    """
    if hasattr(scorer, "counts") and hasattr(scorer, "combine"):
        own, other = (scorer.counts(side, references) for side in texts)
        pooled = yield from pooled_steps(own, other, images, scorer.combine, *extremes(scorer, texts))
        changed = sum(tuple(a) != tuple(b) for a, b in zip(own, other, strict=True))
        return judged(pooled, changed, margin) if pooled else Difference()
    value, n = ours.value - theirs.value, len(references)
    differences = [a - b for a, b in zip(ours.per_sample, theirs.per_sample, strict=True)]
    changed = sum(difference != 0 for difference in differences)
    if abs(sum(differences) / n - value) > 1e-9:
        return Difference(Estimate(value, None, None, n), UNDECIDED, changed)
    # A score lies between 0 and 1, or for CIDEr-D between 0 and the highest that any of these texts has.
    bounds = yield from mean_steps(differences, images, max(1.0, *ours.per_sample, *theirs.per_sample))
    return judged(bounds, changed, margin) if bounds else Difference()


def extremes(scorer: Any, texts: tuple[Sequence[str], Sequence[str]]) -> tuple[Sequence[float], Sequence[float]]:
    """The counts of a text with every word wrong, and of one with every word right, both as long as the longest."""
    longest = max((len(text.split()) for side in texts for text in side), default=0) or 1
    wanted = " ".join(f"{_NO_WORD}{place}" for place in range(longest))
    wrong, right = scorer.counts([" ".join([_NO_WORD] * longest), wanted], [[wanted]] * 2)
    return wrong, right


def adjusted(ps: Sequence[float | None]) -> list[float | None]:
    """Holm's adjustment of the p values that are known, over all of them. A single one stays as it is."""
    known = [place for place, p in enumerate(ps) if p is not None]
    found: list[float | None] = [None] * len(ps)
    for place, p in zip(known, holm([p for p in ps if p is not None]), strict=True):
        found[place] = p
    return found
