"""The official annotation files, read as they are: COCO captions, Karpathy's COCO splits, VQAv2.

Every fault is a UsageError of one line: the file, the place in it, what is wrong, and the layout that is expected.
Texts are kept as they stand; tokenising them is the metrics' business. Standard library only.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastvlm_bench.errors import UsageError

MAX_BYTES = 1 << 30
"""No official file is that large; parsing one would take several times its size in memory."""
ANSWERS = 10
"""VQA accuracy is defined on exactly ten human answers per question."""
COCO_LAYOUT = "COCO's layout is {images: [{id, file_name}], annotations: [{image_id, caption}]}"
KARPATHY_LAYOUT = "Karpathy's layout is {images: [{cocoid, filepath, filename, split, sentences: [{raw}]}]}"
QUESTIONS_LAYOUT = "VQAv2's layout is {questions: [{question_id, image_id, question}]}"
ANSWERS_LAYOUT = "VQAv2's layout is {annotations: [{question_id, image_id, answers: [{answer}] x 10}]}"


@dataclass(frozen=True)
class Entry:
    """One sample as its annotation file has it.

    place: where it stands in the file, for messages. question: "" for captions. fields: what a prompt's other
    placeholders stand for, by name. group: the part of the data set that the official file puts it into (an answer
    type, a domain), or "". options: the given answers, where the suite ranks them. turns: the questions of a sample of
    several turns; () where there is one question. turn_references: the references of each turn, where they differ.
    turn: which of the turns this entry is (see `turns.by_turn`), from 1; dialog: the id of the sample whose turn it is,
    "" where there is one turn. images: the names of all images, where there are several; `image_name` is the first.
    file: the file that `place` is in, where a split has several files of a kind. where, rows: for messages about a
    reference; the place of the i-th one is `where` formatted with rows[i], or with i if there are no rows.
    """

    sample_id: str
    image_id: str
    image_name: str
    references: tuple[str, ...]
    place: str
    question: str = ""
    fields: Mapping[str, str] = field(default_factory=dict, hash=False)
    group: str = ""
    options: tuple[str, ...] = ()
    file: str = ""
    where: str = ""
    rows: tuple[int, ...] = ()
    turns: tuple[str, ...] = ()
    turn_references: tuple[tuple[str, ...], ...] = ()
    turn: int = 1
    dialog: str = ""
    images: tuple[str, ...] = ()

    @property
    def image_names(self) -> tuple[str, ...]:
        """The names of its images, in the order in which a model is shown them."""
        return self.images or (self.image_name,)

    def reference_place(self, index: int) -> str:
        """Where a reference stands in its file."""
        if not self.where:
            return f"{self.place}, reference [{index}]"
        return self.where.format(self.rows[index] if self.rows else index)


@dataclass(frozen=True)
class Document:
    """A parsed JSON file, and the layout it ought to have. Its methods raise `fault` where the content is otherwise."""

    path: Path
    content: Any
    layout: str

    def fault(self, place: str, problem: str) -> UsageError:
        """The error to raise, in one line: file, place, problem, expected layout."""
        return UsageError(" ".join(f"{self.path}: {place} {problem}; {self.layout}".split()))

    def rows(self, key: str) -> list[Any]:
        """The list at `key` of the top-level object. It must not be empty."""
        if not isinstance(self.content, dict):
            raise self.fault("the file", f"holds {_kind(self.content)}, not an object")
        found = self.get(self.content, key, list, "the top level")
        if not found:
            raise self.fault(f"'{key}'", "is an empty list")
        return list(found)

    def listed(self) -> list[Any]:
        """The top-level list. It must not be empty."""
        if not isinstance(self.content, list):
            raise self.fault("the file", f"holds {_kind(self.content)}, not a list")
        if not self.content:
            raise self.fault("the file", "holds an empty list")
        return self.content

    def table(self) -> dict[str, Any]:
        """The top-level object. It must not be empty."""
        if not isinstance(self.content, dict):
            raise self.fault("the file", f"holds {_kind(self.content)}, not an object")
        if not self.content:
            raise self.fault("the file", "holds an empty object")
        return self.content

    def text(self, row: Any, key: str, place: str) -> str:
        """The text at `key`. It must not be blank."""
        found: str = self.get(row, key, str, place)
        if not found.strip():
            raise self.fault(f"{place}.{key}", "is empty")
        return found

    def get(self, row: Any, key: str, kind: type, place: str) -> Any:
        """`row[key]`. The row must be an object with this key, and the value of type `kind`."""
        if not isinstance(row, dict):
            raise self.fault(place, f"is {_kind(row)}, not an object")
        if key not in row:
            raise self.fault(place, f"has no '{key}' (it has {', '.join(list(map(str, row))[:8]) or 'nothing'})")
        if not isinstance(row[key], kind) or isinstance(row[key], bool):
            raise self.fault(place if place == "the top level" else f"{place}.{key}",
                             f"is {_kind(row[key])}, not {_kind(kind())}")  # fmt: skip
        return row[key]

    def identity(self, row: Any, key: str, place: str) -> str:
        """An id as text. It is a whole number in the official files, and may be a text in others."""
        kind = str if isinstance(row, dict) and isinstance(row.get(key), str) else int
        found = str(self.get(row, key, kind, place))
        if not found.strip() or not found.isprintable():
            raise self.fault(f"{place}.{key}", f"is {found!r}, which cannot be an id")
        return found


class RepeatedKey(Exception):
    """A JSON object has a key twice. Python's `json` would silently keep the last value."""


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of these pairs, for `json.loads(object_pairs_hook=…)`. RepeatedKey, with the first such key."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise RepeatedKey(next(key for key in keys if keys.count(key) > 1))
    return found


