"""ChartQA: lists of questions without ids; the id is FILE/INDEX, so that the two halves do not collide."""

from fastvlm_bench.suites.annotations import Entry
from fastvlm_bench.suites.readers import Source

NEEDS = ("annotations",)
LAYOUT = "ChartQA's layout is [{imgname, query, label}]"


def read(source: Source) -> list[Entry]:
    entries = []
    for document in source.documents("annotations", LAYOUT):
        for index, row in enumerate(document.listed()):
            place = f"[{index}]"
            name = document.text(row, "imgname", place)
            label, query = document.text(row, "label", place), document.text(row, "query", place)
            half = document.path.stem
            key, file = f"{half}/{index}", str(document.path)
            entries.append(Entry(key, name, name, (label,), place, query, group=half, file=file))
    return entries
