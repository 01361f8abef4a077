"""Tells other people's draft heads by their config.json, and whether one fits a target. Without torch.

Two kinds are run: EAGLE-3 (in the spelling of `speculators`, and in that of the authors, SpecForge and AngelSlim) and
EAGLE-1/2. Anything else that can be told is named in the message that refuses it.

An auxiliary state has a number of our own here: `i` is the state that ENTERS layer i of the target, which is what left
the i layers before it (0 the embeddings, L what leaves the last layer, before the final norm). This is the numbering of
vLLM and speculators, whose default is 2, L // 2, L - 3. SGLang and SpecForge have the same default, but number explicit
ones (`eagle_config`) by the layer that the state leaves, one less. `aux_of` brings both to ours.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastvlm_bench.drafts.manifest import MANIFEST, draft_folder, first_line
from fastvlm_bench.errors import UsageError

CONFIG = "config.json"
KINDS = {
    "eagle3": "an EAGLE-3 head", "eagle": "an EAGLE-1/2 head", "ours": "a draft that `fastvlm-bench train` made",
    "dflash": "a DFlash draft", "dspark": "a DSpark draft", "peagle": "a P-EAGLE head", "mtp": "an MTP head",
    "medusa": "Medusa heads",
}  # fmt: skip
RUN_BY = {
    "eagle3": "run it with eagle3:draft=…", "eagle": "run it with eagle:draft=…",
    "ours": "give it to fastvlm, by --draft", "mtp": "the method mtp reads it from the target's own checkpoint",
    "model": "run it with draft-model:model=…",
}  # fmt: skip
FILES = ("*.json", "*.safetensors", "*.bin")
MROPE = "mrope_section"


@dataclass(frozen=True)
class HeadFormat:
    """What the config.json of a head says.

    layer: its layer's configuration, as transformers names the fields. vocabulary: of the target. draft_vocabulary: how
    many ids it drafts. aux: numbers of the auxiliary states, see above; None for the default. flags: those of `FLAGS`
    that are set. verifier, architectures, family: the target it was trained for, as far as it tells.
    """

    kind: str
    folder: Path
    layer: Mapping[str, Any]
    vocabulary: int
    draft_vocabulary: int
    target_width: int
    aux: tuple[int, ...] | None = None
    flags: frozenset[str] = frozenset()
    verifier: str = ""
    architectures: tuple[str, ...] = ()
    family: str = ""
    rope: Mapping[str, Any] = field(default_factory=dict)

    @property
    def width(self) -> int:
        return int(self.layer["hidden_size"])

    @property
    def sections(self) -> tuple[int, ...]:
        """How many frequencies take the position in time, height and width (M-RoPE); () for plain positions."""
        return tuple(self.rope.get(MROPE) or ())


FLAGS = ("norm_before_residual", "norm_before_fc", "fc_norm", "norm_output")
NEEDED = ("hidden_size", "intermediate_size", "num_attention_heads", "vocab_size")


def head_folder(text: str, offline: bool | None = None) -> Path:
    """Where the option `draft` points: a folder, or a hub repository, which is downloaded unless `offline`.

    offline None: the hub is asked only for what is not in the cache.
    """
    if offline is None:
        try:
            folder = head_folder(text, offline=True)
            if any(folder.glob("*.safetensors")) or any(folder.glob("*.bin")):
                return folder
        except UsageError:
            pass
    folder = draft_folder(text, bool(offline), FILES)
    if not folder.is_dir():
        raise UsageError(f"no draft at {text}: there is no such folder; give a folder with {CONFIG} and weights, or a "
                         "hub id")  # fmt: skip
    return folder


def read_config(folder: Path) -> dict[str, Any]:
    """The config.json of a folder; UsageError if there is none or it cannot be read."""
    path = folder / CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{folder} has no {CONFIG}: it is no draft; give the folder as it was published") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read ({first_line(error)}); download the draft again") from None
    if not isinstance(config, dict):
        raise UsageError(f"{path} is not the configuration of a draft; download the draft again")
    return config


def kind_of(folder: Path) -> str:
    """What a folder holds: a key of `KINDS`, or "model". UsageError where it has no config.json."""
    if (folder / MANIFEST).is_file() and not (folder / CONFIG).is_file():
        return "ours"
    config = read_config(folder)
    named = " ".join([str(config.get("speculators_model_type", "")), *map(str, config.get("architectures") or ())])
    named = named.lower().replace("-", "").replace("_", "")
    for kind in ("peagle", "dspark", "dflash", "medusa", "eagle3"):
        if kind in named or f"{kind}_config" in config:
            return kind
    if "medusa_num_heads" in config:
        return "medusa"
    if "mtp" in named:
        return "mtp"
    if "draft_vocab_size" in config:  # the authors' own name their class LlamaForCausalLM
        return "eagle3"
    if "eagle" in named or (config.get("num_hidden_layers") == 1 and "vision_config" not in config):
        return "eagle"
    return "model"


def read_format(folder: Path, wanted: str) -> HeadFormat:
    """The format of a head of the kind that a method runs, "eagle3" or "eagle". UsageError for anything else."""
    kind = kind_of(folder)
    if kind != wanted:
        what = KINDS.get(kind) or f"a model ({_architectures(read_config(folder))})"
        remedy = RUN_BY.get(kind, f"{wanted} runs {KINDS[wanted]}")
        raise UsageError(f"{folder} is {what}, which {wanted} does not run; {remedy}")
    config = read_config(folder)
    speculators = "speculators_model_type" in config
    layer = dict(config.get("transformer_layer_config") or config)
    if lacking := [key for key in NEEDED if not isinstance(layer.get(key), int)]:
        raise UsageError(f"{folder / CONFIG} says no {', '.join(lacking)}: it does not describe {KINDS[kind]}")
    if any("sliding" in str(each) for each in layer.get("layer_types") or ()):
        raise UsageError(f"{folder} has layers with sliding windows, which are not run in a head; take one without")
    verifier = (config.get("speculators_config") or {}).get("verifier") or {}
    rope = {**(layer.get("rope_scaling") or {}), **(layer.get("rope_parameters") or {})}
    return HeadFormat(
        kind, folder, layer, layer["vocab_size"],
        config.get("draft_vocab_size") or layer["vocab_size"], config.get("target_hidden_size") or layer["hidden_size"],
        aux_of(config), frozenset(flag for flag in FLAGS if config.get(flag)),
        str(verifier.get("name_or_path") or ""), tuple(verifier.get("architectures") or ()),
        "" if speculators else str(config.get("target_model_type") or ""), rope,
    )  # fmt: skip


def aux_of(config: Mapping[str, Any]) -> tuple[int, ...] | None:
    """The numbers of the auxiliary states that a head was trained on, in our numbering; None where it does not say."""
    if ids := config.get("eagle_aux_hidden_state_layer_ids"):
        return tuple(ids)
    if ids := (config.get("eagle_config") or {}).get("eagle_aux_hidden_state_layer_ids"):
        return tuple(i + 1 for i in ids)
    return None


def default_aux(layers: int) -> tuple[int, ...]:
    """The auxiliary states of a head that names none, for a target of so many layers."""
    return (2, layers // 2, layers - 3)


def chosen_aux(head: HeadFormat, layers: int, text: str | None = None) -> tuple[int, ...]:
    """The auxiliary states to read of a target with `layers` layers. text: the option `aux`, "2-16-29".

    UsageError where the target has no such state.
    """
    if text:
        try:
            ids = tuple(int(part) for part in text.split("-"))
        except ValueError:
            raise UsageError(f"option 'aux' is '{text}'; it must be numbers of states joined by '-', as in "
                             f"aux={'-'.join(map(str, default_aux(layers)))}") from None  # fmt: skip
    else:
        ids = head.aux or default_aux(layers)
    if any(not 0 <= i <= layers for i in ids) or len(set(ids)) < len(ids):
        raise UsageError(f"{head.folder} reads the states {', '.join(map(str, ids))} of its target, and this target of "
                         f"{layers} layers has the states 0 .. {layers}, each to be read once; take a head for this "
                         "target, or choose them with aux=")  # fmt: skip
    return ids


def _mapping(value: Any) -> Mapping[str, Any]:
    """The value where it is an object, else an empty one: loading tells what is wrong with the file."""
    return value if isinstance(value, Mapping) else {}


@dataclass(frozen=True)
class TargetFormat:
    """What a head must fit, of a target's configuration. sections: as `HeadFormat.sections`."""

    name: str
    width: int | None
    vocabulary: int | None
    layers: int | None
    sections: tuple[int, ...] = ()
    architectures: tuple[str, ...] = ()
    family: str = ""

    @classmethod
    def of(cls, name: str, config: Mapping[str, Any]) -> "TargetFormat":
        """config: a target's config.json, or the same as a dictionary."""
        text = _mapping(config.get("text_config")) or config
        rope = {**_mapping(text.get("rope_scaling")), **_mapping(text.get("rope_parameters"))}

        def number(key: str) -> int | None:
            return text[key] if isinstance(text.get(key), int) else None

        return cls(name, number("hidden_size"), number("vocab_size"), number("num_hidden_layers"),
                   tuple(rope.get(MROPE) or ()), tuple(config.get("architectures") or ()),
                   str(config.get("model_type") or ""))  # fmt: skip


