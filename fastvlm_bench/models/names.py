"""What can be told about a model's name without loading anything. Without torch."""

import json
import os
from pathlib import Path

from fastvlm_bench.errors import UsageError

EMBEDDED = Path(__file__).parents[1] / "embedded"
TINY, TINY_DRAFTS = EMBEDDED / "checkpoint", EMBEDDED / "drafts"


def check_model_name(name: str) -> None:
    """UsageError for what is neither `tiny`, nor a checkpoint folder, nor shaped like a hub id."""
    if name == "tiny":
        if not (TINY / "config.json").is_file():
            raise UsageError(f"the embedded model is missing at {TINY}; run python -m fastvlm_bench.embedded.train")
    elif os.path.isdir(name):
        if not (Path(name) / "config.json").is_file():
            raise UsageError(f"model folder {name} has no config.json; give a folder written by save_pretrained")
    elif name.startswith((".", "/", "~")) or (hub_id := split_revision(name)[0]).count("/") != 1 or "@" in hub_id:
        raise UsageError(
            f"unknown model '{name}': use 'tiny', a hub id such as llava-hf/llava-1.5-7b-hf, ID@REVISION, or a folder"
        )


def split_revision(name: str) -> tuple[str, str | None]:
    """Split ID@REVISION into ("ID", "REVISION"); the revision is None where the name has none.

    A revision is a branch, a tag or a commit of the hub. A folder has none, even with an @ in its name.
    """
    if "@" not in name or os.path.isdir(name):
        return name, None
    hub_id, _, revision = name.rpartition("@")
    return hub_id, revision or None


def layer_count(name: str) -> int | None:
    """The number of decoder layers in a folder's config.json; None for a hub id, or where the file does not tell."""
    folder = TINY if name == "tiny" else Path(name)
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    count = config.get("text_config", config).get("num_hidden_layers")
    return count if isinstance(count, int) else None


def default_drafts(name: str) -> Path | None:
    """The folder of the drafts that come with a model; None if it comes with none."""
    return TINY_DRAFTS if name == "tiny" else None
