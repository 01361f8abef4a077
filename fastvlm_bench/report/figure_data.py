"""The data behind each figure, as rows of plain values: what `--plots` writes as CSV and what is drawn.

A series is a method of a run on one suite. Units are suffixes; None is what was not measured.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastvlm_bench import metrics
from fastvlm_bench.analysis.acceptance import by_position
from fastvlm_bench.analysis.arms import Arm, arms, pairs
from fastvlm_bench.analysis.best_cell import best_cells, estimate_of, is_sweep
from fastvlm_bench.analysis.phases import PHASES
from fastvlm_bench.analysis.speedup import SampleRatio, sample_ratios
from fastvlm_bench.analysis.statistics import Estimate
from fastvlm_bench.analysis.summary import Row
from fastvlm_bench.records.record import Run
from fastvlm_bench.report.breakdown import PARTS, memory_parts
from fastvlm_bench.report.one_screen import short_labels
from fastvlm_bench.report.sweep import MARKS, place_name, sweep_dict

Data = list[dict[str, Any]]


@dataclass(frozen=True)
class Series:
    """One method of one run on a suite. name: its short label, after the run's letter where several have this suite.

    place: its place among the colours, 0 for the reference. ratios: of each sample (or batch) to the reference's.
    """

    name: str
    letter: str
    run: Run
    row: Row
    arm: Arm
    place: int
    ratios: tuple[SampleRatio, ...]

    @property
    def is_reference(self) -> bool:
        return self.row.method == self.row.reference


def letters(runs: Sequence[Run]) -> list[str]:
    """A short name for each run: A, B, …, then "run 26"; of a single run "", which needs none."""
    if len(runs) == 1:
        return [""]
    return [chr(ord("A") + index) if index < 26 else f"run {index}" for index in range(len(runs))]


def suite_names(runs: Sequence[Run]) -> list[str]:
    """The suites of all runs, in order of appearance."""
    return list(dict.fromkeys(suite["name"] for run in runs for suite in run.meta["suites"]))


def series_of(runs: Sequence[Run], rows: Sequence[Sequence[Row]], suite: str) -> list[Series]:
    """The series of a suite over all runs that have it. rows: those of each run, from `summarise`."""
    found: list[Series] = []
    several = sum(suite in suite_names([run]) for run in runs) > 1
    for letter, run, own in zip(letters(runs), runs, rows, strict=True):
        here = [arm for arm in arms(run) if arm.suite["name"] == suite]
        reference = next((arm for arm in here if arm.method["label"] == run.meta["reference"]), None)
        short = short_labels([arm.method["label"] for arm in here])
        for arm, label in zip(here, short, strict=True):
            row = next(row for row in own if (row.suite, row.method) == (suite, arm.method["label"]))
            first = not found
            mine = [] if reference is None or reference is arm else pairs(arm, reference)
            ratios = tuple(sample_ratios(mine, row.settings.sampled))
            name = f"{letter}: {label}" if several else label
            found.append(Series(name, letter, run, row, arm, 0 if first else len(found), ratios))
    return found


def _names(one: Series) -> dict[str, Any]:
    return {"run_id": one.row.run_id, "suite": one.row.suite, "method": one.row.method, "series": one.name}


def _estimate(name: str, estimate: Estimate | None) -> dict[str, Any]:
    value, low, high = (estimate.value, estimate.low, estimate.high) if estimate else (None, None, None)
    return {name: value, f"{name}_low": low, f"{name}_high": high}


def speedup_by_length(series: Sequence[Series]) -> Data:
    """A row for each sample: the length of its answer and its speed-up. One-token answers have no decoding."""
    return [
        {**_names(one), "sample_id": ratio.sample_id, "tokens": ratio.tokens, "decode_speedup": ratio.decode,
         "e2e_speedup": ratio.e2e}
        for one in series for ratio in one.ratios
    ]  # fmt: skip


def speedup_distribution(series: Sequence[Series]) -> Data:
    """A row for each sample: its speed-ups, beside the geometric mean of its method with the 95 % interval."""
    return [
        {**_names(one), "sample_id": ratio.sample_id, "decode_speedup": ratio.decode, "e2e_speedup": ratio.e2e,
         **_estimate("decode_speedup_geomean", one.row.speedup.decode_speedup_geomean),
         **_estimate("e2e_speedup_geomean", one.row.speedup.e2e_speedup_geomean)}
        for one in series for ratio in one.ratios
    ]  # fmt: skip


def acceptance_by_position(series: Sequence[Series]) -> Data:
    """A row for each place in the draft: how many drafts were tested there, and the share of them that stood."""
    found = []
    for one in series:
        tested: Counter[int] = Counter()
        for line in one.arm.lines():
            for round_ in line["rounds"]:
                tested.update(range(1, round_[1] + 1))
        found += [{**_names(one), "position": position, "tested": tested[position], "accepted_share": share}
                  for position, share in enumerate(by_position(one.arm.lines()), start=1)]  # fmt: skip
    return found


def accepted_per_round(series: Sequence[Series]) -> Data:
    """A row for each count of accepted drafts: in how many rounds of a drafting method it came, and their share."""
    found = []
    for one in series:
        counts = Counter(round_[2] for line in one.arm.lines() for round_ in line["rounds"])
        if one.row.acceptance.alpha is not None:
            total = sum(counts.values())
            found += [{**_names(one), "accepted": accepted, "rounds": counts[accepted],
                       "rounds_share": counts[accepted] / total} for accepted in range(max(counts) + 1)]  # fmt: skip
    return found


def speedup_quality(series: Sequence[Series]) -> Data:
    """A row for each metric of a method: its value and difference to the reference, on the scale of the tables."""
    found = []
    for one in series:
        for quality in one.row.quality:
            kind, delta = metrics.kind_of(quality.metric), quality.delta
            shown: dict[str, float | None] = {"quality": quality.value, "quality_delta": delta.value if delta else None,
                     "quality_delta_low": delta.low if delta else None,
                     "quality_delta_high": delta.high if delta else None}  # fmt: skip
            if one.is_reference and quality.value is not None:
                shown["quality_delta"] = 0.0
            found.append({
                **_names(one), "metric": quality.metric, "metric_title": kind.header.replace("\n", ", "),
                "higher_is_better": kind.higher_is_better,
                **{name: None if value is None else value * kind.scale for name, value in shown.items()},
                **_speed(one),
            })  # fmt: skip
    return found


def _speed(one: Series) -> dict[str, Any]:
    if one.is_reference:
        return {"decode_speedup": 1.0, "decode_speedup_low": None, "decode_speedup_high": None}
    own = one.row.speedup
    return _estimate("decode_speedup", own.decode_speedup_geomean or own.e2e_speedup_geomean)


def speedup_memory(series: Sequence[Series]) -> Data:
    """A row for each method: its peak of memory, by how much that is above the reference's, and the weights it adds.

    The memory is of tensors on the device; without one, the parts of a peak that a method decides; in records without
    these, resident memory, which hardly differs between methods in one process.
    """
    found = []
    for kind in ("allocated", "parts", "rss"):
        peaks = {one.name: _peak(one, kind) for one in series}
        if any(peak is not None for peak in peaks.values()):
            break
    for one in series:
        base = next((peaks[other.name] for other in series if other.run is one.run and other.is_reference), None)
        peak = peaks[one.name]
        found.append({
            **_names(one), "memory_kind": kind, "peak_bytes": peak,
            "peak_delta_bytes": None if peak is None or base is None else peak - base,
            "extra_weights_bytes": one.row.memory.extra_bytes, **_speed(one),
        })  # fmt: skip
    return found if any(row["peak_delta_bytes"] is not None for row in found) else []


def _peak(one: Series, kind: str) -> int | None:
    if kind != "parts":
        found: int | None = getattr(one.row.memory, f"peak_{kind}_bytes")
        return found
    parts = memory_parts(one.run, one.row.suite).get(one.row.method)
    return sum(parts[f"{part}_bytes"] or 0 for part in PARTS if part != "rest") if parts else None


def phases(series: Sequence[Series]) -> Data:
    """A row for each phase of a method: its share of a request, and its seconds in a request of the mean length."""
    found = []
    for one in series:
        samples = one.arm.measured.values()
        mean_s = sum(sample.e2e_s for sample in samples) / len(samples) if samples else 0.0
        for name in PHASES if samples else ():
            share = getattr(one.row.phases, f"phase_{name}")
            found.append({**_names(one), "phase": name, "share": share,
                          "mean_s": None if share is None else share * mean_s,
                          "phases_by": one.row.phases.phases_by})  # fmt: skip
    return found


def memory_peak(series: Sequence[Series]) -> Data:
    """A row for each part of a method's memory peak on one sample, as `run` took it apart."""
    found = []
    for one in series:
        parts: Mapping[str, Any] = memory_parts(one.run, one.row.suite).get(one.row.method) or {}
        found += [{**_names(one), "memory_kind": parts["kind"], "part": part, "part_bytes": parts.get(f"{part}_bytes"),
                   "peak_bytes": parts.get("peak_bytes")} for part in PARTS if parts]  # fmt: skip
    return found


