"""Compares runs, sample by sample. Everything but the method must be the same in all of them."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fastvlm_bench.analysis.arms import Arm, Measured, arms, count_samples, pairs, same_samples
from fastvlm_bench.analysis.batches import batch_size
from fastvlm_bench.analysis.bounds import Steps, together
from fastvlm_bench.analysis.generation import generation_notes, in_force
from fastvlm_bench.analysis.packed import packed
from fastvlm_bench.analysis.quality import Quality, adjust, compare_quality, margin_of
from fastvlm_bench.analysis.settings import engine_of
from fastvlm_bench.analysis.speedup import speedups
from fastvlm_bench.analysis.statistics import Estimate, geometric_mean_ratio
from fastvlm_bench.analysis.summary import Row, summarise
from fastvlm_bench.analysis.verdict import Verdict, judge, stamped
from fastvlm_bench.errors import IncompatibleRuns, UsageError
from fastvlm_bench.records.compact import uncollected
from fastvlm_bench.records.record import Run, read_run
from fastvlm_bench.records.storage import flatten

SUITE_IDENTITY = ("version", "split", "sha256", "prompt", "max_new_tokens")
MODEL_IDENTITY = ("weights_sha256", "dtype", "device", "attention")
CONFIG_IDENTITY = ("temperature", "top_k", "top_p", "ignore_eos")
"""Settings of a run that change what is measured. Methods, their options and the draft are what one compares."""
HARDWARE = ("cpu", "gpu", "threads")
VERSIONS = ("tool", "commit", "python", "torch", "transformers", "cuda", "driver")
"""A difference in these is worth a note, not a refusal: to compare two versions is a fair question."""


@dataclass(frozen=True)
class ComparedRow:
    """One run x suite x method, compared with the same method in the first run.

    run: the index of the run. against: the label of the arm of the first run that this one is compared with, "" if
    there is none. decode, e2e: geometric mean of that arm's seconds / this arm's seconds on the same samples; above 1,
    this one is faster. `identical` of the `compared` samples have the same token ids in both runs.
    """

    run: int
    row: Row
    against: str
    decode: Estimate | None
    e2e: Estimate | None
    quality: tuple[Quality, ...]
    identical: int | None
    compared: int


@dataclass(frozen=True)
class Comparison:
    """Rows by suite, then method, then run. `forced` lists the identity fields that differ: [] unless forced.

    of_suites: the runs are of different suites, so that samples have no partners. left_out: a sentence for each reason
    why runs that were found are not shown. verdicts: one a run; an INVALID run is shown, and marked.
    """

    runs: tuple[Run, ...]
    rows: tuple[ComparedRow, ...]
    forced: tuple[str, ...]
    notes: tuple[str, ...]
    of_suites: bool = False
    left_out: tuple[str, ...] = ()
    verdicts: tuple[Verdict, ...] = ()


def identity(run: Run) -> dict[str, Any]:
    """Everything that must be equal before the numbers of two runs may be compared, by name."""
    meta, environment = run.meta, run.meta.get("environment", {})
    fields: dict[str, Any] = {"schema_version": meta["schema_version"]}
    fields["suites"] = ", ".join(sorted(suite["name"] for suite in meta["suites"]))
    for suite in meta["suites"]:
        for name in SUITE_IDENTITY:
            fields[f"{suite['name']} {name}"] = suite[name]
        if digest := suite.get("images_sha256"):  # records of 0.1 lack it
            fields[f"{suite['name']} images"] = digest
        ids = [sample["sample_id"] for sample in suite["samples"]]
        fields[f"{suite['name']} samples"] = f"{len(ids)} (sha256 {_digest(ids)})"
        for text in ("prompt", "rendered"):  # as the data fill the template; as the model reads it
            texts = [sample.get(text) for sample in suite["samples"]]
            if all(each is not None for each in texts):
                fields[f"{suite['name']} {text} texts"] = f"sha256 {_digest(texts)}"
    for name in MODEL_IDENTITY:
        fields[f"model {name}"] = meta["model"].get(name)
    if digest := meta["model"].get("processor_sha256"):  # records of 0.1 lack it
        fields["model processor_sha256"] = digest
    for part in ("config", "processor"):  # older records lack them
        fields |= flatten(meta["model"][part], f"model {part}") if part in meta["model"] else {}
    fields |= {name: environment.get(name) for name in HARDWARE}
    fields |= {f"config {name}": meta["config"].get(name) or None for name in CONFIG_IDENTITY}
    fields["batch size"] = batch_size(run)
    fields["engine"] = engine_of(run)
    if (settings := in_force(run)) is not None:  # older records lack it
        fields["generation settings"] = settings
    return fields


def _digest(texts: Sequence[Any]) -> str:
    """Of texts that may hold anything, line breaks and lone surrogates too."""
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()[:8]


def differences(first: Mapping[str, Any], other: Mapping[str, Any], of_suites: bool = False) -> list[str]:
    """What differs between two identities, a phrase each; of_suites: the runs may be of different suites.

    What only one run has (the fields of a suite, say) is told by the list of suites.
    """
    return [f"{name}: {_short(first[name])} / {_short(other[name])}" for name in first
            if name in other and first[name] != other[name] and not (of_suites and name == "suites")]  # fmt: skip


def _short(value: Any) -> str:
    """A value on one line. A SHA-256 is cut to its first eight digits, which are enough to tell two apart."""
    text = " ".join(str(value).split())
    return text[:8] if re.fullmatch(r"[0-9a-f]{64}", text) else text


def compare(
    runs: Sequence[Run], force: bool = False, of_suites: bool = False, left_out: Sequence[str] = ()
) -> Comparison:
    """Compare runs with the first one. IncompatibleRuns lists every differing identity field, unless `force`.

    A run without lines is read when its turn comes, and not kept. of_suites: the runs may be of different suites, and
    the rows of all suites are given. left_out: as in Comparison.
    """
    if len(runs) < 2:
        raise UsageError(f"compare needs two runs, not {len(runs)}; name their folders")
    first = runs[0]
    found, notes = differing(runs, of_suites)
    if found and not force:
        raise IncompatibleRuns(f"these runs cannot be compared: {'; '.join(found)}; --force shows them all the same")
    _share_samples(runs)
    base, rows, verdicts = list[Arm](), list[ComparedRow](), list[Verdict]()
    for index, run in enumerate(runs):
        with uncollected():
            verdict, of_run, own = _of_run(index, run, base, margin_of(first.meta["config"]))
            verdicts.append(verdict)
            rows += of_run
            base = base if index else packed(own)
            del own  # of a data set there is room for one run's lines
    qualities = adjust([row.quality for row in rows])
    rows = [replace(row, quality=quality) for row, quality in zip(rows, qualities, strict=True)]
    shown = runs if of_suites else runs[:1]
    suites = list(dict.fromkeys(suite["name"] for run in shown for suite in run.meta["suites"]))
    rows = [row for row in rows if row.row.suite in suites]
    names = list(dict.fromkeys(row.row.settings.method_name for row in rows))
    rows.sort(key=lambda row: (suites.index(row.row.suite), names.index(row.row.settings.method_name)))
    return Comparison(tuple(runs), tuple(rows), tuple(found), tuple(notes), of_suites, tuple(left_out), tuple(verdicts))


def _of_run(index: int, run: Run, base: Sequence[Arm], margin: float) -> tuple[Verdict, list[ComparedRow], list[Arm]]:
    """What is said of one run, its rows beside those of the first one (`base`), and its arms."""
    whole = run if run.lines else read_run(run.folder, run.meta)
    own = arms(whole)
    summaries = summarise(whole, own=own)
    verdict = judge(whole, summaries, own=own)
    begun = [_compared(index, row, arm, _counterpart(arm, base), margin)
             for row, arm in zip(stamped(summaries, verdict), own, strict=True)]  # fmt: skip
    ended = iter(together([steps for _, of_row in begun for steps in of_row]))
    rows = [replace(row, quality=tuple(next(ended) for _ in of_row) or row.quality) for row, of_row in begun]
    return verdict, rows, own


def _share_samples(runs: Sequence[Run]) -> None:
    """Suites that are the same in all runs are kept once: of a data set each takes a quarter of a gigabyte."""
    first = {suite["name"]: suite["samples"] for suite in runs[0].meta["suites"]}
    for suite in (suite for run in runs[1:] for suite in run.meta["suites"]):
        if suite["samples"] == first.get(suite["name"]):
            suite["samples"] = first[suite["name"]]


def differing(runs: Sequence[Run], of_suites: bool = False) -> tuple[list[str], list[str]]:
    """What forbids to compare these runs with the first one, and what else is to be known of them, a sentence each."""
    first, *others = runs
    found = [f"{first.run_id} and {other.run_id} ({'; '.join(fields)})"
             for other in others if (fields := differences(identity(first), identity(other), of_suites))]  # fmt: skip
    same: dict[str, list[str]] = {}  # a folder of runs of two commits is one note, not one a run
    for other in others:
        for field in differences(_versions(first), _versions(other)):
            same.setdefault(field, []).append(other.run_id)
    notes = [f"{first.run_id} and {', '.join(ids)} differ in {field}" for field, ids in same.items()]
    notes += generation_notes(runs)
    notes += [f"{run.run_id} is {run.meta['status']}, not finished" for run in runs if run.meta["status"] != "success"]
    return found, notes


def _versions(run: Run) -> dict[str, Any]:
    return {name: run.meta.get("environment", {}).get(name) for name in VERSIONS}


def _counterpart(arm: Arm, base: Sequence[Arm]) -> Arm | None:
    """The first run's arm with the same label; failing that, the only one with the same method name."""
    own = [other for other in base if other.suite["name"] == arm.suite["name"]]
    for key in ("label", "name"):
        same = [other for other in own if other.method[key] == arm.method[key]]
        if len(same) == 1:
            return same[0]
    return None


