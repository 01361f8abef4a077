"""Scores predictions of any tool, in the official results format, against official annotation files."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from fastvlm_bench import metrics
from fastvlm_bench.analysis import quality
from fastvlm_bench.analysis.differences import IDENTICAL
from fastvlm_bench.analysis.quality import Quality
from fastvlm_bench.errors import UsageError
from fastvlm_bench.metrics import NEEDS_JAVA, java_metrics, java_scorers, kind_of
from fastvlm_bench.metrics.ptb_tokenizer import VERSION
from fastvlm_bench.records.record import Run
from fastvlm_bench.records.storage import write_atomically
from fastvlm_bench.report.quality_tables import evidence, flipped
from fastvlm_bench.scoring.table_references import table_references
from fastvlm_bench.suites import annotations, readers, results_formats
from fastvlm_bench.suites.annotations import Document, Entry
from fastvlm_bench.suites.definition import Definition, Split, read_definition
from fastvlm_bench.suites.files import candidates, layout, settings_of
from fastvlm_bench.suites.hub_data import is_hub
from fastvlm_bench.suites.turns import by_turn


@dataclass(frozen=True)
class Scores:
    """The scores of a results file. values: by metric on the 0-1 scale; None without a value, and `reasons` says why.

    In `values`, a metric's parts have their own names, and its groups are METRIC[GROUP]. deltas: differences to the
    reference predictions. notes: what is odd in the predictions, though it does no harm here. split: the split whose
    files were found, if a folder was given; else "".
    """

    suite: str
    n: int
    values: dict[str, float | None]
    reasons: dict[str, str]
    variants: dict[str, str]
    deltas: tuple[Quality, ...] = ()
    notes: tuple[str, ...] = field(default=(), compare=False)
    split: str = ""

    @property
    def how(self) -> dict[str, str]:
        """What the scores of captions depend on; {} for others. cider_df: "full" is the whole annotation file."""
        return {"tokenizer": VERSION, "cider_df": "full"} if metrics.tokenised(list(self.values)) else {}

    def as_dict(self) -> dict[str, Any]:
        """What `score --json` prints: metrics on their official scale of 0 to 1 (a mean rank is a rank), and counts."""
        compared = {
            q.metric: {"value": q.delta.value, "low": q.delta.low, "high": q.delta.high, "verdict": q.verdict,
                       "changed": q.changed, "bound": q.bound, "difference_p": q.difference_p, "margin_p": q.margin_p,
                       **({"won": q.flips.won, "lost": q.flips.lost, "mcnemar_p": q.flips.p} if q.flips else {})}
            for q in self.deltas if q.delta is not None
        }  # fmt: skip
        parts = [part for metric in self.values for part in kind_of(metric).parts.items()]
        counted = {name for name, part in parts if part.kind == "count"}
        counts = {name: value for name, value in self.values.items() if name in counted}
        return {
            "suite": self.suite, **({"split": self.split} if self.split else {}), "n": self.n,
            "metrics": {name: value for name, value in self.values.items() if name not in counts},
            **({"counts": counts} if counts else {}), **self.how, "variants": self.variants,
            "reasons": self.reasons, **({"deltas": compared} if self.deltas else {}),
            **({"notes": list(self.notes)} if self.notes else {}),
        }  # fmt: skip


def score_file(
    suite: str, annotation_files: Path | Sequence[Path], prediction_file: Path, *, allow_missing: bool = False,
    variants: Mapping[str, str] | None = None, split: str | None = None, java: bool = False,
    reference_file: Path | None = None, margin: float | None = None, more: Sequence[str] = (), subset: bool = False,
) -> Scores:  # fmt: skip
    """Score a results file with the suite's metrics. UsageError for whatever is wrong with one of the files.

    annotation_files: the files, or the folder (or hf:OWNER/NAME) that holds them. allow_missing: a sample without a
    prediction counts as an empty text instead of being an error. variants: metric -> variant, for metrics that have
    any. split: one split of the suite; None finds the one that fits the files. java: also METEOR and SPICE of captions.
    reference_file: other predictions, to which the paired differences are given; margin: in points of 100, for judging
    them. more: further metrics, each by its name or the path of its file. subset: samples without a prediction are left
    out; CIDEr-D still weighs words by all samples of the annotation files.
    """
    files = [annotation_files] if isinstance(annotation_files, Path) else list(annotation_files)
    definition = read_definition(suite)
    folder = len(files) == 1 and (files[0].is_dir() or is_hub(files[0]))
    notes: list[str] = []
    if (table := table_references(definition, files, split)) is not None:
        split, entries, note = table
        notes += [note] if note else []
    else:
        if folder:
            split, files = _files_in(definition, files[0], split)
        entries = read_references(definition, files, split)
    entries = by_turn(entries, definition.turns == 1)
    added = [metrics.METRICS.known(text) for text in more]
    if not (definition.metrics or added):
        raise UsageError(f"suite '{suite}' has no metrics here: it is generated and saved, not scored")
    if java and (missing := java_scorers.check()):
        notes.append(missing)
    source = ", ".join(map(str, files))
    if subset and allow_missing:
        raise UsageError("--subset and --allow-missing exclude each other: a missing text is left out, or it is empty")
    samples = [{"references": entry.references, "group": entry.group} for entry in entries]
    odd = notes if metrics.tokenised(definition.metrics) else None
    if subset:
        whole, form = len(entries), definition.results
        there = results_formats.read_some(prediction_file, form, entries, source, odd)
        beside = results_formats.read_some(reference_file, form, entries, source) if reference_file else there
        entries = [entry for entry in entries if entry.sample_id in there and entry.sample_id in beside]
        if not entries:
            raise UsageError(f"{prediction_file}: no sample of the {whole} of {source} has a prediction"
                             + (f" both there and in {reference_file}" if reference_file else ""))  # fmt: skip
        texts, others = ([found[entry.sample_id] for entry in entries] for found in (there, beside))
        where = f" in both {prediction_file} and {reference_file}" if reference_file else ""
        notes.append(f"{len(entries)} of the {whole} samples of {source} have a prediction{where}; "
                     "scores are of these alone")  # fmt: skip
    else:
        texts = results_formats.read(prediction_file, definition.results, entries, source, allow_missing, odd)
    java_named = java_metrics() if definition.kind == "caption" else ()
    named = list(dict.fromkeys([*definition.metrics, *java_named, *added]))
    chosen = metrics.choose_variants([*definition.metrics, *added], {**definition.variants, **(variants or {})})
    if definition.kind == "ranking":  # the variant says how `run` ranks; here the ranks are given
        if variants:
            raise UsageError(f"--variant is for `run`: {prediction_file} holds ranks that are made already")
        chosen = {}
    references = [entry.references for entry in entries]
    described = {"samples": samples, "variants": chosen}
    values: dict[str, float | None] = {}
    reasons: dict[str, str] = {}
    for name in named:
        if kind_of(name).java and not java:
            values[name], reasons[name] = None, NEEDS_JAVA
            continue
        found, reason = quality.attempt(name, described, texts, references)
        if found is None and not kind_of(name).may_lack:
            raise UsageError(f"{prediction_file}: {reason}")
        if found is None:
            values[name], reasons[name] = None, reason
            continue
        values |= {name: found.value, **found.parts}
        for group in quality.group_names(described):
            own = [index for index, entry in enumerate(entries) if entry.group == group]
            if not own:  # of a subset; no metric is asked for the score of nothing
                values[f"{name}[{group}]"], reasons[f"{name}[{group}]"] = None, "no sample of it has a prediction"
                continue
            part = quality.score(name, described, [texts[i] for i in own], [references[i] for i in own], group)
            values[f"{name}[{group}]"] = None if part is None else part.value
            if part is None:
                reasons[f"{name}[{group}]"] = f"nothing to say of {len(own)} sample{'s' if len(own) > 1 else ''}"
    deltas: tuple[Quality, ...] = ()
    if reference_file is not None:
        if not subset:
            others = results_formats.read(reference_file, definition.results, entries, source, allow_missing)
        images, bound = [entry.image_id for entry in entries], quality.margin_of({}, margin)
        deltas = tuple(
            Quality(name, values[name],
                    **vars(quality.difference(name, described, texts, others, references, images, bound)),
                    flips=quality.flips(name, described, texts, others, references, images))
            for name in named if values[name] is not None
        )  # fmt: skip
    return Scores(suite, len(entries), values, reasons, chosen, deltas, tuple(notes),
                  split or "" if folder else "")  # fmt: skip


def _files_in(definition: Definition, folder: Path, name: str | None) -> tuple[str, list[Path]]:
    """The first split (or the one named) whose annotation files lie in the folder, and these files.

    UsageError if there is none.
    """
    splits = [definition.split(name)] if name else [split for split in definition.splits.values() if not split.root]
    for split in splits:
        found = candidates(folder, split)
        if split.format == "vqav2":
            found.pop("questions")
        if None not in found.values():
            return split.name, [path for paths in found.values() for path in paths or ()]
    wanted = "; ".join(f"{split.name}: {layout(split)}" for split in splits)
    raise UsageError(
        f"{folder} holds the annotation files of no split of suite '{definition.name}'; looked for {wanted}"
    )


def read_references(definition: Definition, paths: Sequence[Path], name: str | None = None) -> list[Entry]:
    """The samples of official annotation files, in any format that the suite has. Images are not looked for.

    The formats of the splits whose files have these names are tried, or of all splits if there are none; the first
    that fits is taken. name: try this split only. UsageError if no format fits.
    """
    splits = [definition.split(name)] if name else list(definition.splits.values())
    named = [split for split in splits if all(_key(split, path) for path in paths)]
    failure: UsageError | None = None
    for split in named or splits:
        try:
            return _read(split, paths)
        except UsageError as error:
            failure = failure or error
    raise failure or UsageError(f"suite '{definition.name}' has no split that could be scored")


def _key(split: Split, path: Path) -> str:
    """The key of the split under which it has a file of this name, or ""."""
    for key, items in split.files.items():
        names = [name.strip(" ?").rpartition("/")[2] for item in items for name in item.split("|")]
        if any(fnmatch(path.name, name) for name in names):
            return key
    return ""


def _read(split: Split, paths: Sequence[Path]) -> list[Entry]:
    needed = [key for key, items in split.files.items() if not all(item.lstrip().startswith("?") for item in items)]
    if split.format == "vqav2":
        needed.remove("questions")
    files: dict[str, tuple[Path, ...]] = {}
    strangers = []
    for path in paths:
        if key := _key(split, path):
            files[key] = (*files.get(key, ()), path)
        else:
            strangers.append(path)
    for path in strangers:
        key = next((key for key in needed if key not in files), needed[-1])
        files[key] = (*files.get(key, ()), path)
    if missing := [key for key in needed if key not in files]:
        wanted = ", ".join(" or ".join(split.files[key]) for key in missing)
        raise UsageError(f"{paths[0]}: format {split.format} also needs {wanted}; repeat --annotations for it")
    settings = settings_of(split)
    if split.format == "vqav2" and "questions" not in files:
        return _answers_alone(files["annotations"][0])
    return readers.load(split.format).read(readers.Source(files, settings, lambda raw: None))


def _answers_alone(path: Path) -> list[Entry]:
    """VQA's answers without their questions, which scoring does not need; placeholders go through the usual reader."""
    document, _ = annotations.read_document(path, annotations.ANSWERS_LAYOUT)
    answers = Document(path, document.content, annotations.ANSWERS_LAYOUT)
    asked = [{"question": "?", "image_id": 0, **row} for row in answers.rows("annotations") if isinstance(row, dict)]
    questions = Document(path, {"questions": asked}, annotations.ANSWERS_LAYOUT)
    return annotations.read_vqav2(questions, answers, "{image_id}")


