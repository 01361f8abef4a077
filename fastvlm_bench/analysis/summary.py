"""From stored counts and seconds to rows, one per suite x method: the numbers of every report and export."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from fastvlm_bench.analysis.acceptance import Acceptance, acceptance_of
from fastvlm_bench.analysis.arms import Arm, arms, pairs
from fastvlm_bench.analysis.bounds import Steps, together
from fastvlm_bench.analysis.costs import Costs, costs_of
from fastvlm_bench.analysis.counts import Counts, counts_of
from fastvlm_bench.analysis.energy import Energy, energy_of
from fastvlm_bench.analysis.memory import Memory, memory_of
from fastvlm_bench.analysis.phases import Phases, phases_of
from fastvlm_bench.analysis.quality import Quality, adjust, compare_quality, margin_of
from fastvlm_bench.analysis.sameness import Sameness, sameness_of
from fastvlm_bench.analysis.settings import Settings, settings_of
from fastvlm_bench.analysis.speedup import Speedup, adjusted, speedup_of
from fastvlm_bench.analysis.times import Times, times_of
from fastvlm_bench.errors import UsageError
from fastvlm_bench.records.record import Run
from fastvlm_bench.visible import waited


@dataclass(frozen=True)
class Row:
    """One suite x method: which one it is, and what is known of it, in groups.

    Each group stands in the file of its name, beside the function that fills it. Its fields are seconds, bytes, counts
    and ratios, and None is what was not measured or is undefined. docs/measuring.md gives the formulas, and
    report/columns.py lists the fields as columns of the CSV.

    method, reference: labels as typed. quality: an entry for each metric of the suite. status: VALID or INVALID, of the
    whole run; "" where it was not judged (`verdict.judged_rows` does that).
    """

    run_id: str
    model: str
    suite: str
    method: str
    reference: str
    settings: Settings
    counts: Counts
    quality: tuple[Quality, ...]
    sameness: Sameness
    times: Times
    speedup: Speedup
    acceptance: Acceptance
    costs: Costs
    phases: Phases
    memory: Memory
    energy: Energy
    status: str = ""


def summarise(run: Run, margin: float | None = None, own: Sequence[Arm] | None = None) -> list[Row]:
    """The rows of a run: suites, then methods, in the order of `run.json`. An arm without samples has a row too.

    margin: the largest quality difference that counts as none, in points of 100; None takes the run's own.
    own: its arms, if they are there already. UsageError if the run ended before its model was loaded, so that nothing
    was measured.
    """
    if "dtype" not in run.meta["model"]:
        error = run.meta.get("error")
        raise UsageError(f"{run.folder} has no measurement: the run ended before its model was loaded"
                         + (f" ({error})" if error else "") + "; run it again")  # fmt: skip
    own = arms(run) if own is None else own
    references = {arm.suite["name"]: arm for arm in own if arm.method["label"] == run.meta["reference"]}
    margin = margin_of(run.meta["config"], margin)
    begun = [_row(run, arm, references.get(arm.suite["name"]), margin)
             for arm in waited(own, len(own), "summing up the methods")]  # fmt: skip
    compared = iter(together([steps for _, of_row in begun for steps in of_row]))
    return _holm([replace(row, quality=tuple(next(compared) for _ in of_row)) for row, of_row in begun])


def _row(run: Run, arm: Arm, reference: Arm | None, margin: float) -> tuple[Row, list[Steps[Quality]]]:
    """A row without its quality, and the steps to that, metric by metric: what they wait for is drawn for all rows."""
    suite, method = arm.suite["name"], arm.method["label"]
    other = None if method == run.meta["reference"] else reference
    paired = None if other is None else pairs(arm, other)
    settings = settings_of(run, arm)
    speedup = speedup_of(paired, settings.sampled)
    qualities = [compare_quality(metric, arm, paired, margin) for metric in arm.suite["metrics"]]
    row = Row(
        run_id=run.run_id,
        model=run.meta["model"]["id"],
        suite=suite,
        method=method,
        reference=run.meta["reference"],
        settings=settings,
        counts=counts_of(arm, paired),
        quality=(),
        sameness=sameness_of(paired, settings.sampled),
        times=times_of(arm),
        speedup=speedup,
        acceptance=acceptance_of(run.meta, arm),
        costs=costs_of(run.meta, arm, reference, speedup),
        phases=phases_of(run.meta, arm),
        memory=memory_of(arm, other),
        energy=energy_of(run.meta, suite, method),
    )
    return row, qualities


def _holm(rows: list[Row]) -> list[Row]:
    """The rows with p values adjusted over all methods and suites of the run, and with the words that these allow.

    What is not `compared` takes no part, so that measuring it costs the other methods nothing.
    """
    asked = [row.speedup if row.settings.compared else Speedup() for row in rows]
    decode = adjusted([own.decode_speedup_geomean for own in asked])
    e2e = adjusted([own.e2e_speedup_geomean for own in asked])
    qualities = adjust([row.quality if row.settings.compared else () for row in rows])
    return [
        replace(row, quality=quality or row.quality, speedup=replace(
            row.speedup, decode_speedup_holm_p=decode_p[0], e2e_speedup_holm_p=e2e_p[0],
            decode_speedup_same_holm_p=decode_p[1], e2e_speedup_same_holm_p=e2e_p[1],
        ))
        for row, decode_p, e2e_p, quality in zip(rows, decode, e2e, qualities, strict=True)
    ]  # fmt: skip
