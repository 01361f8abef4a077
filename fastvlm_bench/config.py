"""What a run is asked to do: method specifications ("fastvlm:gamma=4,exit_layer=6") and the options of `run`.

Everything that can be told to be wrong without loading a model is refused here. Without torch.
"""

import hashlib
import json
import math
import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from fastvlm_bench.batches import check_batches
from fastvlm_bench.drafts import HEAD_LAYERS
from fastvlm_bench.errors import UsageError, did_you_mean
from fastvlm_bench.metrics import parse_variants
from fastvlm_bench.sampling import check_sampling, generation
from fastvlm_bench.stopping import check_stopping
from fastvlm_bench.suite_definition import read_definition

REFERENCE = "standard"
MAX_GAMMA = 64
DTYPES = ("auto", "float32", "bfloat16", "float16")
DEVICES = ("auto", "cpu", "cuda", "cuda:N", "mps")
LOADING = ("device", "dtype", "device_map", "attn", "quantize", "trust_remote_code", "offline")
CHOICES = {"dtype": DTYPES, "device_map": ("auto",), "attn": ("sdpa", "eager", "flash_attention_2"),
           "quantize": ("4bit", "8bit")}  # fmt: skip
NOT_MEASURED = ("out", "resume", "json", "require_lossless", "margin", "variants", "java", "offline")
"""Fields of RunConfig that change where results go or what is said of them, not what is measured."""
LATER = ("temperature", "top_p", "top_k", "ignore_eos", "phases", "until_width", "budget", "invocations", "energy",
         "refine", "device_map", "attn", "quantize", "trust_remote_code", "batch_size")  # fmt: skip
"""Fields that older records lack. At their defaults they say nothing new, so that such a run can still be resumed."""
Value = int | float | str


@dataclass(frozen=True)
class Option:
    """One option of a method. default None: what `help` says. `below` is the first float too large."""

    kind: type[int] | type[float] | type[str]
    default: Value | None
    help: str
    low: float = 0
    high: float = math.inf
    below: float = math.inf
    choices: tuple[str, ...] = ()

    @property
    def allowed(self) -> str:
        """The allowed values in words."""
        if self.choices:
            return "one of " + ", ".join(self.choices)
        if self.kind is str:
            return "a name of letters, digits, '.', '-' and '_'"
        if self.kind is float:
            return f"a number from {self.low:g} to below {self.below:g}"
        return f"a whole number of at least {self.low:g}" + (f", at most {self.high:g}" if self.high < math.inf else "")

    def parse(self, text: str) -> Value | None:
        """The value that `text` stands for; None if it is not an allowed one."""
        if self.choices:
            return text if text in self.choices else None
        if self.kind is str:
            return text if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", text) else None
        pattern = r"[+-]?[0-9]{1,9}" if self.kind is int else r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?"
        if not re.fullmatch(pattern, text):
            return None
        value = self.kind(text)
        assert not isinstance(value, str)
        return value if self.low <= value <= self.high and value < self.below else None


@dataclass(frozen=True)
class MethodKind:
    """A way to decode: one line about it, whether its greedy output must equal the target's, and its options."""

    description: str
    lossless: bool
    options: Mapping[str, Option] = field(default_factory=dict, hash=False)


