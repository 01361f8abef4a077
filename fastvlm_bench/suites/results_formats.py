"""The official results formats: what each data set's own evaluation reads. `run` writes them and `score` reads them.

A suite file names its format in `results`; by default captions are COCO's and answers VQA's.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastvlm_bench.errors import UsageError
from fastvlm_bench.suites.annotations import Document, Entry, RepeatedKey, read_bytes, unique_keys
from fastvlm_bench.suites.line_breaks import line_break

SHOWN = 3
GENERIC = ("question_id", "answer")
"""VQA's keys, which are understood in every list of answers, whatever the format's own keys are."""


@dataclass(frozen=True)
class Format:
    """How a results file is laid out.

    shape: "list" (of one object per answer), "lines" (one such object per line), or "object" ({id: text}). layout: the
    same in words, for messages. id_key, text_key: the keys of an answer's id and text, "" in an "object". within: the
    key under which {id: text} lies, or "". numbers: write ids that are whole numbers as numbers.
    """

    shape: str
    layout: str
    id_key: str = ""
    text_key: str = ""
    within: str = ""
    numbers: bool = True


FORMATS: dict[str, Format] = {
    "coco": Format("list", '[{"image_id", "caption"}]', "image_id", "caption"),
    "vqa": Format("list", '[{"question_id", "answer"}]', "question_id", "answer"),
    "gqa": Format("list", '[{"questionId", "prediction"}]', "questionId", "prediction", numbers=False),
    "docvqa": Format("list", '[{"questionId", "answer"}]', "questionId", "answer"),
    "scienceqa": Format("object", '{"outputs": {ID: TEXT}}', within="outputs"),
    "by-id": Format("object", "{ID: TEXT}"),
    "pope": Format(
        "lines", 'a line {"question", "answer"} each, in the order of the questions', "question_id", "answer"
    ),
    "llava-bench": Format("lines", 'a line {"question_id", "text"} each', "question_id", "text"),
    "visdial": Format("list", '[{"image_id", "round_id", "ranks": [NUMBER]}]'),
}
"""Name in suite files -> format. VisDial's ranks become the text "3 1 2 …", and the id IMAGE-ROUND."""
DEFAULT = {"caption": "coco", "vqa": "vqa", "ranking": "visdial"}


def official_id(sample_id: str) -> int | str:
    """An id as the official file has it: a number where its text is one, else the text ("007" stays a text)."""
    return int(sample_id) if re.fullmatch(r"0|-?[1-9][0-9]*", sample_id) else sample_id


# ------------------------------------------------------------------------------------------ writing


def encode(name: str, rows: Sequence[Mapping[str, Any]], model: str) -> dict[str, bytes]:
    """{suffix of the file's name: content} of rows with `sample_id`, `question`, `text` and `group`.

    POPE's evaluation reads one answer file per question file, so POPE's answers make one file per group. model: its
    name, which LLaVA-Bench's format holds.
    """
    form = FORMATS[name]
    if name == "pope" and len(groups := dict.fromkeys(row["group"] for row in rows)) > 1:
        return {f"-{group}.json": encode(name, [r for r in rows if r["group"] == group], model)[".json"]
                for group in groups}  # fmt: skip
    if name == "visdial":
        return {".json": json.dumps([_ranked(row) for row in rows]).encode() + b"\n"}
    if form.shape == "lines":
        return {".jsonl" if name == "llava-bench" else ".json": _lines(name, rows, model)}
    if form.shape == "object":
        texts: dict[str, Any] = {row["sample_id"]: row["text"] for row in rows}
        content: Any = {form.within: texts} if form.within else texts
    else:
        content = [{form.id_key: official_id(row["sample_id"]) if form.numbers else row["sample_id"],
                    form.text_key: row["text"]} for row in rows]  # fmt: skip
    return {".json": json.dumps(content).encode() + b"\n"}


def _ranked(row: Mapping[str, Any]) -> dict[str, Any]:
    image, _, number = str(row["sample_id"]).rpartition("-")
    return {"image_id": int(image), "round_id": int(number), "ranks": [int(rank) for rank in row["text"].split()]}


def _lines(name: str, rows: Sequence[Mapping[str, Any]], model: str) -> bytes:
    if name == "pope":
        made = [{"question": row["question"], "answer": row["text"]} for row in rows]
    else:
        made = [{"question_id": official_id(row["sample_id"]), "prompt": row["question"], "text": row["text"],
                 "answer_id": row["sample_id"], "model_id": model, "metadata": {}} for row in rows]  # fmt: skip
    return "".join(json.dumps(row) + "\n" for row in made).encode()


# ------------------------------------------------------------------------------------------ reading


def read(
    path: Path, name: str, entries: Sequence[Entry], source: str, allow_missing: bool, notes: list[str] | None = None
) -> list[str]:
    """The texts of a results file, in the order of `entries`. UsageError for missing, extra and duplicate ids.

    name, source, notes: as in `read_some`. allow_missing: a missing text is "" instead of an error.
    """
    form, texts = FORMATS[name], read_some(path, name, entries, source, notes)
    missing = [entry.sample_id for entry in entries if entry.sample_id not in texts]
    if missing and not allow_missing:
        some = ", ".join(missing[:SHOWN]) + (", …" if len(missing) > SHOWN else "")
        raise UsageError(
            f"{path}: {len(missing)} of the {len(entries)} samples of {source} have no prediction "
            f"({form.id_key or 'id'} {some}); add them, leave them out with --subset, "
            "or count them as empty with --allow-missing"
        )
    return [texts.get(entry.sample_id, "") for entry in entries]


