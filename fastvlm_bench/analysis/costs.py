"""The group `costs` of a row: what drafting and verifying take, and the decode speed-up that these costs predict."""

from dataclasses import dataclass

from fastvlm_bench.analysis.acceptance import Acceptance
from fastvlm_bench.analysis.arms import Arm
from fastvlm_bench.analysis.speedup import Speedup
from fastvlm_bench.analysis.statistics import divide


@dataclass(frozen=True)
class Costs:
    """Seconds inside the model's forward passes, and the speed-up that they predict.

    standard_s_per_token: the reference's forward pass for one token. predicted_decode_speedup: from counts and costs
    alone; None where no sample is paired. efficiency: the measured decode speed-up of totals / the predicted one.
    """

    draft_s_per_token: float | None
    verify_s_per_round: float | None
    standard_s_per_token: float | None
    predicted_decode_speedup: float | None
    efficiency: float | None


def costs_of(arm: Arm, reference: Arm | None, acceptance: Acceptance, speedup: Speedup) -> Costs:
    """The costs of an arm. reference: its suite's, or the arm itself. acceptance, speedup: of the same arm."""
    own = arm.rounds
    draft, verify = divide(own.draft_s, own.drafted), divide(own.verify_s, own.rounds)
    standard = None if reference is None else divide(reference.rounds.verify_s, reference.rounds.emitted) or None
    predicted = efficiency = None
    tau, drafted, measured = acceptance.tau, acceptance.drafted_per_round, speedup.decode_speedup_totals
    if speedup.e2e_speedup_totals is not None and standard and tau is not None:
        # A round gives τ tokens for d̄ drafts and one verification; standard decoding needs τ forward passes for them.
        predicted = divide(tau * standard, (drafted or 0.0) * (draft or 0.0) + (verify or 0.0))
        efficiency = None if measured is None else divide(measured.value, predicted)
    return Costs(draft, verify, standard, predicted, efficiency)
