"""Warnings about the times of a run: drift, the order of the methods, outliers, processes that differ, early stops."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from fastvlm_bench.analysis.arms import Arm, whole_id
from fastvlm_bench.analysis.batches import batch_of
from fastvlm_bench.analysis.drift import slow_start, trend
from fastvlm_bench.analysis.order_effect import ORDER_P, order_effect
from fastvlm_bench.analysis.speedup import word
from fastvlm_bench.analysis.summary import Row
from fastvlm_bench.records.record import Run

UNEXPLAINED = math.sqrt(2)
"""The factor by which a measured speed-up may differ from the predicted one, either way.

It is the largest with which a doubling of one side's seconds cannot pass: a ratio within 1/√2 .. √2 is then outside.
It must not be much smaller, since costs are timed on one prompt and for a short time.
"""
OVERBOOKED = 0.01
FEWEST_FOR_PREDICTION = 5
INVOCATIONS_APART = 0.05
LAUNCH_BOUND = 0.8
"""Where kernels take less of the reference's passes, an engine without launches could be 1.25 times as fast."""
SLOWED = 0.05
"""By so much an unassisted method may beat the reference before the reference is suspected."""


@dataclass(frozen=True)
class Notice:
    """A warning: a name from `verdict.WARNINGS` or of `audit`, and one line with the cause and the flag to try."""

    name: str
    message: str

    def as_dict(self) -> dict[str, str]:
        return {"name": self.name, "message": self.message}


def spread_notices(row: Row, where: str) -> Iterable[Notice]:
    """Warnings of outliers on which the word depends, and of invocations (processes) that disagree."""
    speedup = row.speedup
    with_all, without = word(speedup.e2e_speedup_geomean), word(speedup.e2e_speedup_without_outliers)
    if speedup.outliers and speedup.e2e_speedup_without_outliers is not None and with_all != without:
        yield Notice("Outliers", f"{where}: {speedup.outliers} of {row.counts.samples_paired} ratios lie far from the "
                     f"others and decide: {with_all} with them, {without} without; raise --repeats")  # fmt: skip
    if (each := speedup.speedup_by_invocation) and max(each) > (1 + INVOCATIONS_APART) * min(each):
        yield Notice("InvocationsDiffer", f"{where}: the speed-up of single processes runs from {min(each):.2f} to "
                     f"{max(each):.2f}; believe the interval between invocations, and raise --invocations")  # fmt: skip


def prediction_notices(row: Row, where: str) -> Iterable[Notice]:
    """Warnings of a speed-up that the costs of single passes do not explain, and of seconds that do not add up."""
    ratio, other = row.costs.measured_over_predicted, row.phases.other_share
    if row.acceptance.drafted_per_round and other is not None and other < -OVERBOOKED:
        yield Notice("SecondsDoNotAddUp", f"{where}: its passes took {1 - other:.2f} times the seconds of its "
                     "decoding: something is counted wrongly; report it")  # fmt: skip
    if ratio is None or row.counts.samples_paired < FEWEST_FOR_PREDICTION:
        return
    if ratio > UNEXPLAINED:
        yield Notice("FasterThanPredicted", f"{where}: decoding is {ratio:.2f} times as fast as its rounds and the "
                     f"costs of single passes explain: {row.reference} was slowed down, or the machine changed; run "
                     "again, and report it if it stays")  # fmt: skip
    elif ratio < 1 / UNEXPLAINED:
        yield Notice("SlowerThanPredicted", f"{where}: decoding is {ratio:.2f} times as fast as its rounds and the "
                     "costs of single passes explain: the loop around the passes costs time, or the machine changed; "
                     "see other % of the time, and run again")  # fmt: skip