def read_some(
    path: Path, name: str, entries: Sequence[Entry], source: str, notes: list[str] | None = None
) -> dict[str, str]:
    """Sample id -> text, of the samples that a results file has. UsageError for extra and duplicate ids.

    name: the format. source: the annotation files, for messages. notes: a list that gets a line for each text that
    would mislead the official tokenizer.
    """
    form = FORMATS[name]
    document = Document(path, _parse(path, form), f"the results format is {form.layout}")
    if form.within and isinstance(document.content, dict) and form.within in document.content:
        document = Document(path, document.content[form.within], document.layout)
    if name == "pope" and isinstance(document.content, list):
        ordered = _in_order(document, entries, source)
        if ordered is not None:
            return {entry.sample_id: text for entry, text in zip(entries, ordered, strict=True)}
    found = _READ[form.shape if name != "visdial" else name](document, form)
    known = {entry.sample_id for entry in entries}
    texts: dict[str, str] = {}
    places: dict[str, str] = {}
    for place, identity, text in found:
        if identity in texts:
            raise document.fault(place, f"is {identity}, a duplicate id: {places[identity]} has it too")
        if identity not in known:
            raise document.fault(place, f"is {identity}, which {source} does not have")
        texts[identity], places[identity] = text, place.rpartition(".")[0] or place
        if notes is not None and (odd := line_break(text)):
            key = f".{form.text_key}" if form.text_key else ""
            notes.append(f"{path}: {places[identity]}{key} (id {identity}) holds {odd}; it is scored as a space, while "
                         "coco-caption's tokenizer would move every later caption to another image")  # fmt: skip
    return texts


def _parse(path: Path, form: Format) -> Any:
    """The content of a JSON file, or the list of values of a file of JSON lines. UsageError if it is neither."""
    raw = read_bytes(path)
    try:
        return json.loads(raw, object_pairs_hook=unique_keys if form.shape == "object" else None)
    except RepeatedKey as repeated:
        raise UsageError(f"{path}: ['{repeated}'] is a duplicate id: the file has it twice; keep one") from None
    except (ValueError, RecursionError) as error:
        problem = "nested too deeply" if isinstance(error, RecursionError) else str(error)
    rows = []
    for number, line in enumerate(raw.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            rows.append(json.loads(line))
        except (ValueError, RecursionError):
            if number > 1 and rows:
                raise UsageError(f"{path}: line {number} is not JSON; the results format is {form.layout}") from None
            raise UsageError(f"{path}: not JSON ({problem}); the results format is {form.layout}") from None
    return rows


Found = list[tuple[str, str, str]]
"""(place of the id, id, text)."""


def _listed(document: Document, form: Format) -> Found:
    if not isinstance(document.content, list):
        raise document.fault("the file", "holds no list")
    first = document.content[0] if document.content else None
    own = not isinstance(first, dict) or (form.id_key in first and form.text_key in first)
    id_key, text_key = (form.id_key, form.text_key) if own or not set(GENERIC) <= set(first or ()) else GENERIC
    return [(f"[{index}].{id_key}", document.identity(row, id_key, f"[{index}]"),
             document.get(row, text_key, str, f"[{index}]")) for index, row in enumerate(document.content)]  # fmt: skip


def _object(document: Document, form: Format) -> Found:
    if isinstance(document.content, list):
        return _listed(document, FORMATS["vqa"])
    return [(f"['{key}']", key, document.get(document.content, key, str, "the file")) for key in document.table()]


def _ranks(document: Document, form: Format) -> Found:
    found = []
    for index, row in enumerate(document.listed()):
        place = f"[{index}]"
        image, number = (document.get(row, key, int, place) for key in ("image_id", "round_id"))
        ranks = document.get(row, "ranks", list, place)
        if not all(type(rank) is int for rank in ranks) or sorted(ranks) != list(range(1, len(ranks) + 1)):
            raise document.fault(f"{place}.ranks", f"must be the whole numbers 1 .. {len(ranks)}, each once")
        found.append((place, f"{image}-{number}", " ".join(map(str, ranks))))
    return found


def _in_order(document: Document, entries: Sequence[Entry], source: str) -> list[str] | None:
    """POPE's answers, which have no ids and stand in the order of the questions. None if these do have ids."""
    rows = document.listed()
    if isinstance(rows[0], dict) and GENERIC[0] in rows[0]:
        return None
    if len(rows) != len(entries):
        raise document.fault("the file", f"has {len(rows)} answers, but {source} has {len(entries)} questions")
    texts = []
    for index, (row, entry) in enumerate(zip(rows, entries, strict=True)):
        place = f"line {index + 1}"
        texts.append(document.get(row, "answer", str, place))
        if "question" in row and row["question"] != entry.question:
            raise document.fault(f"{place}.question", f"is {row['question']!r}, but {source} asks {entry.question!r}")
    return texts


_READ: dict[str, Callable[[Document, Format], Found]] = {
    "list": _listed, "lines": _listed, "object": _object, "visdial": _ranks,
}  # fmt: skip