def write_predictions(run: Run, file: Path) -> list[Path]:
    """Write a run's texts (of the first repeat) as FILE-suite-method.json, each in its suite's official format.

    A failed sample has no text and is left out. Returns the paths. WriteFailed if a file cannot be written.
    """
    written = []
    for suite in run.meta["suites"]:
        form = suite.get("results") or results_formats.DEFAULT[suite["kind"]]
        asked = {sample["sample_id"]: sample for sample in suite["samples"]}
        for method in run.meta["methods"]:
            rows = [
                {"sample_id": line["sample_id"], "text": _written(line, suite), "group": sample.get("group", ""),
                 "question": sample.get("question") or sample["prompt"]}
                for line in run.lines
                if (line["suite"], line["method"], line["repeat"]) == (suite["name"], method["label"], 0)
                and line["error"] is None and (sample := asked[line["sample_id"]])
            ]  # fmt: skip
            label = re.sub(r"[^A-Za-z0-9.=,_-]", "_", f"{suite['name']}-{method['label']}")
            model = f"{run.meta['model']['id']} {method['label']}"
            for suffix, content in results_formats.encode(form, rows, model).items():
                path = file.with_name(f"{file.name.removesuffix('.json')}-{label}{suffix}")
                write_atomically(path, content)
                written.append(path)
    return written


