"""Turns the rows of a table into entries, as the suite file declares: the same ids and texts as official files."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from fastvlm_bench.errors import UsageError
from fastvlm_bench.suites.annotations import Document, Entry, unique
from fastvlm_bench.suites.choices import LETTER, PHRASE, asked, chosen, literal
from fastvlm_bench.suites.table_definition import CONVERTERS, FIELD, TEMPLATES, Table, columns_of
from fastvlm_bench.suites.table_rows import column_names, light_rows
from fastvlm_bench.suites.turns import MARK


@dataclass(frozen=True)
class Row:
    """An entry, and where its image is: the file, the row in it, and the columns that hold one.

    The entry's image_name and, where no column tells it, its image_id are "" until the image is read. key: the image's
    id in the joined table, or "".
    """

    entry: Entry
    path: Path
    index: int
    images: tuple[str, ...]
    key: str = ""


class Entries:
    """Reads the files of a split one after the other; ids must be unique over all of them."""

    def __init__(self, table: Table, needs: str) -> None:
        self.table, self.needs = table, needs
        self.places: dict[str, str] = {}
        self.groups: dict[str, int] = {}
        self.count = 0

    def of(self, path: Path, name: str) -> Iterator[Row]:
        """The rows of one file that belong to the split. name: the file's, for messages."""
        there = column_names(path)
        table = resolved(self.table, there, f"{name} has no column", self.needs)
        columns = [column for column in _columns(table) if column in there]
        images = () if table.join else tuple(column for column in table.image if column in there)
        document = Document(Path(name), None, self.needs)
        for index, row in enumerate(light_rows(path, columns, images)):
            if not all(fnmatch(str(row[column]), pattern) for column, pattern in table.where.items()):
                continue
            place = f"row {index}"
            held = tuple(column for column in images if row[column])
            if table.one_image and len(held) != 1:
                continue
            if not held and not table.join:
                raise document.fault(f"{place}.{', '.join(images)}", "is null: the sample has no image")
            entry = self._entry(document, table, row, place)
            if table.all_images and len(table.image) > 1:
                held = _named(document, table, entry.question, held, place)
            unique(document, self.places, entry.sample_id, f"{name} {place}", "id")
            key = str(row[table.join.key]) if table.join else ""
            yield Row(entry, path, index, held, key)

    def _entry(self, document: Document, table: Table, row: Mapping[str, Any], place: str) -> Entry:
        group = _filled(document, table.group, row, place) if table.group else ""
        counted = {**row, "row": self.count, "#": self.groups.get(group, 0)}
        self.count, self.groups[group] = self.count + 1, self.groups.get(group, 0) + 1
        sample_id = document.identity({"id": _filled(document, table.id, counted, place)}, "id", place)
        image_id = _filled(document, table.image_id, counted, place) if table.image_id else ""
        question = _filled(document, table.question, row, place) if table.question else ""
        if table.question and not question.strip():
            raise document.fault(f"{place}.question", "is empty")
        fields: dict[str, str] = {}
        if table.choices:
            question, references, fields = _choice(document, table, row, question, place)
        else:
            references = _references(document, table, row, place)
        return Entry(sample_id, image_id, "", references, place, question, fields, group, file=str(document.path))


def _named(
    document: Document, table: Table, text: str, held: tuple[str, ...], place: str
) -> tuple[str, ...]:  # fmt: skip
    """The columns of the images that a text names as <image N>, or of all that are there where it names none."""
    numbers = sorted({int(number) for number in MARK.findall(text)})
    columns = [table.image[number - 1] if 1 <= number <= len(table.image) else "" for number in numbers]
    for number, column in zip(numbers, columns, strict=True):
        if column not in held:
            lacks = f"{column} is null" if column else f"there are {len(table.image)} columns of images"
            raise document.fault(f"{place}.question", f"refers to <image {number}>, but {lacks}")
    return tuple(columns) or held


