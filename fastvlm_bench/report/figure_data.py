"""The data behind each figure, as rows of plain values: what `--plots` writes as CSV and what is drawn.

A series is a method of a run on one suite. Units are suffixes; None is what was not measured.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from fastvlm_bench import metrics
from fastvlm_bench.analysis.acceptance import counts_by_position, rounds_by_accepted
from fastvlm_bench.analysis.arms import Arm, arms, pairs
from fastvlm_bench.analysis.batches import observation
from fastvlm_bench.analysis.best_cell import best_cells, estimate_of, is_sweep
from fastvlm_bench.analysis.phases import phase_shares
from fastvlm_bench.analysis.speedup import DECODE, SampleRatio, common, sample_ratios
from fastvlm_bench.analysis.statistics import Estimate
from fastvlm_bench.analysis.summary import Row
from fastvlm_bench.records.record import Run
from fastvlm_bench.report.breakdown import PARTS, memory_parts
from fastvlm_bench.report.labels import letters
from fastvlm_bench.report.one_screen import short_labels
from fastvlm_bench.report.sweep import MARKS, place_name, sweep_dict

Data = list[dict[str, Any]]


@dataclass(frozen=True)
class Series:
    """One method of one run on a suite. name: its short label, after the run's letter where several have this suite.

    place: its place among the colours, 0 for the reference. ratios: of each sample (or batch) to the reference's.
    speedup_of: by which speed-up all series of this suite are compared, `DECODE` or `E2E`.
    """

    name: str
    letter: str
    run: Run
    row: Row
    arm: Arm
    place: int
    ratios: tuple[SampleRatio, ...]
    speedup_of: str

    @property
    def is_reference(self) -> bool:
        return self.row.method == self.row.reference

    @property
    def lossless(self) -> bool:
        """Whether the method is lossless and no output shows otherwise."""
        return self.row.settings.lossless and not self.row.sameness.violations

    @property
    def marked(self) -> str:
        """Its name, which says where it is lossy."""
        return self.name if self.lossless else f"{self.name} (lossy)"

    @property
    def unit(self) -> str:
        """What a ratio is of: a "sample", or a "batch" where several were decoded together."""
        return "batch" if self.row.settings.batch_size > 1 else "sample"

    def speedup(self, ratio: SampleRatio) -> float | None:
        """The ratio by which all series are compared; None for an answer that has no such phase."""
        return ratio.decode if self.speedup_of == DECODE else ratio.e2e

    @cached_property
    def by_sample(self) -> dict[str, float]:
        """The speed-up of each sample, or of the batch that it was decoded in, where there is one."""
        known = {ratio.sample_id: self.speedup(ratio) for ratio in self.ratios}
        found = {name: known.get(observation(sample)) for name, sample in self.arm.measured.items()}
        return {name: ratio for name, ratio in found.items() if ratio is not None}


def run_names(runs: Sequence[Run]) -> list[str]:
    """A letter for each run; of a single run "", which needs none."""
    return letters(len(runs)) if len(runs) > 1 else [""]


def suite_names(runs: Sequence[Run]) -> list[str]:
    """The suites of all runs, in order of appearance."""
    return list(dict.fromkeys(suite["name"] for run in runs for suite in run.meta["suites"]))


def series_of(runs: Sequence[Run], rows: Sequence[Sequence[Row]], suite: str) -> list[Series]:
    """The series of a suite over all runs that have it. rows: those of each run, from `summarise`."""
    found: list[Series] = []
    by = common(row.speedup for own in rows for row in own if row.suite == suite)
    several = sum(suite in suite_names([run]) for run in runs) > 1
    for letter, run, own in zip(run_names(runs), runs, rows, strict=True):
        here = [arm for arm in arms(run) if arm.suite["name"] == suite]
        reference = next((arm for arm in here if arm.method["label"] == run.meta["reference"]), None)
        short = short_labels([arm.method["label"] for arm in here])
        for arm, label in zip(here, short, strict=True):
            row = next(row for row in own if (row.suite, row.method) == (suite, arm.method["label"]))
            first = not found
            mine = [] if reference is None or reference is arm else pairs(arm, reference)
            ratios = tuple(sample_ratios(mine, row.settings.sampled))
            name = f"{letter}: {label}" if several else label
            found.append(Series(name, letter, run, row, arm, 0 if first else len(found), ratios, by))
    return found


def _names(one: Series, samples: int | None = None) -> dict[str, Any]:
    """The columns that every figure has. samples: those that its numbers are of; by default all that were measured."""
    row, counts = one.row, one.row.counts
    return {"run_id": row.run_id, "suite": row.suite, "method": row.method, "series": one.name,
            "lossless": one.lossless, "samples": counts.samples_ok if samples is None else samples,
            "samples_planned": counts.samples}  # fmt: skip


def _estimate(name: str, estimate: Estimate | None) -> dict[str, Any]:
    value, low, high = (estimate.value, estimate.low, estimate.high) if estimate else (None, None, None)
    return {name: value, f"{name}_low": low, f"{name}_high": high}


def speedup_by_length(series: Sequence[Series]) -> Data:
    """A row for each sample or batch: the length of its answer and its speed-up. One token has no decoding."""
    return _drawable([
        {**_paired(one), **_of(one, ratio), "tokens": ratio.tokens, "decode_speedup": ratio.decode,
         "e2e_speedup": ratio.e2e}
        for one in series for ratio in one.ratios
    ])  # fmt: skip


def speedup_distribution(series: Sequence[Series]) -> Data:
    """A row for each sample or batch: its speed-ups, beside the geometric mean of its method with its interval."""
    return _drawable([
        {**_paired(one), **_of(one, ratio), "decode_speedup": ratio.decode, "e2e_speedup": ratio.e2e,
         **_estimate("decode_speedup_geomean", one.row.speedup.decode_speedup_geomean),
         **_estimate("e2e_speedup_geomean", one.row.speedup.e2e_speedup_geomean)}
        for one in series for ratio in one.ratios
    ])  # fmt: skip


def _paired(one: Series) -> dict[str, Any]:
    """The names where a figure compares with the reference: of the samples that both have answered."""
    return _names(one, None if one.is_reference else one.row.counts.samples_paired)


def _of(one: Series, ratio: SampleRatio) -> dict[str, Any]:
    return {"observation": one.unit, "sample_id": ratio.sample_id, "speedup_of": one.speedup_of}


def _drawable(data: Data, *columns: str) -> Data:
    """The data if any row has these columns and the speed-up by which it is drawn; else []."""
    there = (all(row[name] is not None for name in (*columns, f"{row['speedup_of']}_speedup")) for row in data)
    return data if any(there) else []


def acceptance_by_position(series: Sequence[Series]) -> Data:
    """A row for each place in the draft: how many drafts were tested there, and the share of them that stood."""
    return [
        {**_names(one), "position": position, "tested": tested, "accepted_share": accepted / tested}
        for one in series
        for position, (tested, accepted) in enumerate(counts_by_position(one.arm), start=1)
    ]


def accepted_per_round(series: Sequence[Series]) -> Data:
    """A row for each count of accepted drafts: in how many rounds of a drafting method it came, and their share."""
    found = []
    for one in series:
        counts = rounds_by_accepted(one.arm)
        if one.row.acceptance.alpha is not None:
            total = sum(counts)
            found += [{**_names(one), "accepted": accepted, "rounds": counts[accepted],
                       "rounds_share": counts[accepted] / total} for accepted in range(len(counts))]  # fmt: skip
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
                **_paired(one), "metric": quality.metric, "metric_title": kind.header.replace("\n", ", "),
                "higher_is_better": kind.higher_is_better,
                **{name: None if value is None else value * kind.scale for name, value in shown.items()},
                **_speed(one),
            })  # fmt: skip
    return _drawable(found, "quality_delta")


def _speed(one: Series) -> dict[str, Any]:
    """Both speed-ups with their intervals, and by which one the figure compares."""
    one_s = Estimate(1.0, None, None, 0) if one.is_reference else None
    kinds = {name: one_s or getattr(one.row.speedup, f"{name}_geomean") for name in ("decode_speedup", "e2e_speedup")}
    return {"speedup_of": one.speedup_of} | _estimate("decode_speedup", kinds["decode_speedup"]) | _estimate(
        "e2e_speedup", kinds["e2e_speedup"])  # fmt: skip


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
    return _drawable(found, "peak_delta_bytes")


def _peak(one: Series, kind: str) -> int | None:
    if kind != "parts":
        found: int | None = getattr(one.row.memory, f"peak_{kind}_bytes")
        return found
    parts = memory_parts(one.run, one.row.suite).get(one.row.method)
    return sum(parts[f"{part}_bytes"] or 0 for part in PARTS if part != "rest") if parts else None


def phases(series: Sequence[Series]) -> Data:
    """A row for each phase of a method: its share of a request, and its seconds in a mean request.

    All are of the samples that every method has answered, since means over others would compare other answers.
    """
    known = [one for one in series if one.arm.measured]
    common = set.intersection(*(set(one.arm.measured) for one in known)) if known else set()
    found = []
    for one in known if common else ():
        samples = [sample for name, sample in one.arm.measured.items() if name in common]
        mean_s = sum(sample.e2e_s for sample in samples) / len(samples)
        shares, told_by = phase_shares([line for sample in samples for line in sample.lines])
        found += [{**_names(one, len(common)), "phase": name, "share": share,
                   "mean_s": None if share is None else share * mean_s, "phases_by": told_by}
                  for name, share in shares.items()]  # fmt: skip
    return found


def memory_peak(series: Sequence[Series]) -> Data:
    """A row for each part of a method's memory peak on one sample, as `run` took it apart."""
    found = []
    for one in series:
        parts: Mapping[str, Any] = memory_parts(one.run, one.row.suite).get(one.row.method) or {}
        found += [{**_names(one), "samples": 1, "samples_planned": 1, "memory_kind": parts["kind"],
                   "part": part, "part_bytes": parts.get(f"{part}_bytes"),
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
