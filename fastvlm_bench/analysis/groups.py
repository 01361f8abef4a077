"""Speed and acceptance of each method over the parts of a data set (topics, categories), for suites without scores."""

from dataclasses import dataclass, replace

from fastvlm_bench.analysis.arms import Arm, arms, count_samples, pairs, same_samples
from fastvlm_bench.analysis.quality import group_names
from fastvlm_bench.analysis.speedup import speedups
from fastvlm_bench.analysis.statistics import Estimate, divide, geometric_mean_ratio
from fastvlm_bench.records.record import Run


@dataclass(frozen=True)
class GroupRow:
    """One method on one part of a suite. decode, e2e: geometric mean of the paired ratios, as in the whole suite."""

    group: str
    method: str
    samples: int
    decode: Estimate | None
    e2e: Estimate | None
    same_tokens: int
    paired: int
    alpha: float | None
    tau: float | None


def group_rows(run: Run, suite: str, sampled: bool) -> list[GroupRow]:
    """Rows by group, then method, without the reference's own; [] for a suite that is scored or has no groups."""
    own = [arm for arm in arms(run) if arm.suite["name"] == suite]
    if not own or own[0].suite["metrics"] or not (names := group_names(own[0].suite)):
        return []
    reference = next((arm for arm in own if arm.method["label"] == run.meta["reference"]), None)
    if reference is None:
        return []
    others = [arm for arm in own if arm is not reference]
    return [_row(name, _within(arm, name), _within(reference, name), sampled) for name in names for arm in others]


def _within(arm: Arm, group: str) -> Arm:
    ids = {sample["sample_id"] for sample in arm.suite["samples"] if sample.get("group", "") == group}
    return replace(arm, measured={key: sample for key, sample in arm.measured.items() if key in ids})


def _row(group: str, arm: Arm, reference: Arm, sampled: bool) -> GroupRow:
    paired = pairs(arm, reference)
    decode, e2e = speedups(paired, geometric_mean_ratio, sampled)
    rounds = arm.rounds
    alpha, tau = divide(rounds.accepted, rounds.tested), divide(rounds.emitted, rounds.rounds)
    samples = len({sample.dialog for sample in arm.measured.values()})
    return GroupRow(group, arm.method["label"], samples, decode, e2e, same_samples(paired),
                    count_samples(paired), alpha, tau)  # fmt: skip
