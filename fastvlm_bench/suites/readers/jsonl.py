"""The user's own data: one sample per line, as JSON. Image paths are relative to the file's folder."""

from fastvlm_bench.errors import UsageError
from fastvlm_bench.suites.annotations import Entry, texts_of, unique
from fastvlm_bench.suites.readers import Source

NEEDS = ("annotations",)
LAYOUT = "each line is {id, image: 'folder/name.jpg', prompt, references: [TEXT]}; references may be left out in all"


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
        prompt = document.text(row, "prompt", place)
        if "<image>" in prompt:
            raise document.fault(f"{place}.prompt", "contains '<image>'; leave it out, the model's template has it")
        given = document.get(row, "references", list, place) if "references" in row else []
        references = texts_of(document, [{"text": text} for text in given], "text", f"{place}.references")
        if entries and bool(references) != bool(entries[0].references):
            raise document.fault(f"{place}.references", "is empty here but not in all lines: none could be scored")
        name = document.text(row, "image", place)
        where = f"{place}.references[{{}}]"
        entries.append(Entry(sample_id, name, name, references, place, prompt, where=where))
    return entries