GAMMA = Option(int, 10, "most tokens drafted per round", low=1, high=MAX_GAMMA)
EXIT_LAYER = Option(int, None, "target layers run while drafting; by default the draft's own", low=1)
RAW_EXIT_LAYER = Option(int, 2, "target layers run while drafting", low=1)
HEAD = Option(str, None, "kind of imitation head; by default the draft's own", choices=tuple(HEAD_LAYERS))
DRAFT = Option(str, None, "the draft of this name, a folder below --draft")
STOP_BELOW = Option(float, 0.5, "drafting stops before a token less probable than this; 0 is never", low=0, below=1)
METHODS: dict[str, MethodKind] = {
    "standard": MethodKind("one token per pass of the whole target: the reference", True),
    "fastvlm": MethodKind(
        "drafts with the first layers and an imitation head, verifies with the remaining layers", True,
        {"gamma": GAMMA, "draft": DRAFT, "exit_layer": EXIT_LAYER, "head": HEAD, "stop_below": STOP_BELOW},
    ),
    "layerskip": MethodKind(
        "as fastvlm, but drafts with the raw exit: what the imitation head is worth", True,
        {"gamma": GAMMA, "exit_layer": RAW_EXIT_LAYER, "stop_below": STOP_BELOW},
    ),
    "early-exit": MethodKind(
        "the draft alone, never verified: the quality that verification keeps", False,
        {"draft": DRAFT, "exit_layer": EXIT_LAYER, "head": HEAD},
    ),
    "hf-generate": MethodKind("transformers' own generate: the check that standard is no slower", True),
    "control": MethodKind(
        "drafts with the whole target: what differs then is rounding alone; gamma=0 is standard once more", True,
        {"gamma": Option(int, 10, "tokens decoded one by one, then verified as a block", low=0, high=MAX_GAMMA)},
    ),
}  # fmt: skip


@dataclass(frozen=True)
class MethodSpec:
    """A method with its options. `label` is what the user typed; `options` holds every option that has a value.

    `str(spec)` is the canonical form, with defaults spelt out: two specs that decode alike have the same.
    """

    name: str
    options: Mapping[str, Value] = field(hash=False)
    label: str

    @classmethod
    def parse(cls, text: str, *, gamma: int | None = None, exit_layer: int | None = None) -> "MethodSpec":
        """Read "name" or "name:option=value,...". UsageError with the allowed names or values.

        gamma, exit_layer: values for methods that take them and do not name their own.
        """
        label = text.strip()
        name, colon, rest = label.partition(":")
        if name not in METHODS:
            raise UsageError(f"unknown method '{name}': one of {', '.join(METHODS)}{did_you_mean(name, METHODS)}")
        known = METHODS[name].options
        named = dict(_parse_option(name, known, part) for part in rest.split(",")) if colon else {}
        keys = [part.partition("=")[0].strip() for part in rest.split(",")]
        if colon and len(keys) != len(named):
            raise UsageError(f"method '{label}' gives an option twice; name each once")
        shared = {"gamma": gamma, "exit_layer": exit_layer}
        options = {
            key: value for key, option in known.items()
            for value in [named.get(key, option.default if shared.get(key) is None else shared[key])]
            if value is not None
        }  # fmt: skip
        return cls(name, options, label)

    @property
    def lossless(self) -> bool:
        return METHODS[self.name].lossless

    def __str__(self) -> str:
        options = ",".join(f"{key}={value}" for key, value in self.options.items())
        return f"{self.name}:{options}" if options else self.name


def _parse_option(method: str, known: Mapping[str, Option], part: str) -> tuple[str, Value]:
    key, equals, text = (piece.strip() for piece in part.partition("="))
    if key not in known:
        there = f"it takes {', '.join(known)}" if known else "it takes none"
        raise UsageError(f"method '{method}' has no option '{key}': {there}{did_you_mean(key, known)}")
    value = known[key].parse(text)
    if not equals or value is None:
        given = f"'{text}'" if equals else "without a value"
        raise UsageError(f"option '{key}' of method '{method}' is {given}; it must be {known[key].allowed}, "
                         f"as in {method}:{key}=…{did_you_mean(text, known[key].choices)}")  # fmt: skip
    return key, value


