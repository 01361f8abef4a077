"""The options of `train`. Every error that can be found without loading a model is reported here. No torch."""

import hashlib
import json
import math
import os
import re
from dataclasses import dataclass, fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fastvlm_bench.config import LOADING
from fastvlm_bench.errors import UsageError
from fastvlm_bench.models.names import OWN, check_model_name, layer_count, long_dtype
from fastvlm_bench.option_checks import check_loading, check_writable, whole
from fastvlm_bench.suites.definition import read_definition
from fastvlm_bench.training.recipe import Recipe, at_the_end

AUTO = "auto"
DEFAULT_TOKENS = 128
"""The token limit of a text that belongs to no suite."""
BACKBONES = ("lora", "full")
ELSEWHERE = ("out", "push", "device", "device_map", "trust_remote_code", "offline", "threads", "micro", "restart")
"""Fields that do not change what a training learns: a stopped training may go on with other values of these."""


@dataclass(frozen=True)
class TrainSettings:
    """The options of `train`. exit_layers: numbers, or "auto". heads: recipes as typed, see `Recipe.parse`.

    Where the samples come from: suites with data and split, or images with prompts, or, for the embedded model without
    data, suites on rendered scenes. samples: how many to train on at most; held_out: how many more to validate on.
    on_policy, references: whether to learn on the target's own answers, on reference texts, or on both.
    updates, refine_updates: optimiser steps before the refinement stage and in it. batch: texts of an update; micro:
    how many of them pass the target together. validate_every: updates between two validations; patience: after how
    many validations without a better predicted speed-up training stops, 0 for never. draft_vocabulary: how many token
    ids may be drafted, 0 for all. out, push: the folder and the hub repository that get the drafts. device, dtype,
    device_map, attn, quantize, trust_remote_code, offline: as in `load_target`.
    """

    out: str
    model: str = "tiny"
    suites: tuple[str, ...] = ()
    data: str | None = None
    split: str | None = None
    prompt_set: str | None = None
    prompt: str | None = None
    images: str | None = None
    prompts: str | None = None
    exit_layers: tuple[str, ...] = (AUTO,)
    heads: tuple[str, ...] = ("attention",)
    loss: str | None = None
    on_policy: bool = True
    references: bool = False
    samples: int = 1200
    held_out: int = 48
    max_new_tokens: int | None = None
    updates: int = 400
    refine_updates: int = 100
    batch: int = 16
    micro: int = 16
    lr: float = 1e-2
    validate_every: int = 50
    patience: int = 0
    draft_vocabulary: int = 0
    finetune_backbone: str | None = None
    backbone_updates: int = 400
    backbone_lr: float = 3e-4
    exit_weight: float = 0.3
    seed: int = 0
    device: str = "auto"
    dtype: str = "auto"
    device_map: str | None = None
    attn: str | None = None
    quantize: str | None = None
    trust_remote_code: bool = False
    offline: bool = False
    threads: int | None = None
    push: str | None = None
    restart: bool = False

    def __post_init__(self) -> None:
        for name in ("suites", "heads", "exit_layers"):
            given = getattr(self, name)
            object.__setattr__(self, name, (given,) if isinstance(given, str) else tuple(str(item) for item in given))
        object.__setattr__(self, "dtype", long_dtype(self.dtype))
        for name, low in (("samples", 1), ("held_out", 1), ("updates", 1), ("batch", 1), ("micro", 1),
                          ("validate_every", 1), ("refine_updates", 0), ("patience", 0), ("draft_vocabulary", 0),
                          ("backbone_updates", 1), ("seed", 0)):  # fmt: skip
            value = getattr(self, name)
            if not isinstance(value, int) or value < low:
                raise UsageError(f"--{name.replace('_', '-')} is {value}; it must be a whole number of at least {low}")
        for name in ("lr", "backbone_lr", "exit_weight"):
            value = getattr(self, name)
            if not (math.isfinite(value) and 0 < value <= 1):
                raise UsageError(f"--{name.replace('_', '-')} is {value}; it must be above 0 and at most 1")
        if self.max_new_tokens is not None and self.max_new_tokens < 2:
            raise UsageError(
                f"--max-new-tokens is {self.max_new_tokens}; it must be at least 2: the first is not drafted"
            )
        check_loading(device=self.device, dtype=self.dtype, device_map=self.device_map, attn=self.attn,
                      quantize=self.quantize)  # fmt: skip
        if self.finetune_backbone not in (None, *BACKBONES):
            raise UsageError(
                f"--finetune-backbone is '{self.finetune_backbone}'; it must be one of {', '.join(BACKBONES)}"
            )
        if self.finetune_backbone and self.quantize:
            raise UsageError(f"--finetune-backbone {self.finetune_backbone} trains float32 weights, and --quantize "
                             f"{self.quantize} packs them; leave one of the two out")  # fmt: skip
        if self.finetune_backbone and not any(t.isdecimal() for t in self.exit_layers):
            raise UsageError("--finetune-backbone needs to know the exits that it trains: give --exit-layer, as 1,2")
        whole("threads", self.threads, 1, os.cpu_count() or 1)
        if self.push and not re.fullmatch(r"[\w.-]+/[\w.-]+", self.push):
            raise UsageError(f"--push is '{self.push}'; it must be a hub repository, as USER/NAME")
        if self.push and self.offline:
            raise UsageError("--push uploads to the hub, and --offline never asks it; leave one of the two out")
        if not self.on_policy and not self.references:
            raise UsageError("no text to learn on: leave --on-policy, or add --references")
        if bool(self.images) != bool(self.prompts):
            raise UsageError(
                "--images and --prompts go together: a folder of images and a text file, one prompt a line"
            )
        if self.images and (self.suites or self.references):
            raise UsageError("--images takes the place of --suite, and has no --references; leave the others out")
        unread = [n for n in ("split", "prompt_set", "prompt") if getattr(self, n) is not None and not self.data]
        if self.images and self.data:
            unread.append("data")
        if unread:
            given = f"--{unread[0].replace('_', '-')}"
            why = "images and prompts are --images' own" if self.images else "scenes are rendered, without --data"
            raise UsageError(f"{given} has no effect here, where {why}; leave it out")
        if not self.images and not self.suites:
            raise UsageError("nothing to train on: give --suite NAME (describe for a first try; with --data DIR for "
                             "real data), or --images DIR with --prompts FILE")  # fmt: skip
        if len(set(self.suites)) != len(self.suites):
            raise UsageError(f"suites are {', '.join(self.suites)}; name each once")
        if self.ends and self.exit_layers != (AUTO,) and not self.finetune_backbone:
            given = f"--exit-layer {','.join(self.exit_layers)} has no effect on --head {self.heads[0]}"
            raise UsageError(f"{given}, whose heads read the target's last state; leave it out, or add a head that has "
                             "an exit, as --head attention")  # fmt: skip
        # Here, so that a wrong recipe is refused at once.
        own = [recipe.name for recipe in self.recipes(1 if self.automatic else None) if
               recipe.head_options.get("own_output")]  # fmt: skip
        if own and self.draft_vocabulary:
            raise UsageError(f"--draft-vocabulary reduces the target's LM head, and '{own[0]}' has LM heads of its "
                             "own; leave one of the two out")  # fmt: skip

    @property
    def loading(self) -> dict[str, Any]:
        """The options of `load_target`."""
        return {name: getattr(self, name) for name in LOADING}

    @property
    def automatic(self) -> bool:
        """Whether training is to choose the exit layer itself."""
        return AUTO in self.exit_layers and not self.ends

    @property
    def ends(self) -> bool:
        """Whether all heads stand at the end, so that no exit layer is needed."""
        return all(at_the_end(text) for text in self.heads)

    def places(self) -> list[int]:
        """The exit layers given as numbers; none for auto. UsageError for what is neither."""
        if AUTO in self.exit_layers and len(self.exit_layers) > 1:
            raise UsageError(f"--exit-layer is {', '.join(self.exit_layers)}; give numbers, or auto alone")
        if not any(self.exit_layers):
            raise UsageError("--exit-layer is empty; it must be whole numbers of at least 1, as 4,8, or auto")
        return whole_numbers("--exit-layer", ",".join(t for t in self.exit_layers if t != AUTO), or_auto=True)

    def recipes(self, chosen: int | None = None) -> list[Recipe]:
        """One recipe for each head and exit layer. UsageError where two have the same name.

        chosen: the exit layer that takes the place of auto.
        """
        places: list[int | None] = [chosen] if self.automatic else list(self.places())
        found: dict[str, Recipe] = {}
        for text in self.heads:
            own = [None] if "exit_layer=" in text or at_the_end(text) else places
            for place in own:
                recipe = Recipe.parse(text, exit_layer=place, losses=self.loss)
                if recipe.name in found:
                    raise UsageError(f"two recipes are named '{recipe.name}'; give one of them name=…")
                found[recipe.name] = recipe
        return list(found.values())

    def validate(self) -> "TrainSettings":
        """Check model, suites, exit layers and the output folder; UsageError if one is wrong. Returns itself."""
        check_model_name(self.model)
        if not self.data and not self.images and self.model not in OWN:
            raise UsageError(f"model '{self.model}' needs real data: --data DIR with the suite's official files, or "
                             "--images DIR with --prompts FILE (scenes are rendered for tiny and smol)")  # fmt: skip
        for name in self.suites:
            read_definition(name)
        self.places()
        layers = layer_count(self.model)
        for recipe in self.recipes(1 if self.automatic else None):
            depth = recipe.depth
            if recipe.at_the_end:
                continue
            if layers is not None and recipe.exit_layer + depth > layers:
                raise UsageError(
                    f"exit layer {recipe.exit_layer} and a head of {depth} more are beyond the {layers} layers of "
                    f"'{self.model}'; choose an exit of at most {max(layers - max(depth, 1), 1)}"
                )
            if layers is not None and recipe.exit_layer >= layers:
                raise UsageError(f"exit layer {recipe.exit_layer} is not within 1 .. {layers - 1} of '{self.model}'")
        self._check_backbone()
        check_writable(Path(self.out))
        return self

    def _check_backbone(self) -> None:
        """What phase 1 cannot do, which it would say itself, but only when the target's answers are made."""
        if self.finetune_backbone == "lora":
            check_lora()
        if self.finetune_backbone and self.dtype not in ("auto", "float32"):
            raise UsageError(f"--finetune-backbone trains float32 weights; leave --dtype {self.dtype} out")

    def as_dict(self) -> dict[str, Any]:
        return {f.name: list(v) if isinstance(v := getattr(self, f.name), tuple) else v for f in fields(self)}

    def learns(self) -> dict[str, Any]:
        """The fields on which the trained weights depend."""
        return {name: value for name, value in self.as_dict().items() if name not in ELSEWHERE}

    def sha256(self) -> str:
        return hashlib.sha256(json.dumps(self.learns(), sort_keys=True).encode()).hexdigest()


def whole_numbers(option: str, text: str, *, or_auto: bool = False) -> list[int]:
    """ "4,8" -> [4, 8]; "" -> []. UsageError for what is not a whole number of at least 1."""
    parts = [part.strip() for part in text.split(",")] if text else []
    for part in parts:
        if not part.isdecimal() or int(part) < 1:
            end = ", or auto" if or_auto else ""
            raise UsageError(f"{option} has '{part}'; it must be whole numbers of at least 1, as 4,8{end}")
    return [int(part) for part in parts]


def check_lora() -> None:
    """UsageError unless peft is installed."""
    if find_spec("peft") is None:
        raise UsageError("--finetune-backbone lora needs peft: pip install 'fastvlm-bench[lora]'")
