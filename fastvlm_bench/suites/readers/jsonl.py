"""The user's own data: one sample per line, as JSON. Image paths are relative to the file's folder."""

from typing import Any

from fastvlm_bench.errors import UsageError
from fastvlm_bench.suites.annotations import Document, Entry, texts_of, unique
from fastvlm_bench.suites.readers import Source
from fastvlm_bench.suites.turns import check_marks, turns_of

NEEDS = ("annotations",)
LAYOUT = (
    "each line is {id, image: 'folder/name.jpg', prompt, references: [TEXT]}, or with several {id, images: [NAME], "
    "turns: [TEXT], references: [[TEXT], one list a turn]}; references may be left out in all"
)


def read(source: Source) -> list[Entry]:
    paths = source.files["annotations"]
    if len(paths) > 1:
        raise UsageError(f"{paths[0].parent} has {', '.join(p.name for p in paths)}; name one with --data FILE")
    document, rows = source.json_lines(paths[0], LAYOUT)
    entries: list[Entry] = []
    places: dict[str, str] = {}
    for place, row in rows:
        sample_id = document.identity(row, "id", place)
        unique(document, places, sample_id, place, "id")
        turns = turns_of(document, row, place) if isinstance(row, dict) and "turns" in row else ()
        prompts = turns or (document.text(row, "prompt", place),)
        for index, text in enumerate(prompts):
            if "<image>" in text:
                where = f"{place}.turns[{index}]" if turns else f"{place}.prompt"
                raise document.fault(where, "contains '<image>'; leave it out, the model's template has it")
        references = _references(document, row, len(prompts), place)
        if entries and bool(references) != bool(entries[0].turn_references):
            raise document.fault(f"{place}.references", "is empty here but not in all lines: none could be scored")
        names = _images(document, row, place)
        check_marks(document, prompts, len(names), place)
        where = f"{place}.references[{{}}]"
        entries.append(Entry(sample_id, names[0], names[0], references[0] if references else (), place, prompts[0],
                             where=where, turns=turns, turn_references=references,
                             images=names if len(names) > 1 else ()))  # fmt: skip
    return entries


def _references(document: Document, row: Any, turns: int, place: str) -> tuple[tuple[str, ...], ...]:
    """The references of each turn; () where there are none. Of a single turn they may be a list of texts."""
    given = document.get(row, "references", list, place) if "references" in row else []
    if not given:
        return ()
    nested = all(isinstance(item, list) for item in given)
    if turns > 1 and not nested:
        raise document.fault(f"{place}.references", f"must have a list of texts for each of the {turns} turns")
    parts = given if nested else [given]
    if len(parts) != turns:
        has = f"{len(parts)} list{'s' * (len(parts) > 1)} of texts"
        there = "is 1 turn" if turns == 1 else f"are {turns} turns"
        raise document.fault(f"{place}.references", f"has {has}, but there {there}")
    if empty := [index for index, part in enumerate(parts) if not part]:
        raise document.fault(f"{place}.references[{empty[0]}]", "is empty: the turn could not be scored")
    return tuple(
        texts_of(document, [{"text": text} for text in part], "text",
                 f"{place}.references[{index}]" if nested else f"{place}.references")
        for index, part in enumerate(parts)
    )  # fmt: skip


def _images(document: Document, row: Any, place: str) -> tuple[str, ...]:
    """The names of the sample's images, at `image` or in the list `images`."""
    if "images" not in row:
        return (document.text(row, "image", place),)
    names = document.get(row, "images", list, place)
    if not names:
        raise document.fault(f"{place}.images", "is an empty list")
    for index, name in enumerate(names):
        if not isinstance(name, str) or not name.strip():
            raise document.fault(f"{place}.images[{index}]", "is no file name")
    return tuple(names)