def energy(series: Sequence[Series]) -> Data:
    """A row for each method whose energy was measured."""
    return [{**_names(one), "joules_per_token": one.row.energy.joules_per_token, "watts": one.row.energy.watts}
            for one in series if one.row.energy.joules_per_token is not None]  # fmt: skip


def heat_map(series: Sequence[Series]) -> Data:
    """A row for each cell of a sweep; panel: its threshold, a grid each. shown: the speed-up that ranks the cells."""
    found = []
    for run in {id(one.run): one.run for one in series if is_sweep(one.run)}.values():
        own = [one for one in series if one.run is run]
        (best,) = [each for each in best_cells(run, [one.row for one in own]) if each.suite == own[0].row.suite]
        letter = f"{own[0].letter}: " if len({id(one.run) for one in series}) > 1 else ""
        for cell in best.cells:
            told = estimate_of(cell, best.measure)
            stop = f"stop {cell.stop_below:g}" if cell.stop_below else "never stops"
            found.append({"run_id": run.run_id, "panel": letter + stop, "place": place_name(cell),
                          "shown": told.value if told else None, "mark": MARKS.get(cell.verdict, "").strip(),
                          **sweep_dict(best.suite, cell)})  # fmt: skip
    values = [row["shown"] for row in found if row["shown"] is not None]
    return [{**row, "scale_low": min(values), "scale_high": max(values)} for row in found] if values else []
