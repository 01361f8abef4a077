"""The group `sameness` of a row: whether an arm gives the reference's tokens, and how the others were judged."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from fastvlm_bench.analysis.arms import Pair
from fastvlm_bench.analysis.statistics import rule_of_three


@dataclass(frozen=True)
class Sameness:
    """Numbers of pairs, compared by token ids. Nothing is known of the reference itself, nor of drawn tokens.

    identical: pairs with the same token ids in every repeat. different_rate_upper: 95 % upper bound of the share of
    different outputs, by the number of images; known only where every pair is identical. diverged: "sample@index of the
    first different token" of the other pairs. near_ties: pairs that differ by rounding alone. unsteady: pairs in which
    the plain target itself chooses otherwise when it reads several tokens at once. violations: pairs with a token that
    the target would not have chosen. unchecked: pairs that could not be judged, for want of memory, say. All four are
    None if none was judged (lossy methods, records of 0.1).
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
    judged = Sameness(near_ties=_outcomes(paired, "near-tie"), unsteady=_outcomes(paired, "unsteady"),
                      violations=_outcomes(paired, "violation"), unchecked=_outcomes(paired, "unchecked"))  # fmt: skip
    if sampled:
        return judged
    differing = [(ours, ours.divergence(theirs)) for ours, theirs in paired if not ours.same_tokens(theirs)]
    return replace(
        judged,
        identical=len(paired) - len(differing),
        different_rate_upper=None if differing else rule_of_three(len({ours.image_id for ours, _ in paired})),
        diverged=tuple(f"{ours.sample_id}@{index}" for ours, index in differing),
        near_tie_margin=_margin(paired),
    )


def _outcomes(paired: Sequence[Pair], outcome: str) -> int | None:
    """Number of samples with this outcome in any repeat; None if none was judged."""
    judged = [[found["outcome"] for line in ours.lines if (found := line.get("losslessness"))] for ours, _ in paired]
    return sum(outcome in outcomes for outcomes in judged) if any(judged) else None


def _margin(paired: Sequence[Pair]) -> float | None:
    """The largest gap of a near-tie as a share of its epsilon; None where there is no near-tie."""
    found = [line.get("losslessness") or {} for ours, _ in paired for line in ours.lines]
    ties = [each for each in found if each.get("outcome") == "near-tie" and each.get("epsilon")]
    return max((each["gap"] / each["epsilon"] for each in ties), default=None)
