"""Judges what a run's numbers may be used for: all warnings, and VALID or INVALID with the reasons."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from fastvlm_bench.analysis.arms import Arm, arms
from fastvlm_bench.analysis.differing import differing_notices, invalid_reason, other_contexts, some
from fastvlm_bench.analysis.notices import (
    Notice,
    drift_notices,
    launch_notices,
    left_out,
    order_effects,
    prediction_notices,
    slow_reference,
    spread_notices,
    stop_notices,
)
from fastvlm_bench.analysis.remedies import draft_notices, slower, slower_notices
from fastvlm_bench.analysis.speedup import FEWEST_SAMPLES
from fastvlm_bench.analysis.summary import Row, summarise
from fastvlm_bench.errors import InvalidRun
from fastvlm_bench.records.compact import uncollected
from fastvlm_bench.records.document_frequencies import cider_df
from fastvlm_bench.records.identities import check_line
from fastvlm_bench.records.record import Run

WARNINGS = (
    "ShortOutputs", "Diverged", "NearTies", "UnsteadyTarget", "SlowerThanReference", "UntrainedDraft",
    "UselessDrafts", "AllAccepted", "TooFewSamples", "NoisyMachine", "Throttled",
    "NotIsolated", "Stalled", "DirtyTree", "EmbeddedData", "Refined", "SubsetCider", "OrderEffect", "FailedSamples",
    "Outliers",
    "NotWarmedUp", "Drifting", "StoppedEarly", "InvocationsDiffer",
    "ScoringFailed", "FasterThanPredicted", "SlowerThanPredicted", "SecondsDoNotAddUp", "SlowReference",
    "ForeignLoop", "EagerEngine", "RecordedLate", "MissingShards", "EagerReference",
)  # fmt: skip
"""The names of all warnings. docs/measuring.md explains each of them."""
INVALID = "INVALID"
"""The status of a run whose numbers must not be published."""
SHORT_TOKENS, FEW_SAMPLES = 8, 20
NOISY, VERY_NOISY = 0.10, 0.25


@dataclass(frozen=True)
class Verdict:
    """`status` is "VALID" or "INVALID"; `reasons` says why it is INVALID."""

    status: str
    reasons: tuple[str, ...]
    warnings: tuple[Notice, ...]

    def as_dict(self) -> dict[str, Any]:
        """The entry `verdict` of run.json; the warnings have an entry of their own."""
        return {"status": self.status, "reasons": list(self.reasons)}


def require_valid(judged: Iterable[tuple[Run, Verdict]]) -> None:
    """InvalidRun if any of these runs is INVALID. It names each, with the first reason."""
    bad = [f"{run.run_id} ({some(verdict.reasons)})" for run, verdict in judged if verdict.status != "VALID"]
    if bad:
        raise InvalidRun(f"INVALID, and --require-valid asks for VALID: {some(bad)}")


def greedy(meta: Mapping[str, Any]) -> bool:
    """Whether a run decodes greedily: only then must a lossless method give the very same tokens."""
    return not meta["config"].get("temperature")


def judge(
    run: Run, rows: Sequence[Row] | None = None, status: str | None = None, own: Sequence[Arm] | None = None
) -> Verdict:  # fmt: skip
    """The verdict on a run. rows, own: those of `summarise` and `arms`, if they are there already.

    status: used instead of the one in `run.json`, for the runner, which judges a run before it has ended.
    """
    own = arms(run) if own is None else own
    rows = summarise(run, own=own) if rows is None else rows
    status = status or str(run.meta["status"])
    against = [tuple(row_reasons(run, row, status)) for row in rows]
    judged = [(row, arm) for row, arm, found in zip(rows, own, against, strict=True)
              if not (found and row.settings.foreign)]  # fmt: skip
    warned = _Warned(run, judged)
    foreign = [_foreign(run, row, found) for row, found in zip(rows, against, strict=True)
               if found and row.settings.foreign]  # fmt: skip
    of_rows = [notice for row, arm in judged for notice in _warnings(run, row, arm, rows, warned)]
    slow = slower_notices(judged, warned.drafts, warned.short)
    warnings = [*_run_warnings(run), *of_rows, *slow, *foreign, *order_effects(run, own), *drift_notices(run, own)]
    reasons = invalid_reasons(run, rows, own, status)
    return Verdict(INVALID if reasons else "VALID", reasons, tuple(dict.fromkeys(warnings)))


def judged_rows(run: Run, margin: float | None = None) -> tuple[list[Row], Verdict]:
    """The rows of `summarise`, each with the status of the verdict, and the verdict: for what leaves the tool."""
    with uncollected():
        own = arms(run)
        rows = summarise(run, margin, own)
        verdict = judge(run, rows, own=own)
        return stamped(rows, verdict), verdict


def stamped(rows: Iterable[Row], verdict: Verdict) -> list[Row]:
    """The rows with the status of the verdict on their run."""
    return [replace(row, status=verdict.status) for row in rows]


def alpha_of(run: Run, method: str, share: tuple[float, float]) -> str:
    """α (Σ accepted / Σ tested) of a method over part of its lines, as "0.812", or "unknown" if no draft was tested.

    share: where the part begins and ends; (0.75, 1.0) is the last quarter.
    """
    own = [line for line in run.lines if line["method"] == method and not line["error"]]
    part = own[int(share[0] * len(own)) : max(int(share[1] * len(own)), 1)]
    accepted, tested = (sum(r[place] for line in part for r in line["rounds"]) for place in (2, 1))
    return f"{accepted / tested:.3f}" if tested else "unknown"


# ------------------------------------------------------------------------------------------ warnings


def _run_warnings(run: Run) -> Iterable[Notice]:
    if missing := (run.meta.get("merged") or {}).get("missing"):
        names = ", ".join(f"{number}/{run.meta['merged']['of']}" for number in missing)
        yield Notice("MissingShards", f"merged without shards {names}: the numbers are of the other samples; measure "
                     "these and merge again")  # fmt: skip
    environment = run.meta.get("environment", {})
    if environment.get("dirty"):
        yield Notice("DirtyTree", "the code had uncommitted changes, so no commit names it; commit, then run again")
    embedded = [suite["name"] for suite in run.meta["suites"] if suite["split"] == "embedded"]
    if embedded:
        yield Notice(
            "EmbeddedData",
            f"{', '.join(embedded)}: measured on the embedded sample, not on the real data set; "
            "use --data DIR --split NAME",
        )
    for suite in run.meta["suites"]:
        # CIDEr-D weighs words by how many of the scored images use them, so a part of a set scores unlike the whole.
        if "cider_d" in suite["metrics"] and cider_df(suite, run.meta["config"]) == "subset":
            yield Notice(
                "SubsetCider",
                f"{suite['name']}: CIDEr-D takes its document frequencies from these {len(suite['samples'])} images "
                "alone; compare it with no other --limit, and for a paper run it again to its end",
            )
    for method, updates in (run.meta.get("refined") or {}).get("updates", {}).items():
        early, late = (alpha_of(run, method, share) for share in ((0.0, 0.25), (0.75, 1.0)))
        yield Notice(
            "Refined",
            f"{method} learned between samples ({updates} updates, not on the clock): α {early} on the first quarter "
            f"of the samples, {late} on the last; its numbers belong to no fixed draft",
        )
    for recorded in run.meta.get("warnings") or []:
        if recorded["name"] in (
            "Throttled",
            "NotIsolated",
            "Stalled",
            "EagerEngine",
            "RecordedLate",
        ):  # seen while it ran; the lines do not show it
            yield Notice(recorded["name"], recorded["message"])


class _Warned:
    """What is said of a run that explains other findings, which then are not told: one warning for each cause.

    short: the suites of short answers. drafts: (suite, method) -> the warnings of its drafts. slow_reference: likewise
    the warnings of a reference that is slow by itself; suspect: the suites of such rows.
    """

    def __init__(self, run: Run, judged: Sequence[tuple[Row, Arm]]) -> None:
        layers = run.meta["model"].get("layers")
        self.short = {row.suite for row, _ in judged if row.method == row.reference and _is_short(row)}
        self.drafts: dict[tuple[str, str], tuple[Notice, ...]] = {}
        self.slow_reference: dict[tuple[str, str], tuple[Notice, ...]] = {}
        for row, arm in judged:
            place, where = (row.suite, row.method), f"{row.suite}, {row.method}"
            if row.method != row.reference:
                if found := tuple(draft_notices(row, arm, where, layers, row.suite in self.short)):
                    self.drafts[place] = found
                if found := tuple(slow_reference(row, arm, where)):
                    self.slow_reference[place] = found
        self.suspect = {suite for suite, _ in self.slow_reference}


def _is_short(row: Row) -> bool:
    return row.times.new_tokens_median is not None and row.times.new_tokens_median < SHORT_TOKENS


def _warnings(run: Run, row: Row, arm: Arm, rows: Sequence[Row], warned: _Warned) -> Iterable[Notice]:
    where, settings, counts = f"{row.suite}, {row.method}", row.settings, row.counts
    if row.method == row.reference:
        yield from stop_notices(run, row)
    if counts.samples_failed:
        causes = sorted({error.split(":")[0] for error in _errors(run, row)})
        yield Notice("FailedSamples", f"{where}: {counts.samples_failed} of {counts.samples} samples failed "
                     f"({some(causes)}); they and their pairs do not count; see samples.jsonl")  # fmt: skip
    if row.method == row.reference:
        yield from _reference_warnings(row)
        yield from launch_notices(run, row)
        return
    if counts.samples_paired < FEW_SAMPLES:
        yield Notice("TooFewSamples", f"{row.suite}: {counts.samples_paired} samples; an interval needs {FEW_SAMPLES} "
                     "to be worth reading; raise --limit or give --data DIR")  # fmt: skip
    elif (batches := _batches(row)) is not None and batches < FEW_SAMPLES:
        yield Notice("TooFewSamples", f"{row.suite}: {batches} batches of {settings.batch_size}; an interval "
                     f"needs {FEW_SAMPLES} to be worth reading; raise --limit, or lower --batch-size")  # fmt: skip
    yield from differing_notices(row, rows)
    yield from other_contexts(row)
    yield from warned.drafts.get((row.suite, row.method), ())
    yield from spread_notices(row, where)
    yield from warned.slow_reference.get((row.suite, row.method), ())
    for quality in row.quality:
        if quality.failure:
            yield Notice("ScoringFailed", f"{where}: {quality.metric} could not be computed ({quality.failure}); times "
                         "stand, and `report` computes it again from the records")  # fmt: skip
    if not settings.compared:  # it decodes everything twice, so its speed is no surprise
        return
    told = {"SlowerThanPredicted"} if slower(row.speedup) else set()
    told |= {"FasterThanPredicted"} if row.suite in warned.suspect else set()
    yield from (notice for notice in prediction_notices(row, where) if notice.name not in told)


def _batches(row: Row) -> int | None:
    """Number of batches that the speed-up was taken over; None for samples that were decoded alone."""
    estimate = row.speedup.e2e_speedup_geomean
    return estimate.n if row.settings.batch_size > 1 and estimate is not None else None


def _reference_warnings(row: Row) -> Iterable[Notice]:
    tokens, spread = row.times.new_tokens_median, row.times.tpot_spread
    if _is_short(row):
        yield Notice("ShortOutputs", f"{row.suite}: the median answer has {tokens:g} tokens, so prefill "
                     "decides and drafting cannot show; choose a suite with longer answers")  # fmt: skip
    if spread is not None and spread > NOISY:
        degree = "very noisy" if spread > VERY_NOISY else "noisy"
        yield Notice("NoisyMachine", f"{row.suite}: {degree}, the time per token of {row.reference} spreads by "
                     f"{spread:.0%} (IQR / median); stop other programs, pin --threads, "
                     "raise --repeats")  # fmt: skip


# ------------------------------------------------------------------------------------------ INVALID


def invalid_reasons(run: Run, rows: Sequence[Row], own: Sequence[Arm], status: str) -> tuple[str, ...]:
    """Why the run is INVALID; () where it is VALID. rows, own: of `summarise` and `arms`."""
    return (*_reasons(run, own, status), *(
        reason for row in rows if not row.settings.foreign for reason in row_reasons(run, row, status)
    ))  # fmt: skip


def _reasons(run: Run, own: Sequence[Arm], status: str) -> Iterable[str]:
    """What is wrong with the run as a whole, or with any of its lines."""
    if status != "success":
        yield f"the run is {status}, not finished; go on with --resume {run.folder}"
    if run.torn:
        yield "the last line is torn: the run was killed while writing it; go on with --resume"
    failed = [line for line in run.lines if line["error"] is not None]
    broken = [
        f"{line['suite']}/{line['sample_id']}/{line['method']}: {problem}"
        for arm in own
        for line in chain(arm.lines(), (x for x in failed if _of(x, arm)))
        for problem in check_line(line, arm.suite["max_new_tokens"])
    ]
    if broken:
        yield f"the counts do not add up ({some(broken)})"


def row_reasons(run: Run, row: Row, status: str) -> Iterable[str]:
    """What is wrong with one row: another library's own loop answers for it by a warning, every other by INVALID."""
    where, counts = f"{row.suite}, {row.method}", row.counts
    if counts.samples_failed:
        yield f"{where}: {counts.samples_failed} of {counts.samples} samples failed"
    if row.method == row.reference:
        return
    paired, unpaired = counts.samples_paired, counts.samples - counts.samples_paired
    if paired < FEWEST_SAMPLES:
        yield f"{where}: {paired} samples measured in both arms; at least {FEWEST_SAMPLES} are needed"
    elif (batches := _batches(row)) is not None and batches < FEWEST_SAMPLES:
        yield f"{where}: {batches} batches measured in both arms; at least {FEWEST_SAMPLES} are needed"
    elif status == "success" and not counts.samples_failed and unpaired > left_out(run, row):
        yield f"{where}: {unpaired} of {counts.samples} samples have no pair"
    if greedy(run.meta) and (reason := invalid_reason(row)) is not None:
        yield reason


def _errors(run: Run, row: Row) -> list[str]:
    """The errors of a row's failed lines."""
    return [str(line["error"]) for line in run.lines
            if line["error"] is not None and (line["suite"], line["method"]) == (row.suite, row.method)]  # fmt: skip


def _foreign(run: Run, row: Row, reasons: Sequence[str]) -> Notice:
    """The one notice of a foreign loop's row with faults: the first reason, and the first error of its lines."""
    cause = f"{reasons[0]} ({errors[0]})" if (errors := _errors(run, row)) else reasons[0]
    return Notice("ForeignLoop", f"{cause}; this row's numbers are of no use, the others are not touched")


def _of(line: Mapping[str, Any], arm: Arm) -> bool:
    return bool(line["suite"] == arm.suite["name"] and line["method"] == arm.method["label"])
