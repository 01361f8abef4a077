"""Whether a head or an mtp layer fits a target, by the files of both, before anything is loaded. Without torch."""

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastvlm_bench.drafts.formats import CONFIG, TargetFormat, check_fits, head_folder, read_format
from fastvlm_bench.errors import UsageError
from fastvlm_bench.models.names import local_folder, split_revision

HEADS = ("eagle3", "eagle")
"""The methods whose option `draft` is a head of somebody else's."""
MTP = "mtp"
MTP_PREFIX = "mtp."


def check_before_loading(method: str, options: Mapping[str, Any], model: str, offline: bool = False) -> list[str]:
    """UsageError where a method's head does not fit the model, as far as their files tell. Returns doubts.

    method: its name. A head that is not there is downloaded, unless `offline`; of the model only what is here is read.
    """
    if method in HEADS:
        folder = head_folder(str(options["draft"]), offline)
        head = read_format(folder, method)
        config = target_config(model)
        if config is None:
            return []
        return check_fits(head, TargetFormat.of(model, config), options.get("aux"))
    if method == MTP and (folder_of := checkpoint_here(model)) is not None:
        names = weight_names(folder_of)
        if names is not None:
            check_mtp([name.removeprefix(MTP_PREFIX) for name in names if name.startswith(MTP_PREFIX)], model)
    return []


def checkpoint_here(name: str) -> Path | None:
    """The folder of a model's files on this machine: its own, or that in the hub's cache. None if there is none."""
    if (folder := local_folder(name)) is not None:
        return folder
    from huggingface_hub import try_to_load_from_cache

    hub_id, revision = split_revision(name)
    found = try_to_load_from_cache(hub_id, CONFIG, revision=revision)
    return Path(found).parent if isinstance(found, str) else None


def target_config(name: str) -> dict[str, Any] | None:
    """A model's config.json; None where it is not on this machine, or cannot be read, as loading will say."""
    folder = checkpoint_here(name)
    try:
        found = json.loads((folder / CONFIG).read_text(encoding="utf-8")) if folder is not None else None
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def weight_names(folder: Path) -> set[str] | None:
    """The names of a checkpoint's weights in safetensors; None where they cannot be told without loading it."""
    index, single = folder / "model.safetensors.index.json", folder / "model.safetensors"
    try:
        if index.is_file():
            return set(json.loads(index.read_text(encoding="utf-8"))["weight_map"])
        with single.open("rb") as file:  # eight bytes that give the length of the header, and the header
            (length,) = struct.unpack("<Q", file.read(8))
            return set(json.loads(file.read(min(length, 1 << 27)))) - {"__metadata__"}
    except (OSError, ValueError, KeyError, TypeError, struct.error):
        return None


def check_mtp(names: list[str], target: str) -> None:
    """UsageError unless these are the weights of one mtp layer. names: without the prefix."""
    if not names:
        raise UsageError(f"the checkpoint of {target} has no mtp.* weights, which the method mtp needs: checkpoints of "
                         "the Qwen3.5 family have them; use another method")  # fmt: skip
    layers = {name.split(".")[1] for name in names if name.startswith("layers.")}
    if len(layers) > 1:
        raise UsageError(f"the checkpoint of {target} has {len(layers)} mtp layers, and the method mtp runs one; use "
                         "another method")  # fmt: skip
