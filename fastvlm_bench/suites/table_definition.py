"""What `[splits.<name>.table]` says: how the rows of a data set's table (parquet, arrow) become samples.

A text with `{column}` in it is a template; `{column:converter}` converts, and `{row}` is the row's number, `{#}` its
number within its group. A list gives alternatives: the first whose columns the table has. `like` names a split whose
table this one repeats, but for the keys that it gives itself.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from fastvlm_bench.suites.readers import coco_id

FIELD = re.compile(r"\{(\w+|#)(?:\.(\w+))?(?::(\w+))?\}")
"""`{column}`, `{column.key}` of a column of objects, `{column:converter}`."""
CONVERTERS: dict[str, Callable[[str], str]] = {
    "coco": coco_id,
    "stem": lambda text: Path(text).stem,
    "tenth": lambda text: str(int(text) // 10),
    "stripped": str.strip,
    "unoptioned": lambda text: text.split("Options:", 1)[0].strip(),
    "swapped": lambda text: "_".join(reversed(text.split("_"))),
}
"""coco: the number of a COCO file name. tenth: OK-VQA's image of a question id. swapped: human_test is test_human.
unoptioned: the question without the options that follow it, as SpecForge cuts MMStar's."""
COUNTERS = ("row", "#")
TEMPLATES = ("id", "image_id", "question", "group")
LISTS = (*TEMPLATES, "image", "references", "allowed")
"""Keys that give a text, or a list of them."""
KINDS = {"answers": "a whole number of at least 1", "one_image": "true or false", "all_images": "true or false",
         "where": "a table of texts",
         "join": "a table of the texts rows, id and key"}  # fmt: skip
"""What the keys must be that are neither these nor a text."""


@dataclass(frozen=True)
class Join:
    """A second table that has the images: its rows, the column of its ids, and the first table's column of them."""

    rows: str
    id: str
    key: str


@dataclass(frozen=True)
class Table:
    """A split as a table.

    repository: where people get it. rows: CONFIG/SPLIT, with "a | b" for alternatives and "a + b" for one after the
    other; config "*" is any. image: columns of images, of which a row's first is shown. one_image: rows that have not
    exactly one image are left out. all_images: a row's images are all shown: of several columns those that its text
    names as <image N>, or else all that are there; of one column all of its list.
    references: the column of them; answers: how many there must be; allowed: which ones. choices, answer, context:
    the columns of a multiple-choice question. where: column -> the value, or a pattern of it, that
    the split's rows have there. join: the table that has the images.
    """

    rows: str
    id: tuple[str, ...]
    image: tuple[str, ...]
    repository: str = ""
    image_id: tuple[str, ...] = ()
    question: tuple[str, ...] = ()
    group: tuple[str, ...] = ()
    references: tuple[str, ...] = ()
    answers: int | None = None
    allowed: tuple[str, ...] = ()
    choices: str = ""
    answer: str = ""
    context: str = ""
    one_image: bool = False
    all_images: bool = False
    where: Mapping[str, str] = field(default_factory=dict, hash=False)
    join: Join | None = None


def columns_of(template: str) -> list[str]:
    """The columns that a template reads."""
    return [match[1] for match in FIELD.finditer(template) if match[1] not in COUNTERS]


def _of_its_kind(key: str, value: Any) -> bool:
    """Whether a key that is no list of texts has a value of its kind."""
    if key == "answers":
        return isinstance(value, int) and not isinstance(value, bool) and value > 0
    if key in ("one_image", "all_images"):
        return isinstance(value, bool)
    if key in KINDS:
        texts = isinstance(value, dict) and all(isinstance(text, str) for text in value.values())
        return texts and (key != "join" or set(value) == {item.name for item in fields(Join)})
    return isinstance(value, str)


def parse_table(given: Any) -> Table | str:
    """The table that a suite file declares, or what is wrong with it."""
    known = {item.name for item in fields(Table)}
    if not isinstance(given, dict):
        return "must be a table"
    if unknown := [key for key in given if key not in known]:
        return f"has an unknown key '{unknown[0]}': one of {', '.join(sorted(known))}"
    if lacking := [key for key in ("rows", "id") if not given.get(key)]:
        return f"needs '{lacking[0]}'"
    made: dict[str, Any] = {"image": ("image",)}
    for key, value in given.items():
        if key in LISTS:
            value = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else (value,)
            if not value or not all(isinstance(text, str) for text in value):
                return f"has {key} = {given[key]!r}, which must be a text or a list of texts"
        elif not _of_its_kind(key, value):
            return f"has {key} = {value!r}, which must be {KINDS.get(key, 'a text')}"
        made[key] = value
    if "join" in made:
        made["join"] = Join(**made["join"])
    for template in (text for key in TEMPLATES for text in made.get(key, ())):
        for match in FIELD.finditer(template):
            if match[3] and match[3] not in CONVERTERS:
                return f"has an unknown converter '{match[3]}': one of {', '.join(CONVERTERS)}"
    return Table(**made)