def resolved(table: Table, there: Sequence[str], lacks: str, needs: str) -> Table:
    """The table with one choice for each template, that whose columns are there. UsageError naming those that lack."""
    own: dict[str, Any] = {}
    missing: list[str] = []
    for key in TEMPLATES:
        texts = getattr(table, key)
        fitting = [text for text in texts if set(columns_of(text)) <= set(there)]
        if key in ("image_id", "group") or fitting or not texts:  # these two can do without
            own[key] = tuple(fitting[:1])
        else:
            missing += [column for column in columns_of(texts[0]) if column not in there]
    found = [column for column in table.references if column in there]
    missing += [] if found or not table.references else [table.references[0]]
    single = [column for column in (table.choices, table.answer, *table.where) if column]
    missing += [column for column in [*single, *([table.join.key] if table.join else [])] if column not in there]
    if not table.join and not set(table.image) & set(there):
        missing.append(table.image[0])
    if missing:
        names = ", ".join(f"'{column}'" for column in dict.fromkeys(missing))
        raise UsageError(f"{lacks} {names} (it has {', '.join(there[:12])}); {needs}")
    return replace(table, **own, references=tuple(found[:1]))


def _columns(table: Table) -> list[str]:
    """The columns that are read of every row, without images."""
    templates = [text for key in TEMPLATES for text in getattr(table, key)]
    own = [column for text in templates for column in columns_of(text)]
    own += [*table.references, table.choices, table.answer, table.context, *table.where]
    return list(dict.fromkeys(column for column in [*own, *([table.join.key] if table.join else [])] if column))


def _filled(document: Document, templates: Sequence[str], row: Mapping[str, Any], place: str) -> str:
    """The first template with the row's values in it; "" without one, and for a group whose column is null.

    In one pass, so that braces in the data are left alone.
    """

    def shown(match: re.Match[str]) -> str:
        value = row[match[1]]
        if match[2]:
            value = value.get(match[2]) if isinstance(value, dict) else None
        if value is not None and not isinstance(value, str | int):
            raise document.fault(f"{place}.{match[1]}", f"is {str(value)[:30]!r}, not a text or a whole number")
        text = "" if value is None else str(value)
        if not (match[3] and text):
            return text
        try:
            return CONVERTERS[match[3]](text)
        except ValueError:
            raise document.fault(f"{place}.{match[1]}", f"is {text[:40]!r}, which has no '{match[3]}'") from None

    return FIELD.sub(shown, templates[0]) if templates else ""


def _references(document: Document, table: Table, row: Mapping[str, Any], place: str) -> tuple[str, ...]:
    """The references: a text, a list of texts, or a list of objects with an `answer`."""
    if not table.references:
        return ()
    column = table.references[0]
    where, value = f"{place}.{column}", row[column]
    given = value if isinstance(value, list) else [value]
    texts = [item.get("answer") if isinstance(item, dict) else item for item in given]
    if not all(isinstance(text, str) for text in texts) or not "".join(map(str, texts)).strip():
        raise document.fault(where, "holds no text, though it should hold the references")
    if table.answers is not None and len(texts) != table.answers:
        raise document.fault(where, f"has {len(texts)} answers, not {table.answers}")
    if table.allowed and texts[0] not in table.allowed:
        raise document.fault(where, f"is {texts[0]!r}, not one of {', '.join(table.allowed)}")
    return tuple(map(str, texts))


def _choice(
    document: Document, table: Table, row: Mapping[str, Any], question: str, place: str
) -> tuple[str, tuple[str, ...], dict[str, str]]:
    """Question, references and fields of a multiple-choice question; without choices it is an open one."""
    given, answer = row[table.choices], row[table.answer]
    texts = literal(document, given, f"{place}.{table.choices}") if isinstance(given, str) else given
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise document.fault(f"{place}.{table.choices}", "is not a list of texts")
    if texts:
        references = chosen(document, answer, texts, f"{place}.{table.answer}")
        return asked(question, texts, row.get(table.context) or ""), references, {"instruction": LETTER}
    text = document.text(row, table.answer, place)
    open_ones = literal(document, text, f"{place}.{table.answer}") if text.startswith("[") else [text]
    return question, tuple(open_ones), {"instruction": PHRASE}
