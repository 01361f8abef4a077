"""Draft folders and their manifests: what a draft is, and which one a user means. Without torch."""

import hashlib
import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from fastvlm_bench.errors import CorruptRecord, UsageError

MANIFEST = "manifest.json"
OPEN = ("checksum", "default", "advice", "tuned")
"""Fields that users and `tune` set after the draft was saved: its checksum leaves them out."""
HEAD_LAYERS = {"linear": 0, "mlp": 0, "gated-mlp": 0, "attention": 1, "twig": 2, "eagle": 1, "block": 1}
"""Imitation head -> how many layers of the target's kind it has unless its options say otherwise."""
AT_THE_END = {"medusa": 5}
"""Kinds that follow the target's last layer, and so belong to no exit -> how many places ahead they draft by default.

The exit layer in their manifest is the number of the target's layers.
"""
KINDS = (*HEAD_LAYERS, *AT_THE_END)
"""Every kind of head that can be trained."""


def decoded_by(head: str) -> str:
    """The method that decodes with heads of this kind."""
    return head if head in AT_THE_END else "fastvlm"


@dataclass(frozen=True)
class Manifest:
    """What a draft is and what it was made for.

    exit_layer: after which of the target's layers the head stands; after the last one for the kinds of `AT_THE_END`.
    head_options: the head's own, such as its depth. draft_vocabulary: how many token ids it may draft, 0 for all.
    validation: α by suite, measured on held-out samples when it was trained. advice: the γ and stop_below with the
    best predicted speed-up on the machine that trained it, and that prediction; `tune` replaces them by what it
    measured, and `tuned` says on what. `run` takes γ and stop_below from it where the user did not type them. checksum:
    of the weights' file and of the fields that are not `OPEN`; "" in drafts of older versions.
    """

    exit_layer: int
    head: str
    target_architecture: str
    target_layers: int
    target_width: int
    target_vocabulary: int
    target_weights_sha256: str
    head_parameters: int
    losses: dict[str, float] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    validation: dict[str, float] = field(default_factory=dict)
    default: bool = False
    head_options: dict[str, int] = field(default_factory=dict)
    draft_vocabulary: int = 0
    advice: dict[str, float] = field(default_factory=dict)
    tuned: dict[str, Any] = field(default_factory=dict)
    format_version: int = 1
    checksum: str = ""

    @property
    def at_the_end(self) -> bool:
        """Whether it drafts from the target's last states, so that there is no exit."""
        return self.head in AT_THE_END

    @property
    def place(self) -> str:
        """Where it stands, in words."""
        return "at the end" if self.at_the_end else f"exit {self.exit_layer}"


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a draft folder; UsageError if there is none or it cannot be read."""
    path = folder / MANIFEST
    if not path.is_file():
        raise UsageError(f"no draft at {folder}: {MANIFEST} is missing; give a folder that training wrote")
    try:
        manifest = Manifest(**json.loads(path.read_text(encoding="utf-8")))
        _check_types(manifest)
    except (OSError, ValueError, TypeError) as error:
        raise UsageError(f"{path}: not a draft's manifest ({first_line(error)}); train the draft again") from None
    layers = manifest.target_layers
    if manifest.at_the_end and manifest.exit_layer != layers:
        raise UsageError(f"{path}: {manifest.head} heads follow the last of {layers} layers, and its exit layer is "
                         f"{manifest.exit_layer}; train the draft again")  # fmt: skip
    if not manifest.at_the_end and not 1 <= manifest.exit_layer < layers:
        raise UsageError(f"{path}: exit layer {manifest.exit_layer} is not within 1 .. {layers - 1}")
    return manifest


def _check_types(manifest: Manifest) -> None:
    """TypeError for a field whose value, or the values in it, are not of its type."""
    for name, kind in get_type_hints(Manifest).items():
        value = getattr(manifest, name)
        of_values = get_args(kind)[1:]
        if not _is(value, get_origin(kind) or kind) or not all(_is(v, k) for k in of_values for v in value.values()):
            raise TypeError(f"{name} is {str(value)[:40]!r}")


def _is(value: Any, kind: Any) -> bool:
    if kind is Any:
        return True
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, (int, float) if kind is float else kind)


def checksum(fields: Mapping[str, Any], weights: bytes) -> str:
    """SHA-256 of a manifest's fields but those of `OPEN`, and of the bytes of the weights' file."""
    own = {name: value for name, value in fields.items() if name not in OPEN}
    text = json.dumps(own, sort_keys=True, separators=(",", ":")).encode()
    return hashlib.sha256(text + b"\n" + hashlib.sha256(weights).hexdigest().encode()).hexdigest()


def check_unaltered(folder: Path, weights: str) -> None:
    """CorruptRecord where a draft's manifest or its weights' file is not as it was saved. Nothing for older drafts."""
    fields = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    told = fields.get("checksum")
    if told and told != checksum(fields, (folder / weights).read_bytes()):
        raise CorruptRecord(f"{folder}: {MANIFEST} and {weights} were altered after the draft was saved: they do not "
                            "fit its checksum; restore them from a copy, or train the draft again")  # fmt: skip


def read_manifests(root: Path) -> dict[Path, Manifest]:
    """Draft folder -> manifest, for `root` itself or else the folders in it. UsageError if there is none."""
    if (root / MANIFEST).is_file() or not root.is_dir():
        return {root: read_manifest(root)}
    return {path.parent: read_manifest(path.parent) for path in sorted(root.glob(f"*/{MANIFEST}"))} or {
        root: read_manifest(root)
    }


OTHER_WEIGHTS = "*.bin"
DRAFT_FILES = ("*.json", "*.safetensors", "README.md")


def draft_folder(text: str, offline: bool = False, files: Sequence[str] = DRAFT_FILES) -> Path:
    """Where --draft points: a folder, or a hub repository ("user/name").

    The repository is downloaded if it is not cached; if `offline`, the cache must have it. files: patterns of what is
    downloaded. Weights in another form than safetensors are left out where the repository has both.
    """
    folder = Path(text).expanduser()
    if folder.exists() or not re.fullmatch(r"[\w.-]+/[\w.-]+", text) or text.startswith("."):
        return folder
    from huggingface_hub import is_offline_mode, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        first = [pattern for pattern in files if pattern != OTHER_WEIGHTS]
        found = Path(snapshot_download(text, allow_patterns=first, local_files_only=offline))
        if OTHER_WEIGHTS in files and not any(found.glob("*.safetensors")):
            found = Path(snapshot_download(text, allow_patterns=list(files), local_files_only=offline))
        return found
    except RepositoryNotFoundError:
        raise UsageError(f"no draft at {text}: there is no such folder, and the hub has no such repository; train one, "
                         "or log in with `hf auth login`") from None  # fmt: skip
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        if offline or is_offline_mode():
            by = "--offline" if offline else "HF_HUB_OFFLINE"
            raise UsageError(f"no draft at {text}: there is no such folder, it is not in the cache, and {by} forbids "
                             "asking the hub; leave that out, or give a folder") from None  # fmt: skip
        raise UsageError(f"no draft at {text}: there is no such folder, and the hub cannot be asked "
                         f"({first_line(error)})") from None  # fmt: skip


def choose_draft(
    root: Path | None, *, head: str | None, exit_layer: int | None, model: str, draft: str | None = None,
    kinds: Collection[str] = tuple(HEAD_LAYERS), tell: Callable[[str], None] | None = None,
) -> Path:  # fmt: skip
    """The draft folder with the wanted head and exit layer; UsageError, which lists what is there, if there is none.

    Of several that fit, the default draft is taken, else the one with the highest predicted speed-up: as training has
    predicted it from measured costs, where all say that. tell: is told if several call themselves the default. root: a
    draft folder, or a folder of draft folders. draft: the name of one of those. model: what the user typed, for
    messages. kinds: the heads that the method takes; drafts of other kinds are passed over.
    """
    if root is None:
        raise UsageError(f"model '{model}' comes without a draft: give one with --draft FOLDER")
    found = read_manifests(root)
    there = "; ".join(f"draft={f.name} (head={m.head},{_place(m)})" for f, m in found.items())
    layers = next(iter(found.values())).target_layers
    if exit_layer is not None and not 1 <= exit_layer < layers:
        raise UsageError(f"exit_layer={exit_layer} is not within 1 .. {layers - 1} of model '{model}'")
    fitting = {
        f: m for f, m in found.items()
        if m.head in kinds and head in (None, m.head) and exit_layer in (None, m.exit_layer)
        and draft in (None, f.name)
    }  # fmt: skip
    if not fitting:
        other = next((m.head for f, m in found.items() if m.head not in kinds and draft in (None, f.name)), None)
        if other is not None and head is None and exit_layer is None:
            one = f"draft '{draft}' has {other} heads" if draft else f"no draft under {root} has such a head"
            train = f"train one by fastvlm-bench train --head {next(iter(kinds))}, and name its folder by --draft"
            remedy = f"decode it by {decoded_by(other)}:draft={draft}" if draft else train
            raise UsageError(f"{one}, and this method takes {', '.join(kinds)}; there is {there}; {remedy}")
        wishes = (("draft", draft), ("head", head), ("exit_layer", exit_layer))
        wish = ",".join(f"{k}={v}" for k, v in wishes if v is not None)
        raise UsageError(f"no draft with {wish} under {root}; there is {there}")
    advised = {f: m.advice.get("speedup") for f, m in fitting.items()}
    promise = {f: predicted_speedup(m) if None in advised.values() else advised[f] or 0.0 for f, m in fitting.items()}
    chosen = max(fitting, key=lambda f: (fitting[f].default, promise[f]))
    others = [f.name for f, m in fitting.items() if m.default and f != chosen]
    if tell is not None and fitting[chosen].default and others:
        tell(f"{', '.join([chosen.name, *others])} under {root} all call themselves the default draft; "
             f"{chosen.name} is taken, of which most is predicted; name one by draft=")  # fmt: skip
    return chosen


def predicted_speedup(draft: Manifest, gamma: int = 6) -> float:
    """The speed-up that the validation α promises: E(α, γ) / (γ·c + 1), arXiv 2211.17192, theorem 3.8.

    E = (1 - α^(γ+1)) / (1 - α); c = (exit layer + the head's layers) / the target's layers. Heads at the end have no
    layers to run, and draft as many places ahead as there are heads. Nothing is timed for it, so it only serves to rank
    drafts.
    """
    alpha = sum(draft.validation.values()) / len(draft.validation) if draft.validation else 0.0
    if draft.at_the_end:
        return float(sum(alpha**i for i in range(draft.head_options.get("heads", AT_THE_END[draft.head]) + 1)))
    cost = (draft.exit_layer + draft.head_options.get("depth", HEAD_LAYERS.get(draft.head, 0))) / draft.target_layers
    expected = sum(alpha**i for i in range(gamma + 1))
    return expected / (gamma * cost + 1)


def _place(draft: Manifest) -> str:
    return "at the end" if draft.at_the_end else f"exit_layer={draft.exit_layer}"


def first_line(error: BaseException) -> str:
    """An error's first line, for a one-line message."""
    lines = str(error).strip().splitlines()
    return lines[0][:160] if lines else type(error).__name__
