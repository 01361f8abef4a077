"""The group `sameness` of a row: whether an arm gives the reference's tokens, and how the others were judged."""

from collections.abc import Sequence
from dataclasses import dataclass

from fastvlm_bench.analysis.arms import Pair
from fastvlm_bench.analysis.statistics import rule_of_three


@dataclass(frozen=True)
class Sameness:
    """Numbers of pairs, compared by token ids. Nothing is known of the reference itself, nor of drawn tokens.

    identical: pairs with the same token ids in every repeat. different_rate_upper: 95 % upper bound of the share of
    different outputs, by the number of images; known only where every pair is identical. diverged: "sample@index of the
    first different token" of the other pairs. near_ties, violations: pairs that differ by rounding alone, and pairs
    with a token that the target would not have chosen; None if none was judged (lossy methods, records of 0.1).
    """

    identical: int | None = None
    different_rate_upper: float | None = None
    diverged: tuple[str, ...] = ()
    near_ties: int | None = None
    violations: int | None = None


def sameness_of(paired: Sequence[Pair] | None, sampled: bool) -> Sameness:
    """The sameness of pairs (ours, the reference's); None for the reference itself.

    sampled: tokens were drawn. Two runs of the target itself would then differ, so token ids are not compared.
    """
    if paired is None:
        return Sameness()
    near_ties, violations = (_outcomes(paired, outcome) for outcome in ("near-tie", "violation"))
    if sampled:
        return Sameness(near_ties=near_ties, violations=violations)
    differing = [(ours, ours.divergence(theirs)) for ours, theirs in paired if not ours.same_tokens(theirs)]
    return Sameness(
        identical=len(paired) - len(differing),
        different_rate_upper=None if differing else rule_of_three(len({ours.image_id for ours, _ in paired})),
        diverged=tuple(f"{ours.sample_id}@{index}" for ours, index in differing),
        near_ties=near_ties,
        violations=violations,
    )


def _outcomes(paired: Sequence[Pair], outcome: str) -> int | None:
    """Number of samples with this outcome in any repeat; None if none was judged."""
    judged = [[found["outcome"] for line in ours.lines if (found := line.get("losslessness"))] for ours, _ in paired]
    return sum(outcome in outcomes for outcomes in judged) if any(judged) else None