def read_document(path: Path, layout: str, keyed: bool = False) -> tuple[Document, bytes]:
    """A parsed JSON file (a byte order mark is tolerated) and its bytes, for hashing. UsageError if it is not JSON.

    keyed: ids are keys of objects in this file, so a repeated key is a fault.
    """
    raw = read_bytes(path, layout)
    try:
        return Document(path, json.loads(raw, object_pairs_hook=unique_keys if keyed else None), layout), raw
    except RepeatedKey as repeated:
        raise Document(path, None, layout).fault(
            f"['{repeated}']", "is a duplicate id: the file has it twice"
        ) from None
    except (ValueError, RecursionError) as error:
        problem = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        start = raw[:20].decode("ascii", "replace").replace("\ufffd", "?").splitlines()
        raise UsageError(f"{path}: not JSON ({problem}; it starts with {(start or [''])[0]!r}); "
                         "download the official file again") from None  # fmt: skip


def read_bytes(path: Path, layout: str = "give the official file") -> bytes:
    """A file's bytes. UsageError if it cannot be read or is too large to be an annotation file."""
    try:
        if os.path.getsize(path) > MAX_BYTES:
            raise UsageError(f"{path}: larger than {MAX_BYTES >> 20} MiB, so not an official file; {layout}")
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}); check the file and its permissions") from None


def read_coco_captions(document: Document) -> list[Entry]:
    """COCO captions: one entry per image, in the order of `images`, with its captions in file order."""
    names: dict[str, str] = {}
    places: dict[str, str] = {}
    for index, row in enumerate(document.rows("images")):
        place = f"images[{index}]"
        image_id = document.identity(row, "id", place)
        unique(document, places, image_id, place, "id")
        names[image_id] = document.get(row, "file_name", str, place)
    captions: dict[str, list[str]] = {image_id: [] for image_id in names}
    rows: dict[str, list[int]] = {image_id: [] for image_id in names}
    ids: dict[str, str] = {}
    for index, row in enumerate(document.rows("annotations")):
        place = f"annotations[{index}]"
        image_id = document.identity(row, "image_id", place)
        if image_id not in captions:
            raise document.fault(f"{place}.image_id", f"is {image_id}, which is not among the images")
        if "id" in row:
            unique(document, ids, document.identity(row, "id", place), place, "id")
        captions[image_id].append(document.get(row, "caption", str, place))
        rows[image_id].append(index)
    for image_id, texts in captions.items():
        if not any(text.strip() for text in texts):
            raise document.fault(f"{places[image_id]} (id {image_id})", "has no reference caption")
    where = "annotations[{}].caption"
    return [Entry(i, i, name, tuple(captions[i]), places[i], where=where, rows=tuple(rows[i]))
            for i, name in names.items()]  # fmt: skip


