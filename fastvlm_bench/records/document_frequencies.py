"""The document frequencies of a whole suite beside a run of part of it: what makes its CIDEr-D that of the suite.

`document_frequencies.json` in a run folder is {suite: {group: {images, counts}}}, group "" being all. It holds only the
n-grams of the run's own texts and references, and of these only those of more than one image: no other weighs.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fastvlm_bench.errors import CorruptRecord
from fastvlm_bench.metrics.cider_d import DocumentFrequencies, document_frequencies
from fastvlm_bench.records.storage import write_atomically

FILE = "document_frequencies.json"
FREQUENCIES = "document_frequencies"
"""Key of a suite in a run that was read: group -> `DocumentFrequencies`, where `--limit` left samples out."""
Documents = Sequence[tuple[str, Sequence[str]]]
"""(group, reference captions) of each image."""


def write(folder: Path, documents: Mapping[str, Documents], texts: Mapping[str, Iterable[str]]) -> None:
    """Count and keep, by suite. texts: what a suite's run has written and is compared with."""
    content: dict[str, Any] = {}
    for name, images in documents.items():
        own = set(texts[name])
        groups = {"", *(group for group, _ in images)}
        for group in sorted(groups):
            lists = [references for other, references in images if group in ("", other)]
            found = document_frequencies(lists, own)
            content.setdefault(name, {})[group] = {"images": found.images, "counts": dict(sorted(found.counts.items()))}
    write_atomically(folder / FILE, json.dumps(content).encode("ascii") + b"\n")


def cider_df(suite: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """Of what CIDEr-D takes its document frequencies in a run that was read: "full" or "subset" of the suite."""
    measured = len(suite["samples"])
    whole = suite.get("document_images")  # records of before 0.2 have it not
    limited = config.get("limit") == measured if whole is None else whole > measured
    return "subset" if limited and FREQUENCIES not in suite else "full"


def attach(folder: Path, suites: Sequence[dict[str, Any]]) -> None:
    """Give each suite of a run that was read its document frequencies, where the folder has them."""
    path = folder / FILE
    if not path.is_file():
        return
    try:
        content = json.loads(path.read_bytes())
        for suite in suites:
            if suite["name"] in content:
                suite[FREQUENCIES] = {
                    group: DocumentFrequencies(int(found["images"]), dict(found["counts"]))
                    for group, found in content[suite["name"]].items()
                }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptRecord(f"{path} is damaged ({error}); restore it from a copy, or remove it: CIDEr-D then takes "
                            "its document frequencies from the images measured") from None  # fmt: skip
