"""Flickr30k's `results_20130124.token`: one caption per line, as `1000092795.jpg#0<TAB>caption`."""

import re
from pathlib import Path

from fastvlm_bench.suites.annotations import Document, Entry
from fastvlm_bench.suites.readers import Source

NEEDS = ("annotations",)
LAYOUT = "each line is NAME.jpg#NUMBER<TAB>CAPTION"


def read(source: Source) -> list[Entry]:
    path = source.files["annotations"][0]
    document = Document(path, None, LAYOUT)
    captions: dict[str, dict[str, str]] = {}
    places: dict[str, str] = {}
    rows: dict[str, list[int]] = {}
    for number, line in enumerate(source.lines(path), 1):
        if not line.strip():
            continue
        match = re.fullmatch(r"([^#\t]+)#(\d+)\t(.*)", line, re.DOTALL)
        if match is None:
            raise document.fault(f"line {number}", f"is {line[:40]!r}")
        name, index, caption = match.groups()
        own = captions.setdefault(name, {})
        if index in own:
            raise document.fault(f"line {number}", f"is {name}#{index}, a duplicate id")
        own[index] = caption
        places.setdefault(name, f"line {number}")
        rows.setdefault(name, []).append(number)
    if not captions:
        raise document.fault("the file", "has no lines")
    for name, own in captions.items():
        if not any(caption.strip() for caption in own.values()):
            raise document.fault(places[name], f"({name}) has no reference caption")
    return [
        Entry(Path(n).stem, Path(n).stem, n, tuple(c.values()), places[n], where="line {}", rows=tuple(rows[n]))
        for n, c in captions.items()
    ]
