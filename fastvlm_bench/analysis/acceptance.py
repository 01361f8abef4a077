"""The group `acceptance` of a row: how many of the drafted tokens the target accepted."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from fastvlm_bench.analysis.arms import Arm, told_apart
from fastvlm_bench.analysis.statistics import divide


@dataclass(frozen=True)
class Acceptance:
    """Rates over all rounds of all measured samples and repeats.

    alpha: accepted / tested. draft_acceptance_rate: accepted / drafted. tau: tokens that a round emits.
    acceptance_by_position: of the rounds that tested the i-th draft, the share that accepted it, which is the chance
    given that all before it were accepted. accepted_per_round: the share of the rounds that accepted 0, 1, 2, ..
    drafts; () for methods that do not draft. rounds: their number.
    undrafted: how many of them drafted nothing, because the draft was in doubt. alpha_without_stop,
    tau_without_stop: the same rates with stop_below=0, which is the papers' α; decoded apart from the samples where
    the method stops in doubt. Where it does not, they are alpha and tau. None where they were not measured.
    alpha_by_level: of a hierarchy, accepted / tested of each exit's checks of the one below, from the lowest up; the
    last is the target's, alpha. () for other methods.
    """

    alpha: float | None
    draft_acceptance_rate: float | None
    tau: float | None
    acceptance_by_position: tuple[float, ...]
    accepted_per_round: tuple[float, ...]
    rounds: int
    drafted_per_round: float | None
    undrafted: int | None = None
    alpha_without_stop: float | None = None
    tau_without_stop: float | None = None
    alpha_by_level: tuple[float, ...] = ()

    @property
    def undrafted_share(self) -> float | None:
        """The share of the rounds that drafted nothing; None for methods that do not draft."""
        return None if self.undrafted is None else divide(self.undrafted, self.rounds)


def acceptance_of(meta: Mapping[str, Any], arm: Arm) -> Acceptance:
    """The acceptance of an arm. meta: run.json. Without a tested draft there is no rate; every method has a `tau`."""
    own = arm.rounds
    alpha, tau = divide(own.accepted, own.tested), divide(own.emitted, own.rounds)
    options = arm.method.get("options") or {}
    drafts = bool(options.get("gamma"))
    unstopped: tuple[float | None, float | None] = (None, None)
    if drafts:  # a method that stops in doubt counts only drafts that it trusted in its own α
        stops = arm.method.get("stops", bool(options.get("stop_below")))
        unstopped = without_stop(meta, arm) if stops else (alpha, tau)
    return Acceptance(
        alpha=alpha,
        draft_acceptance_rate=divide(own.accepted, own.drafted) if own.tested else None,
        tau=tau,
        acceptance_by_position=by_position(arm),
        accepted_per_round=tuple(n / own.rounds for n in rounds_by_accepted(arm)) if own.tested else (),
        rounds=own.rounds,
        drafted_per_round=divide(own.drafted, own.rounds),
        undrafted=sum(n for (drafted, *_), n in arm.kinds_of_rounds.items() if not drafted) if drafts else None,
        alpha_without_stop=unstopped[0],
        tau_without_stop=unstopped[1],
        alpha_by_level=by_level(arm.lines(), alpha),
    )


def without_stop(meta: Mapping[str, Any], arm: Arm) -> tuple[float | None, float | None]:
    """(α, τ) of the rounds that `run` decoded apart with stop_below=0; None where it did not."""
    told = told_apart(meta, "without_stop", arm)
    if told is None:
        return None, None
    return divide(told["accepted"], told["tested"]), divide(told["emitted"], told["rounds"])


def by_level(lines: Iterable[Mapping[str, Any]], alpha: float | None) -> tuple[float, ...]:
    """accepted / tested of each level's checks, summed over rounds, then alpha; () where no line has levels, or a level
    tested nothing."""
    sums: dict[int, list[int]] = {}
    for line in lines:
        for levels in line.get("levels") or ():
            for place, (_, tested, accepted) in enumerate(levels):
                own = sums.setdefault(place, [0, 0])
                own[0] += tested
                own[1] += accepted
    if not sums or alpha is None or not all(tested for tested, _ in sums.values()):
        return ()
    return (*(accepted / tested for tested, accepted in sums.values()), alpha)


def by_position(arm: Arm) -> tuple[float, ...]:
    """For each draft position i, the share of the tested drafts that were accepted: #(accepted > i) / #(tested > i)."""
    return tuple(accepted / tested for tested, accepted in counts_by_position(arm))


def counts_by_position(arm: Arm) -> list[tuple[int, int]]:
    """For each draft position how many drafts were tested there, at least one, and how many of them accepted."""
    kinds = arm.kinds_of_rounds.items()
    most = max((tested for (_, tested, _), _ in kinds), default=0)
    return [
        (sum(n for (_, tested, _), n in kinds if tested > place),
         sum(n for (_, tested, accepted), n in kinds if tested > place and accepted > place))
        for place in range(most)
    ]  # fmt: skip


def rounds_by_accepted(arm: Arm) -> list[int]:
    """How many rounds accepted 0, 1, 2, .. drafts, up to the most that one accepted."""
    counts: Counter[int] = Counter()
    for (_, _, accepted), n in arm.kinds_of_rounds.items():
        counts[accepted] += n
    return [counts[accepted] for accepted in range(max(counts, default=-1) + 1)]
