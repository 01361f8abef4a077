"""The group `acceptance` of a row: how many of the drafted tokens the target accepted."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from fastvlm_bench.analysis.arms import Arm
from fastvlm_bench.analysis.statistics import divide


@dataclass(frozen=True)
class Acceptance:
    """Rates over all rounds of all measured samples and repeats.

    alpha: accepted / tested. draft_acceptance_rate: accepted / drafted. tau: tokens that a round emits.
    acceptance_by_position: of the rounds that tested the i-th draft, the share that accepted it. rounds: their number.
    """

    alpha: float | None
    draft_acceptance_rate: float | None
    tau: float | None
    acceptance_by_position: tuple[float, ...]
    rounds: int
    drafted_per_round: float | None


def acceptance_of(arm: Arm) -> Acceptance:
    """The acceptance of an arm. Without a tested draft there is no rate; every method has a `tau`."""
    own = arm.rounds
    return Acceptance(
        alpha=divide(own.accepted, own.tested),
        draft_acceptance_rate=divide(own.accepted, own.drafted) if own.tested else None,
        tau=divide(own.emitted, own.rounds),
        acceptance_by_position=by_position(arm.lines()),
        rounds=own.rounds,
        drafted_per_round=divide(own.drafted, own.rounds),
    )


def by_position(lines: Iterable[Mapping[str, Any]]) -> tuple[float, ...]:
    """For each draft position i, the share of the tested drafts that were accepted: #(accepted > i) / #(tested > i)."""
    tested: list[int] = []
    accepted: list[int] = []
    for line in lines:
        for _, tested_now, accepted_now, *_ in line["rounds"]:
            while len(tested) < tested_now:
                tested.append(0)
                accepted.append(0)
            for i in range(tested_now):
                tested[i] += 1
                accepted[i] += i < accepted_now
    return tuple(a / t for a, t in zip(accepted, tested, strict=True))
