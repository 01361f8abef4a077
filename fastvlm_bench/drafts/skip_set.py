"""Sets of sub-layers that a target skips while it drafts for itself, and the folders that `skip-search` writes.

Without torch, but for the comparison with a loaded model.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastvlm_bench.drafts.manifest import first_line
from fastvlm_bench.errors import UsageError
from fastvlm_bench.models.names import as_recorded

SKIP = "skip.json"
SEARCH_COMMAND = "fastvlm-bench skip-search"


@dataclass(frozen=True)
class SkipSet:
    """Indices of the decoder layers whose attention is skipped, and of those whose MLP is; in both: the whole layer."""

    attention: frozenset[int] = frozenset()
    mlp: frozenset[int] = frozenset()

    @property
    def whole(self) -> frozenset[int]:
        """The layers of which nothing runs."""
        return self.attention & self.mlp

    def __len__(self) -> int:
        """How many sub-layers are skipped."""
        return len(self.attention) + len(self.mlp)

    @classmethod
    def of_layers(cls, indices: Iterable[int]) -> "SkipSet":
        """The set that skips these layers as a whole."""
        return cls(frozenset(indices), frozenset(indices))

    @classmethod
    def union(cls, parts: Iterable["SkipSet"]) -> "SkipSet":
        attention, mlp = set[int](), set[int]()
        for part in parts:
            attention |= part.attention
            mlp |= part.mlp
        return cls(frozenset(attention), frozenset(mlp))


@dataclass(frozen=True)
class SkipManifest:
    """What a search found, and for which target.

    attention, mlp: indices of layers, as in `SkipSet`. search: its settings. validation: α by suite, of real decoding
    on samples that the search did not use. advice: the γ and stop_below with the best predicted speed-up on the machine
    that searched, and that prediction.
    """

    attention: list[int]
    mlp: list[int]
    target_architecture: str
    target_layers: int
    target_width: int
    target_vocabulary: int
    target_weights_sha256: str
    search: dict[str, Any] = field(default_factory=dict)
    validation: dict[str, float] = field(default_factory=dict)
    advice: dict[str, float] = field(default_factory=dict)
    format_version: int = 1

    @property
    def skips(self) -> SkipSet:
        return SkipSet(frozenset(self.attention), frozenset(self.mlp))


def read_skip_manifest(folder: Path) -> SkipManifest:
    """The skip set in `folder`. UsageError if there is none, or it cannot be read, or skips the first or last layer."""
    path = folder / SKIP
    if not path.is_file():
        raise UsageError(f"no skip set at {folder}: {SKIP} is missing; make one with {SEARCH_COMMAND} --out {folder}")
    try:
        told = SkipManifest(**json.loads(path.read_text(encoding="utf-8")))
        wrong = [i for i in [*told.attention, *told.mlp] if not 1 <= int(i) < int(told.target_layers) - 1]
    except (OSError, ValueError, TypeError) as error:
        raise UsageError(f"{path}: not a skip set ({first_line(error)}); search again: {SEARCH_COMMAND}") from None
    if wrong:
        raise UsageError(f"{path}: layer {wrong[0]} may not be skipped; of {told.target_layers} layers it must be one "
                         f"of 1 .. {told.target_layers - 2}")  # fmt: skip
    return told


def choose_skip_set(root: Path | None, *, model: str, draft: str | None = None, layers: int | None = None) -> Path:
    """The folder of the skip set to draft with; UsageError where there is none.

    draft: what the user gave: a folder, or the name of one below `root`. Without it, `root` itself if it is a skip set,
    else the first folder in it whose name begins with "skip". root: the model's drafts, or None. layers: the model's,
    where they are known; a set for another number is refused.
    """
    if draft is not None:
        below = root / draft if root is not None else Path(draft)
        folder = below if (below / SKIP).is_file() and not Path(draft).is_dir() else Path(draft).expanduser()
    else:
        there = [] if root is None else [root, *sorted(root.glob("skip*"))]
        found = [folder for folder in there if (folder / SKIP).is_file()]
        if not found:
            raise UsageError(
                f"model '{model}' comes without a skip set: make one with {SEARCH_COMMAND} --model {model} "
                "--suite NAME --out FOLDER, and give it as draft-verify:draft=FOLDER"
            )
        folder = found[0]
    told = read_skip_manifest(folder)
    if layers is not None and told.target_layers != layers:
        raise UsageError(f"skip set {folder} was made for another model: it is for {told.target_layers} layers, "
                         f"model '{model}' has {layers}; search one for this model: {SEARCH_COMMAND}")  # fmt: skip
    return folder


def load_skip_set(folder: Path, model: Any) -> SkipManifest:
    """The skip set in `folder`, for the loaded `model`; UsageError naming every field in which it is of another."""
    from fastvlm_bench.drafts.imitation_head import describe_target

    told = read_skip_manifest(folder)
    differing = [
        f"{key.removeprefix('target_')} {str(getattr(told, key))[:40]} (set) is not {str(value)[:40]} (model)"
        for key, value in describe_target(model).items()
        if getattr(told, key) != value
    ]
    if differing:
        raise UsageError(f"skip set {folder} was made for another model: {'; '.join(differing)}; "
                         f"search one for this model: {SEARCH_COMMAND}")  # fmt: skip
    return told


def named(folder: Path, told: SkipManifest) -> Mapping[str, Any]:
    """The entry of run.json: the folder's name, its hash, and what it skips."""
    return {
        "name": folder.resolve().name, "source": as_recorded(folder),
        "sha256": hashlib.sha256((folder / SKIP).read_bytes()).hexdigest(),
        "attention": sorted(told.attention), "mlp": sorted(told.mlp), "validation": told.validation,
    }  # fmt: skip