def check_fits(head: HeadFormat, target: TargetFormat, aux: str | None = None) -> list[str]:
    """UsageError naming everything in which a head does not fit a target. Returns doubts, a sentence each."""
    faults = [
        f"{what} {mine} (head) is not {own} (target)"
        for what, mine, own in (
            ("width", head.width, target.width), ("target width", head.target_width, target.width),
            ("vocabulary", head.vocabulary, target.vocabulary),
        ) if own is not None and mine != own
    ]  # fmt: skip
    made_for = f" (it was made for {head.verifier})" if head.verifier else ""
    if faults:
        raise UsageError(f"{head.folder} does not fit {target.name}: {'; '.join(dict.fromkeys(faults))}; take a head "
                         f"that was trained for this target{made_for}")  # fmt: skip
    if head.kind == "eagle3" and target.layers is not None:
        chosen_aux(head, target.layers, aux)
    if head.sections and not _own_size(head):
        raise UsageError(f"{head.folder / CONFIG}: its {MROPE} {list(head.sections)} does not add up to half the width "
                         "of its attention heads; download the head again, or take another")  # fmt: skip
    if target.sections and not head.sections and not _meant_for(head, target):
        raise UsageError(f"{head.folder} has plain positions (no {MROPE}) and does not say that it was trained for "
                         f"{target.name}, whose positions have three axes: it was trained on text alone; take a head "
                         f"for this target{made_for}")  # fmt: skip
    return _doubts(head, target)