def drift_notices(run: Run, own: Sequence[Arm]) -> Iterable[Notice]:
    """Warnings of a slow start or a trend in the reference's time per token, in the order of measurement.

    The reference drafts nothing, so its time per token should not change.
    """
    for arm in own:
        if arm.method["label"] != run.meta["reference"]:
            continue
        # In a batch, the time per token changes as rows end, so only single samples show a change of the machine.
        decoding = (line for line in arm.lines() if len(line["token_ids"]) > 1 and batch_of(line) is None)
        lines = sorted(decoding, key=lambda line: line.get("seq", 0))
        times = [line["decode_s"] / (len(line["token_ids"]) - 1) for line in lines]
        if slow_start(times):
            yield Notice("NotWarmedUp", f"{arm.suite['name']}: the first sample of {arm.method['label']} took "
                         f"{times[0] / median(times):.1f} times the median per token; raise --warmup")  # fmt: skip
        if (change := trend(times)) is not None:
            yield Notice("Drifting", f"{arm.suite['name']}: the time per token of {arm.method['label']} changed by "
                         f"{change:+.0%} from start to end; interleaving evens it out in ratios, but not in times; "
                         "raise --warmup, let the machine cool")  # fmt: skip


def order_effects(run: Run, own: Sequence[Arm]) -> Iterable[Notice]:
    """Warnings of seconds that depend on a method's place in the turn, or on the method before it; one a suite."""
    suites = list(dict.fromkeys(arm.suite["name"] for arm in own))
    for suite in suites:
        effect = order_effect([arm for arm in own if arm.suite["name"] == suite])
        if effect is not None and (p := min(1.0, effect.p * len(suites))) < ORDER_P:
            yield Notice("OrderEffect", f"{suite}: {effect.shift:+.1%} seconds {effect.what} (p = {p:.1g}); the order "
                         "evens it out over the samples, but it widens intervals; raise --warmup, let the machine "
                         "cool")  # fmt: skip


def slow_reference(row: Row, arm: Arm, where: str) -> Iterable[Notice]:
    """A warning of a lossless method that drafted nothing and is faster than the reference by more than 5 %.

    It decodes one token a pass, as the reference does, so nothing but a slow reference explains that. The speed-up must
    exceed 1.05, and its interval, where there is one, must leave out 1.
    """
    if not row.settings.lossless or arm.rounds.drafted:
        return
    judged = (("decodes", row.speedup.decode_speedup_geomean), ("answers", row.speedup.e2e_speedup_geomean))
    for doing, estimate in judged:
        if estimate is not None and estimate.value > 1 + SLOWED and (estimate.low is None or estimate.low > 1):
            yield Notice("SlowReference", f"{where}: {doing} {estimate.value:.2f} times as fast as {row.reference} "
                         "without drafting: the reference may be slowed, and then every speed-up over it is too high; "
                         "stop other programs, run again, and report it if it stays")  # fmt: skip
            return


def launch_notices(run: Run, row: Row) -> Iterable[Notice]:
    """A warning of a reference that eager decodes, and whose passes wait for launches and Python.

    A drafting method runs fewer passes, so a speed-up over such a reference is one over its launches, too.
    """
    found, graphs = row.phases.kernels_verify, row.settings.engine == "graphs"
    if found is None or found >= LAUNCH_BOUND or (graphs and (run.meta.get("engine") or {}).get("passes")):
        return
    remedy = "its family cannot be recorded" if graphs else "compare by --engine graphs"
    yield Notice("EagerReference", f"{row.suite}: kernels take {found:.0%} of the passes of {row.reference}, and "
                 f"launches and Python the rest, of which drafting saves as well; {remedy}")  # fmt: skip


def left_out(run: Run, row: Row) -> int:
    """The number of samples that a stop rule left unmeasured."""
    stopped = (run.meta.get("stopped") or {}).get(row.suite)
    if stopped is None or stopped["by"] not in ("width", "budget"):
        return 0
    return row.counts.samples - len({whole_id(line) for line in run.lines if line["suite"] == row.suite})


def stop_notices(run: Run, row: Row) -> Iterable[Notice]:
    """A notice that a stop rule ended the suite: which rule, and after how many samples."""
    if out := left_out(run, row):
        planned, rule = row.counts.samples, _ended(run.meta["stopped"][row.suite])
        yield Notice("StoppedEarly", f"{row.suite}: {rule} after {planned - out} of {planned} samples; quality is that "
                     "of these samples alone")  # fmt: skip


def _ended(stopped: Mapping[str, Any]) -> str:
    if stopped["by"] == "budget":
        return f"ended by --budget {stopped['budget_s']:g} (seconds)"
    widest = max(stopped["widths"].values())
    return f"ended by --until-width {stopped['until_width']:g} (the widest interval is ±{widest:.1%})"
