"""POPE: JSON lines, although the files are called .json. Ids restart in each file, so here they are FILE/ID."""

from fastvlm_bench.suites.annotations import Entry, unique
from fastvlm_bench.suites.readers import Source, coco_id

NEEDS = ("annotations",)
LAYOUT = "each line is {question_id, image: 'COCO_val2014_….jpg', text, label: 'yes' or 'no'}"


def read(source: Source) -> list[Entry]:
    entries: list[Entry] = []
    for path in source.files["annotations"]:
        document, rows = source.json_lines(path, LAYOUT)
        places: dict[str, str] = {}
        for place, row in rows:
            question_id = document.identity(row, "question_id", place)
            unique(document, places, question_id, place, "question_id")
            name, label = document.text(row, "image", place), document.text(row, "label", place)
            if label not in ("yes", "no"):
                raise document.fault(f"{place}.label", f"is {label!r}, not 'yes' or 'no'")
            try:
                image_id = coco_id(name)
            except ValueError:
                raise document.fault(f"{place}.image", f"is {name!r}, which ends in no image id") from None
            text = document.text(row, "text", place)
            key = f"{path.stem}/{question_id}"
            entries.append(Entry(key, image_id, name, (label,), place, text, group=path.stem, file=str(path)))
    return entries
