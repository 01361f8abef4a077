"""The group `costs` of a row: what drafting and verifying took, and the decode speed-up that costs predict."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fastvlm_bench.analysis.arms import Arm, told_apart
from fastvlm_bench.analysis.prediction import PassCosts, predicted_speedup
from fastvlm_bench.analysis.speedup import Speedup
from fastvlm_bench.analysis.statistics import divide


@dataclass(frozen=True)
class Costs:
    """Seconds inside the model's forward passes, and the speed-up that passes measured apart from them predict.

    standard_s_per_token: the reference's forward pass for one token. predicted_decode_speedup: the arm's rounds, priced
    with `costs` of run.json; None where those were not measured, and for batches. measured_over_predicted: the measured
    decode speed-up of totals / the predicted one.
    """

    draft_s_per_token: float | None
    verify_s_per_round: float | None
    standard_s_per_token: float | None
    predicted_decode_speedup: float | None
    measured_over_predicted: float | None


def costs_of(meta: Mapping[str, Any], arm: Arm, reference: Arm | None, speedup: Speedup) -> Costs:
    """The costs of an arm. meta: run.json. reference: its suite's, or the arm itself. speedup: of the same arm."""
    own = arm.rounds
    draft, verify = divide(own.draft_s, own.drafted), divide(own.verify_s, own.rounds)
    standard = None if reference is None else divide(reference.rounds.verify_s, reference.rounds.emitted) or None
    predicted = ratio = None
    if (told := told_apart(meta, "costs", arm)) is not None and speedup.decode_speedup_totals is not None:
        costs = PassCosts(told["standard_s"], told["draft_s"], told["verify_s"])
        predicted = predicted_speedup((round_ for line in arm.lines() for round_ in line["rounds"]), costs)
        ratio = divide(speedup.decode_speedup_totals.value, predicted) if predicted else None
    return Costs(draft, verify, standard, predicted, ratio)
