"""Scores predictions of any tool, in the official results format, against official annotation files.

COCO's format is [{"image_id", "caption"}], VQA's [{"question_id", "answer"}]; `run` can write both. Without torch.
"""

import inspect
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from fastvlm_bench import annotations, metrics, readers
from fastvlm_bench.annotations import Document, Entry
from fastvlm_bench.errors import UsageError, did_you_mean
from fastvlm_bench.metrics.ptb_tokenizer import VERSION
from fastvlm_bench.record import Run
from fastvlm_bench.storage import write_atomically
from fastvlm_bench.suite_definition import Definition, Split, read_definition

KEYS = {"caption": ("image_id", "caption"), "vqa": ("question_id", "answer")}
"""Kind of a suite -> the keys of an entry in its official results file: the sample's id, the model's text."""
SHOWN = 3


@dataclass(frozen=True)
class Scores:
    """`values` on the 0-1 scale, None for a metric that says nothing here; `reasons` then says why."""

    suite: str
    n: int
    values: dict[str, float | None]
    reasons: dict[str, str]
    variants: dict[str, str]

    def as_dict(self) -> dict[str, Any]:
        """What `score --json` prints. cider_df: document frequencies come from the whole annotation file, always."""
        return {
            "suite": self.suite, "n": self.n, "metrics": self.values, "tokenizer": VERSION, "cider_df": "full",
            "variants": self.variants, "reasons": self.reasons,
        }  # fmt: skip


def score_file(
    suite: str, annotation_file: Path, prediction_file: Path, *, allow_missing: bool = False,
    variants: Mapping[str, str] | None = None,
) -> Scores:  # fmt: skip
    """Score a results file with the suite's metrics. UsageError for whatever is wrong with one of the files.

    allow_missing: a sample without a prediction counts as an empty text, instead of being an error. variants: metric ->
    variant, for metrics that have any (`vqa_accuracy`: normalised, official, m4c).
    """
    definition = read_definition(suite)
    entries = read_references(definition, annotation_file)
    texts = read_predictions(prediction_file, definition.kind, entries, annotation_file, allow_missing)
    for metric in variants or {}:
        if metric not in definition.metrics:
            raise UsageError(f"suite '{suite}' has no metric '{metric}'{did_you_mean(metric, definition.metrics)}; "
                             f"its metrics are {', '.join(definition.metrics)}")  # fmt: skip
    values: dict[str, float | None] = {}
    reasons: dict[str, str] = {}
    used: dict[str, str] = {}
    references = [entry.references for entry in entries]
    for name in definition.metrics:
        scorer: Any = metrics.load(name)
        variant = inspect.signature(scorer.score).parameters.get("variant")
        chosen = (variants or {}).get(name)
        if variant is not None:
            used[name] = chosen or str(variant.default)
        elif chosen is not None:
            raise UsageError(f"metric '{name}' has no variants; leave out --variant {name}={chosen}")
        extra = {"variant": used[name]} if name in used else {}
        if len(entries) == 1 and name == "cider_d":
            values[name], reasons[name] = None, "with one image every caption scores exactly 0"
            continue
        found: metrics.MetricScore = scorer.score(texts, references, **extra)
        values |= {name: found.value, **found.parts}
    return Scores(suite, len(entries), values, reasons, used)


def read_references(definition: Definition, path: Path) -> list[Entry]:
    """The samples of an official annotation file in whichever format of the suite it has; images are not looked for.

    The splits whose own file name it bears are tried first; the first format that fits is taken.
    """
    splits = list(definition.splits.values())
    named = [s for s in splits if any(fnmatch(path.name, name) for names in s.files.values() for name in names)]
    failure: UsageError | None = None
    for split in {s.format: s for s in reversed(named or splits)}.values():
        try:
            return _read(split, path)
        except UsageError as error:
            failure = failure or error
    raise failure or UsageError(f"suite '{definition.name}' has no split that could be scored")


