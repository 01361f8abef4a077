"""Keeps the document frequencies of a whole suite beside a run with `--limit`, whose CIDEr-D then uses them.

`document_frequencies.json` in a run folder is {suite: {group: {images, counts}}}; group "" is all images. It lists only
n-grams of the run's own texts and references, because no others are scored, and only those that more than one image
uses, because CIDEr-D takes an n-gram that is not listed for one of a single image.
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
"""Key that `attach` adds to a suite's entry: group -> `DocumentFrequencies`. It is there only after `--limit`."""
Documents = Sequence[tuple[str, Sequence[str]]]
"""(group, reference captions) of each image."""


def write(folder: Path, documents: Mapping[str, Documents], texts: Mapping[str, Iterable[str]]) -> None:
    """Count the n-grams of each suite's images and write them into the run folder.

    documents: by suite, all its images, with or without `--limit`. texts: by suite, the run's outputs and their
    references, whose n-grams are kept. WriteFailed if the file cannot be written.
    """
    content: dict[str, Any] = {}
    for name, images in documents.items():
        own = set(texts[name])
        groups = {"", *(group for group, _ in images)}
        for group in sorted(groups):
            lists = [references for other, references in images if group in ("", other)]
            found = document_frequencies(lists, own)
            content.setdefault(name, {})[group] = {"images": found.images, "counts": dict(sorted(found.counts.items()))}
    save(folder, content)


def save(folder: Path, content: Mapping[str, Any]) -> None:
    """Write the file into a run folder. counts must be sorted. WriteFailed."""
    write_atomically(folder / FILE, json.dumps(content).encode("ascii") + b"\n")


def cider_df(suite: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """What CIDEr-D counts its document frequencies in, for a run that was read: "full" suite or measured "subset"."""
    measured = len(suite["samples"])
    whole = suite.get("document_images")  # records from before version 0.2 lack it
    limited = config.get("limit") == measured if whole is None else whole > measured
    return "subset" if limited and FREQUENCIES not in suite else "full"


def attach(folder: Path, suites: Sequence[dict[str, Any]]) -> None:
    """Add the document frequencies that lie in the run folder, if any, to the suites' entries in place.

    CorruptRecord if the file is damaged.
    """
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
