"""The group `sameness` of a row: whether an arm gives the reference's tokens, and how the others were judged."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from fastvlm_bench.analysis.arms import Measured, Pair, Pairs, by_dialog, same_samples
from fastvlm_bench.analysis.statistics import rule_of_three

OUTCOMES = ("near-tie", "unsteady", "violation", "unchecked")
"""How an output that differs was judged, in the order of the fields of `Sameness`."""


@dataclass(frozen=True)
class Sameness:
    """Numbers of pairs, compared by token ids. Nothing is known of the reference itself, nor of drawn tokens.

    Each turn of a sample of several is a pair, but in `identical`. identical: samples with the same token ids in every
    repeat and turn. different_rate_upper: 95 % upper bound of the share of
    different outputs, by the number of images; known only where every pair is identical. diverged: "sample@index of the
    first different token" of the other pairs; of several turns, those after a difference that are right after the
    method's own answers are left out. near_ties: pairs that differ by rounding alone. unsteady: pairs in which
    the plain target itself chooses otherwise when it reads several tokens at once. violations: pairs with a token that
    the target would not have chosen. unchecked: pairs that could not be judged, for want of memory, say. All four are
    None if none was judged (lossy methods, records of 0.1).
    other_contexts: later turns that were asked after other answers than the reference's.
    near_tie_margin: of all near-ties the largest gap, as a share of the largest that rounding explains.
    """

    identical: int | None = None
    different_rate_upper: float | None = None
    diverged: tuple[str, ...] = ()
    near_ties: int | None = None
    near_tie_margin: float | None = None
    unsteady: int | None = None
    violations: int | None = None
    unchecked: int | None = None
    other_contexts: int | None = None

    @property
    def unjudged(self) -> int:
        """Number of outputs of which nobody knows whether the target would have chosen them."""
        return len(self.diverged) if self.unchecked is None else self.unchecked


def sameness_of(paired: Sequence[Pair] | None, sampled: bool) -> Sameness:
    """The sameness of pairs (ours, the reference's); None for the reference itself.

    sampled: tokens were drawn. Two runs of the target itself would then differ, so token ids are not compared.
    """
    if paired is None:
        return Sameness()
    counts = _outcomes(paired)
    near, unsteady, violations, unchecked = (counts[each] if counts else None for each in OUTCOMES)
    judged = Sameness(near_ties=near, unsteady=unsteady, violations=violations, unchecked=unchecked)
    if sampled:
        return judged
    same = [ours.same_tokens(theirs) for ours, theirs in paired]
    differing = [(ours, ours.divergence(theirs)) for (ours, theirs), equal in zip(paired, same, strict=True)
                 if not (equal or _follows(ours))]  # fmt: skip
    single = isinstance(paired, Pairs) and paired.single
    return replace(
        judged,
        identical=sum(same) if single else same_samples(paired),
        different_rate_upper=None if differing else rule_of_three(len({ours.image_id for ours, _ in paired})),
        diverged=tuple(f"{ours.sample_id}@{index}" for ours, index in differing),
        near_tie_margin=_margin(paired) if near else None,
        other_contexts=0 if single else sum(_after_others(turns) for turns in by_dialog(paired) if len(turns) > 1),
    )


def _after_others(turns: Sequence[Pair]) -> int:
    """How many of a sample's turns follow one that was answered otherwise, in any repeat."""
    texts = [[[line["text"] for line in side.lines] for side in pair] for pair in turns]
    first = next((place for place, (ours, theirs) in enumerate(texts) if ours != theirs), len(turns) - 1)
    return len(turns) - 1 - first


def _follows(ours: Measured) -> bool:
    """Whether a turn differs only because an earlier one did: after the method's own answers it is what should come."""
    judged = [line.get("losslessness") or {} for line in ours.lines]
    return any("own_context" in each for each in judged) and all(each.get("outcome") == "identical" for each in judged)


def _outcomes(paired: Sequence[Pair]) -> Counter[str]:
    """The number of samples with each outcome in any repeat; empty if none was judged."""
    counts: Counter[str] = Counter()
    for ours, _ in paired:
        if len(ours.lines) == 1:
            if judged := ours.lines[0].get("losslessness"):
                counts[judged["outcome"]] += 1
        else:
            counts.update({found["outcome"] for line in ours.lines if (found := line.get("losslessness"))})
    return counts


def _margin(paired: Sequence[Pair]) -> float | None:
    """The largest gap of a near-tie as a share of its epsilon; None where there is no near-tie."""
    found = (line.get("losslessness") for ours, _ in paired for line in ours.lines)
    ties = [each for each in found if each and each.get("outcome") == "near-tie" and each.get("epsilon")]
    return max((each["gap"] / each["epsilon"] for each in ties), default=None)