def read_coco_karpathy(document: Document, subset: str, folder: str) -> list[Entry]:
    """Karpathy's `dataset_coco.json`: the images of one of its subsets, all of which lie in `folder`."""
    entries: list[Entry] = []
    places: dict[str, str] = {}
    subsets = set()
    for index, row in enumerate(document.rows("images")):
        place = f"images[{index}]"
        found = document.get(row, "split", str, place)
        subsets.add(found)
        if found != subset:
            continue
        image_id = document.identity(row, "cocoid", place)
        unique(document, places, image_id, place, "cocoid")
        if document.get(row, "filepath", str, place) != folder:
            raise document.fault(f"{place}.filepath", f"is {row['filepath']!r}, not '{folder}'")
        sentences = document.get(row, "sentences", list, place)
        texts = texts_of(document, sentences, "raw", f"{place}.sentences")
        if not any(text.strip() for text in texts):
            raise document.fault(f"{place} (cocoid {image_id})", "has no reference caption")
        name, where = document.get(row, "filename", str, place), f"{place}.sentences[{{}}].raw"
        entries.append(Entry(image_id, image_id, name, texts, place, where=where))
    if not entries:
        there = ", ".join(sorted(map(repr, subsets)))
        raise document.fault("'images'", f"has none with split '{subset}', only {there}")
    return entries


def read_vqav2(questions: Document, annotations: Document, image_name: str) -> list[Entry]:
    """VQAv2: one entry per question, in file order, with its ten answers. `image_name` formats the image id."""
    answers: dict[str, tuple[str, tuple[str, ...], str]] = {}
    seen: dict[str, str] = {}
    for index, row in enumerate(annotations.rows("annotations")):
        place = f"annotations[{index}]"
        question_id = annotations.identity(row, "question_id", place)
        unique(annotations, seen, question_id, place, "question_id")
        given = annotations.get(row, "answers", list, place)
        if len(given) != ANSWERS:
            raise annotations.fault(f"{place}.answers", f"has {len(given)} answers, not {ANSWERS}")
        answers[question_id] = (
            annotations.identity(row, "image_id", place), texts_of(annotations, given, "answer", f"{place}.answers"),
            str(row.get("answer_type") or ""),
        )  # fmt: skip
    entries: list[Entry] = []
    places: dict[str, str] = {}
    for index, row in enumerate(questions.rows("questions")):
        place = f"questions[{index}]"
        question_id = questions.identity(row, "question_id", place)
        unique(questions, places, question_id, place, "question_id")
        if question_id not in answers:
            problem = f"is {question_id}, which has no answers in {annotations.path}"
            raise questions.fault(f"{place}.question_id", problem)
        image_id = questions.get(row, "image_id", int, place)
        answered, texts, kind = answers[question_id]
        if answered != str(image_id):
            raise questions.fault(f"{place}.image_id", f"is {image_id}, but {answered} in {annotations.path}")
        text = questions.get(row, "question", str, place)
        if not text.strip():
            raise questions.fault(f"{place}.question", "is empty")
        name = image_name.format(image_id=image_id)
        entries.append(Entry(question_id, answered, name, texts, place, text, group=kind))
    return entries


def unique(document: Document, places: dict[str, str], identity: str, place: str, key: str) -> None:
    """Note in `places` where an id stands. Raises the document's fault if the id is there already."""
    if identity in places:
        raise document.fault(f"{place}.{key}", f"is {identity}, a duplicate id: {places[identity]} has it too")
    places[identity] = place


def texts_of(document: Document, rows: list[Any], key: str, place: str) -> tuple[str, ...]:
    """The text at `key` of every row. Raises the document's fault, with the place, for a row without one."""
    try:  # VQAv2 has two million answers, so they are checked one by one only if something is wrong
        texts = tuple([row[key] for row in rows])
        if all(type(text) is str for text in texts):
            return texts
    except (KeyError, TypeError, IndexError):
        pass
    return tuple(document.get(row, key, str, f"{place}[{index}]") for index, row in enumerate(rows))


def _kind(value: Any) -> str:
    """The type of a JSON value, in words."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    words = {str: "a string", int: "a whole number", float: "a decimal number", list: "a list", dict: "an object"}
    return words[type(value)]
