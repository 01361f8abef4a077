"""Writes what `tune` found into the draft's manifest, where that may be written."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastvlm_bench.drafts.manifest import MANIFEST, read_manifests
from fastvlm_bench.models.names import EMBEDDED
from fastvlm_bench.records.storage import write_atomically


def written(
    drafts: Path | None, name: str | None, advice: Mapping[str, float], tuned: Mapping[str, Any]
) -> tuple[Path | None, str]:
    """(the manifest that now has the advice, "") or (None, why it was not written).

    The drafts that come with the package are not changed, nor is the cache of the hub, whose files other programs
    check.
    """
    if drafts is None or name is None:
        return None, "only drafts of fastvlm have advice, and the fastest is without one"
    folder = next(found for found in read_manifests(drafts) if found.resolve().name == name)
    path = folder / MANIFEST
    if folder.resolve().is_relative_to(EMBEDDED.resolve()):
        return None, "it comes with the package; copy it and name the copy by --draft to have it changed"
    if path.is_symlink():
        return None, "it lies in the cache of the hub; copy it and name the copy by --draft to have it changed"
    if not os.access(path, os.W_OK) or not os.access(folder, os.W_OK):
        return None, f"{folder} may not be written"
    document = json.loads(path.read_text(encoding="utf-8"))
    document |= {"advice": dict(advice), "tuned": dict(tuned)}
    write_atomically(path, (json.dumps(document, indent=2) + "\n").encode())
    return path, ""