def _own_size(head: HeadFormat) -> bool:
    heads = int(head.layer["num_attention_heads"])
    size = int(head.layer.get("head_dim") or head.width // heads)
    return 2 * sum(head.sections) == int(size * float(head.layer.get("partial_rotary_factor") or 1))


def _meant_for(head: HeadFormat, target: TargetFormat) -> bool:
    return bool(set(head.architectures) & set(target.architectures)) or (
        head.family != "" and head.family == target.family
    )


def _doubts(head: HeadFormat, target: TargetFormat) -> list[str]:
    """Why a head that fits by its numbers may be one for another target, so that its drafts are seldom accepted."""
    if head.architectures and target.architectures and not set(head.architectures) & set(target.architectures):
        return [f"{head.folder} was made for a {head.architectures[0]}, and {target.name} is a "
                f"{target.architectures[0]}: its drafts may seldom stand"]  # fmt: skip
    asked, made = (name.split("@")[0].rstrip("/").rpartition("/")[2].lower() for name in (target.name, head.verifier))
    if made and asked != made and not Path(target.name).is_dir() and target.name != "tiny":
        return [f"{head.folder} was made for {head.verifier}, not for {target.name}: its drafts may seldom stand"]
    return []


def _architectures(config: Mapping[str, Any]) -> str:
    return ", ".join(config.get("architectures") or [config.get("model_type") or "of an unknown class"])


def in_words(ids: Sequence[int]) -> str:
    """Numbers of states, as the option `aux` takes them."""
    return "-".join(map(str, ids))
