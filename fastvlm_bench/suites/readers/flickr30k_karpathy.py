"""Flickr30k in Karpathy's form: no `cocoid` and no `filepath`; the id is the file name's number."""

from pathlib import Path

from fastvlm_bench.suites.annotations import Entry, texts_of, unique
from fastvlm_bench.suites.readers import Source

NEEDS = ("annotations", "subset")
LAYOUT = "Karpathy's layout is {images: [{filename, split, sentences: [{raw}]}]}"


def read(source: Source) -> list[Entry]:
    document, wanted = source.document("annotations", LAYOUT), source.settings["subset"]
    entries: list[Entry] = []
    places: dict[str, str] = {}
    subsets = set()
    for index, row in enumerate(document.rows("images")):
        place = f"images[{index}]"
        subsets.add(subset := document.get(row, "split", str, place))
        if subset != wanted:
            continue
        name = document.text(row, "filename", place)
        unique(document, places, name, place, "filename")
        texts = texts_of(document, document.get(row, "sentences", list, place), "raw", f"{place}.sentences")
        if not any(text.strip() for text in texts):
            raise document.fault(f"{place} ({name})", "has no reference caption")
        where = f"{place}.sentences[{{}}].raw"
        entries.append(Entry(Path(name).stem, Path(name).stem, name, texts, place, where=where))
    if not entries:
        there = ", ".join(sorted(map(repr, subsets)))
        raise document.fault("'images'", f"has none with split '{wanted}', only {there}")
    return entries
