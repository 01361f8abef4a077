"""The user's own data: one sample per line, as JSON. Image paths are relative to the file's folder."""

from typing import Any

from fastvlm_bench.errors import UsageError
from fastvlm_bench.suites.annotations import Document, Entry, texts_of, unique
from fastvlm_bench.suites.readers import Source
from fastvlm_bench.suites.turns import check_marks, turns_of

NEEDS = ("annotations",)
LAYOUT = "each line is {id, image: 'folder/name.jpg', prompt, references: [TEXT]}; references may be left out in all"
"""`images` may stand for `image`, and `turns` for `prompt`, as lists of one: so much is asked of a model here."""


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
        prompt = turns[0] if turns else document.text(row, "prompt", place)
        if "<image>" in prompt:
            raise document.fault(f"{place}.prompt", "contains '<image>'; leave it out, the model's template has it")
        given = document.get(row, "references", list, place) if "references" in row else []
        references = texts_of(document, [{"text": text} for text in given], "text", f"{place}.references")
        if entries and bool(references) != bool(entries[0].references):
            raise document.fault(f"{place}.references", "is empty here but not in all lines: none could be scored")
        name = _image(document, row, place)
        check_marks(document, turns or (prompt,), 1, place)
        where = f"{place}.references[{{}}]"
        entries.append(Entry(sample_id, name, name, references, place, prompt, where=where, turns=turns))
    return entries


def _image(document: Document, row: Any, place: str) -> str:
    """The name of the sample's one image, at `image` or in the list `images`."""
    if "images" not in row:
        return document.text(row, "image", place)
    names = document.get(row, "images", list, place)
    if len(names) != 1 or not isinstance(names[0], str):
        raise document.fault(f"{place}.images", f"has {len(names)} entries; a prompt here holds one image")
    return names[0]