@dataclass(frozen=True)
class RunConfig:
    """The options of `run`. Made only of plain values; UsageError for any that cannot be.

    suites: at least one name. methods: as typed; `standard` is added if it is missing, and comes first. draft: a draft
    folder or a folder of them. device, dtype, device_map, attn, quantize, trust_remote_code, offline: as in
    `load_target`. gamma, exit_layer: for the methods that do not name their own. split, data, limit: as
    in `load_suite`. max_new_tokens: None is the suite's. prompt_set: None is each suite's default (lmms
    where it has that); "custom" with the text as `prompt`. threads: None lets the runner choose. batch_size: samples
    decoded at a time; 1 is the honest setting for latency. temperature: None or
    0 is greedy; top_p and top_k belong to it. ignore_eos: every output has the length of the limit. phases: tell the
    phases of each generation apart by hooks, and by events on a device. refine: drafts learn between samples. margin:
    the difference in points of 100 that counts as none. variants: "METRIC=VARIANT" each. java: METEOR and
    SPICE of captions, too.
    until_width, budget: as in `StopRule`, for each suite. invocations: processes, each with all the repeats.
    energy: seconds of the blocks in which energy is measured. `validate` adds the checks that look at the disk.
    """

    suites: tuple[str, ...] = ("coco-caption",)
    model: str = "tiny"
    draft: str | None = None
    methods: tuple[str, ...] = (REFERENCE, "fastvlm")
    gamma: int | None = None
    exit_layer: int | None = None
    split: str | None = None
    data: str | None = None
    limit: int | None = None
    repeats: int = 1
    warmup: int = 3
    max_new_tokens: int | None = None
    prompt_set: str | None = None
    prompt: str | None = None
    seed: int = 0
    device: str = "auto"
    dtype: str = "auto"
    device_map: str | None = None
    attn: str | None = None
    quantize: str | None = None
    trust_remote_code: bool = False
    offline: bool = False
    threads: int | None = None
    batch_size: int = 1
    refine: bool = False
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    ignore_eos: bool = False
    phases: bool = False
    until_width: float | None = None
    budget: float | None = None
    invocations: int = 1
    energy: float | None = None
    out: str = "results"
    resume: str | None = None
    json: bool = False
    require_lossless: bool = False
    margin: float = 0.5
    variants: tuple[str, ...] = ()
    java: bool = False

    def __post_init__(self) -> None:
        for name in (
            "suites",
            "methods",
            "variants",
        ):  # one name, or a list from a file, will do
            given = getattr(self, name)
            object.__setattr__(self, name, (given,) if isinstance(given, str) else tuple(given))
        _whole("gamma", self.gamma, 1, MAX_GAMMA)
        for name in ("exit_layer", "limit", "repeats", "max_new_tokens", "invocations", "batch_size"):
            _whole(name, getattr(self, name), 1)
        for name in ("warmup", "seed"):
            _whole(name, getattr(self, name), 0, (1 << 63) - 1 if name == "seed" else math.inf)
        _whole("threads", self.threads, 1, os.cpu_count() or 1)
        if not 0 < self.margin <= 100:
            raise UsageError(f"--margin is {self.margin:g}; it must be above 0 and at most 100, points of 100")
        parse_variants(self.variants)
        _whole("top_k", self.top_k, 1)
        check_loading(device=self.device, dtype=self.dtype, device_map=self.device_map, attn=self.attn,
                      quantize=self.quantize)  # fmt: skip
        if not self.suites or len(set(self.suites)) != len(self.suites):
            raise UsageError(f"suites are {', '.join(self.suites) or 'missing'}; name at least one, each once")
        if self.refine and max(self.repeats, self.invocations) > 1:
            raise UsageError("--refine goes with one repeat and one invocation: a repeated sample was learned from")
        check_sampling(self)
        check_batches(self.batch_size, temperature=self.temperature, phases=self.phases, energy=self.energy,
                      refine=self.refine)  # fmt: skip
        check_stopping(self.until_width, self.budget, self.invocations, self.energy)
        object.__setattr__(self, "methods", tuple(spec.label for spec in self._parse_methods()))

    @property
    def generation(self) -> dict[str, Any]:
        """What `generate` is given, besides the limit, to decode as asked."""
        return generation(self)

    def _parse_methods(self) -> list[MethodSpec]:
        specs = [MethodSpec.parse(text, gamma=self.gamma, exit_layer=self.exit_layer) for text in self.methods]
        for name in ("gamma", "exit_layer"):
            if getattr(self, name) is not None and not any(name in METHODS[spec.name].options for spec in specs):
                raise UsageError(f"--{name.replace('_', '-')} has no effect: none of the methods takes it "
                                 f"({', '.join(spec.label for spec in specs)}); add one, or leave it out")  # fmt: skip
        seen: dict[str, str] = {}
        for spec in specs:
            if str(spec) in seen:
                raise UsageError(f"methods '{seen[str(spec)]}' and '{spec.label}' are the same ({spec}); name it once")
            seen[str(spec)] = spec.label
        reference = MethodSpec.parse(REFERENCE)
        return [reference, *(spec for spec in specs if spec.name != REFERENCE)]

    @property
    def specs(self) -> tuple[MethodSpec, ...]:
        """The methods with --gamma and --exit-layer applied, the reference first."""
        return tuple(self._parse_methods())

    @property
    def loading(self) -> dict[str, Any]:
        """The options of `load_target`."""
        return {name: getattr(self, name) for name in LOADING}

    def validate(self) -> "RunConfig":
        """Check what lies on the disk, too: the suites and splits exist and `out` can be written. Returns itself."""
        for name in self.suites:
            definition = read_definition(name)
            definition.choose_prompt(self.prompt_set, self.prompt)
            if self.split is not None:
                definition.split(self.split)
        check_writable(Path(self.out))
        return self

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON has them."""
        return {f.name: list(v) if isinstance(v := getattr(self, f.name), tuple) else v for f in fields(self)}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> "RunConfig":
        """The configuration of a stored run. UsageError for fields that this version does not know."""
        known = [f.name for f in fields(cls)]
        if unknown := [name for name in stored if name not in known]:
            raise UsageError(f"the stored configuration has unknown fields ({', '.join(unknown)}); "
                             "use the fastvlm-bench that wrote it")  # fmt: skip
        return cls(**stored)

    def sha256(self) -> str:
        """Of the fields that define the measurement: a run may be resumed only with the same."""
        new = {f.name: f.default for f in fields(self) if f.name in LATER}
        measured = {name: value for name, value in self.to_dict().items()
                    if name not in NOT_MEASURED and not (name in new and value == new[name])}  # fmt: skip
        return hashlib.sha256(json.dumps(measured, sort_keys=True).encode()).hexdigest()


def check_loading(*, device: str, **chosen: str | None) -> None:
    """UsageError unless each option of loading a model (`dtype`, `device_map`, `attn`, `quantize`) is one there is."""
    for name, value in chosen.items():
        if value is not None and value not in CHOICES[name]:
            word = name.replace("_", "-")
            raise UsageError(f"unknown {word} '{value}': one of {', '.join(CHOICES[name])}"
                             f"{did_you_mean(value, CHOICES[name])}")  # fmt: skip
    if not re.fullmatch(r"auto|cpu|mps|cuda(:[0-9]{1,3})?", device):
        raise UsageError(f"unknown device '{device}': one of {', '.join(DEVICES)}{did_you_mean(device, DEVICES)}")


def check_writable(folder: Path) -> None:
    """UsageError unless `folder` is, or could be made, a folder that takes files: tried, with nothing left."""
    nearest = folder.expanduser().absolute()
    while not os.path.lexists(nearest) and nearest != nearest.parent:
        nearest = nearest.parent
    if not nearest.is_dir():
        raise UsageError(f"cannot write results to {folder}: {nearest} is not a folder; choose another --out")
    try:
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise UsageError(f"cannot write results to {folder}: {error.strerror}; choose another --out") from None


def _whole(name: str, value: Any, low: int, high: float = math.inf) -> None:
    if value is None and name not in ("repeats", "warmup", "seed", "batch_size"):
        return
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        limits = f"{low} .. {high}" if high < math.inf else f"at least {low}"
        raise UsageError(f"--{name.replace('_', '-')} is {value}; it must be a whole number, {limits}")