def _compared(
    run: int, row: Row, arm: Arm, against: Arm | None, margin: float
) -> tuple[ComparedRow, list[Steps[Quality]]]:  # fmt: skip
    """A row, and the steps to its quality where it has a difference."""
    if against is None:
        qualities = tuple(Quality(q.metric, q.value, None, "") for q in row.quality)
        return ComparedRow(run, row, "", None, None, qualities, None, 0), []
    paired = _pairs(arm, against)
    decode, e2e = speedups(paired, geometric_mean_ratio, row.settings.sampled)
    steps = [compare_quality(metric, arm, paired, margin) for metric in arm.suite["metrics"]]
    same = None if row.settings.sampled else same_samples(paired)
    return ComparedRow(run, row, against.method["label"], decode, e2e, (), same, count_samples(paired)), steps


def _pairs(arm: Arm, against: Arm) -> list[tuple[Measured, Measured]]:
    """Pairs of the same sample in two runs.

    Where the runs have unequal repeats, the times are still medians over all of them, but only the outputs of the
    first repeats are compared.
    """
    exact = pairs(arm, against)
    if exact or not arm.measured:
        return exact
    return pairs(_first_outputs(arm), _first_outputs(against))


def _first_outputs(arm: Arm) -> Arm:
    trimmed = {key: m._replace(lines=m.lines[:1]) for key, m in arm.measured.items()}
    return replace(arm, measured=trimmed, repeats=1)