def _read(split: Split, path: Path) -> list[Entry]:
    if split.format == "vqav2":
        # The questions are in another file, and are not needed to score: stand-ins pass the same reader.
        document, _ = annotations.read_document(path, annotations.ANSWERS_LAYOUT)
        answers = Document(path, document.content, annotations.ANSWERS_LAYOUT)
        asked = [
            {"question": "?", "image_id": 0, **row} for row in answers.rows("annotations") if isinstance(row, dict)
        ]
        questions = Document(path, {"questions": asked}, annotations.ANSWERS_LAYOUT)
        return annotations.read_vqav2(questions, answers, "{image_id}")
    needs = set(readers.load(split.format).NEEDS) & set(split.files) - {"annotations", "questions"}
    if needs:
        raise UsageError(f"{path}: format {split.format} also needs {', '.join(sorted(needs))}; `score` reads one file")
    key = "annotations" if "annotations" in split.files else "questions"
    settings = {"images": split.images, "image_name": split.image_name, "subset": split.subset}
    return readers.load(split.format).read(readers.Source({key: (path,)}, settings, lambda raw: None))


def read_predictions(
    path: Path, kind: str, entries: Sequence[Entry], annotation_file: Path, allow_missing: bool
) -> list[str]:
    """The texts of a results file, in the order of `entries`. Missing, extra and duplicate ids are a UsageError."""
    id_key, text_key = KEYS[kind]
    document, _ = annotations.read_document(path, f'the results format is [{{"{id_key}", "{text_key}"}}]')
    if not isinstance(document.content, list):
        raise document.fault("the file", "holds no list")
    known = {entry.sample_id for entry in entries}
    texts: dict[str, str] = {}
    places: dict[str, str] = {}
    for index, row in enumerate(document.content):
        place = f"[{index}]"
        identity = document.identity(row, id_key, place)
        if identity in texts:
            raise document.fault(f"{place}.{id_key}", f"is {identity}, a duplicate id: {places[identity]} has it too")
        if identity not in known:
            raise document.fault(f"{place}.{id_key}", f"is {identity}, which {annotation_file} does not have")
        texts[identity], places[identity] = document.get(row, text_key, str, place), place
    missing = [entry.sample_id for entry in entries if entry.sample_id not in texts]
    if missing and not allow_missing:
        some = ", ".join(missing[:SHOWN]) + (", …" if len(missing) > SHOWN else "")
        raise UsageError(
            f"{path}: {len(missing)} of the {len(entries)} samples of {annotation_file} have no prediction "
            f"({id_key} {some}); add them, or count them as empty with --allow-missing"
        )
    return [texts.get(entry.sample_id, "") for entry in entries]


# ------------------------------------------------------------------------------------------ writing


def write_predictions(run: Run, file: Path) -> list[Path]:
    """Write a run's texts (of the first repeat) as FILE-suite-method.json, one official results file each.

    A failed sample has no text and is left out. Returns the paths.
    """
    written = []
    for suite in run.meta["suites"]:
        id_key, text_key = KEYS[suite["kind"]]
        for method in run.meta["methods"]:
            rows = [
                {id_key: official_id(line["sample_id"]), text_key: line["text"]}
                for line in run.lines
                if (line["suite"], line["method"], line["repeat"]) == (suite["name"], method["label"], 0)
                and line["error"] is None
            ]
            label = re.sub(r"[^A-Za-z0-9.=,_-]", "_", f"{suite['name']}-{method['label']}")
            path = file.with_name(f"{file.name.removesuffix('.json')}-{label}.json")
            write_atomically(path, json.dumps(rows).encode() + b"\n")
            written.append(path)
    return written


def official_id(sample_id: str) -> int | str:
    """An id as the official file has it: a whole number, unless its text is not one ("007" stays a text)."""
    return int(sample_id) if re.fullmatch(r"0|-?[1-9][0-9]*", sample_id) else sample_id