def _written(line: Mapping[str, Any], suite: Mapping[str, Any]) -> str:
    """The line's text, or in a ranking suite its ranks by the variant of the run (sum or mean of log-likelihoods)."""
    if not (ranks := line.get("ranks")):
        return str(line["text"])
    way = suite.get("variants", {}).get("visdial_ranking") or metrics.variants_of("visdial_ranking")[0]
    return " ".join(map(str, ranks[way]))


def table(found: Scores) -> list[tuple[str, str]]:
    """The (name, value) rows of the terminal's table, with the reason in place of a missing value."""
    rows = [(name, found.reasons.get(name, "–") if value is None else f"{value:.4f}")
            for name, value in found.values.items()]  # fmt: skip
    for q in found.deltas:
        label = f"Δ {q.metric}"
        if q.delta is None or q.verdict == IDENTICAL:
            rows.append((label, f"identical outputs {found.n}/{found.n}" if q.delta is not None else "–"))
        else:
            known = q.delta.low is not None and q.delta.high is not None
            interval = f" [{q.delta.low:+.4f}, {q.delta.high:+.4f}]" if known else ""
            seen = "" if q.bound is None else evidence(q, f"{q.bound:.4f}")
            rows.append((label, f"{q.delta.value:+.4f}{interval} {q.verdict}{seen}{flipped(q)}"))
    return rows


def as_json(found: Scores) -> str:
    """The scores as one line of ASCII JSON, so that a lone surrogate in a file's name does no harm."""
    return json.dumps(found.as_dict())
