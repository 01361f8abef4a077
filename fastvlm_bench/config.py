"""What a run is asked to do: the options of `run`.

Everything that can be told to be wrong without loading a model is refused here. Without torch.
"""

import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from fastvlm_bench.analysis.batches import check_batches
from fastvlm_bench.analysis.floors import Floors
from fastvlm_bench.analysis.stopping import check_stopping
from fastvlm_bench.errors import UsageError
from fastvlm_bench.method_spec import ADVISED, ALL, CONTROL, MAX_GAMMA, METHODS, REFERENCE, MethodSpec, all_methods
from fastvlm_bench.metrics import METRICS, parse_variants
from fastvlm_bench.models.names import long_dtype
from fastvlm_bench.option_checks import check_loading, check_writable, whole
from fastvlm_bench.sampling import check_sampling, generation
from fastvlm_bench.suites.definition import read_definition
from fastvlm_bench.suites.shares import WHOLE, Share, check_shard

LOADING = ("device", "dtype", "device_map", "attn", "quantize", "trust_remote_code", "offline")
NOT_MEASURED = ("out", "resume", "json", "require_lossless", "require_valid", "min_decode_speedup",
                "min_alpha", "max_quality_drop", "margin", "variants", "java", "metrics",
                "offline")  # fmt: skip
"""Fields of RunConfig that change where results go or what is said of them, not what is measured."""
EAGER = "eager"
"""The engine of records that name none."""
LATER = ("temperature", "top_p", "top_k", "ignore_eos", "phases", "until_width", "budget", "invocations", "energy",
         "refine", "device_map", "attn", "quantize", "trust_remote_code", "batch_size", "control", "engine",
         "shard", "tensor_parallel", "compile")  # fmt: skip
"""Fields that older records lack. At their defaults they say nothing new, so that such a run can still be resumed."""


def _compared(name: str) -> bool:
    return name not in (REFERENCE, CONTROL)


ASKED_OF: tuple[tuple[str, str, Callable[[str], bool]], ...] = (
    ("gamma", "takes it", lambda name: "gamma" in METHODS[name].options),
    ("exit_layer", "takes it", lambda name: "exit_layer" in METHODS[name].options),
    ("min_decode_speedup", "is compared with the reference", _compared),
    ("min_alpha", "drafts", lambda name: _compared(name) and METHODS[name].drafts),
    ("max_quality_drop", "is compared with the reference", _compared),
)
"""Fields of RunConfig that say nothing unless one of the methods is of a kind: the field, the kind, who is of it."""


@dataclass(frozen=True)
class RunConfig:
    """The options of `run`. Made only of plain values; UsageError for any that cannot be.

    suites: at least one name. methods: as typed; `standard` is added if it is missing, and comes first; `all` stands
    for every method that needs no option (`specs`), of which those that do not fit the model are left out. draft: a
    draft folder or a folder of them. device, dtype, device_map, attn, quantize, trust_remote_code, offline: as in
    `load_target`. tensor_parallel: torchrun's processes hold a part of the target each, and decode in step. engine: how
    passes run, of every method alike; a record's environment names the one that "auto" was. compile: torch compiles
    parts of the layers (`compile_parts`). gamma, exit_layer: for the methods that do not name their own. split, data,
    limit: as in `load_suite`. max_new_tokens: None is the suite's.
    prompt_set: None is each suite's default (lmms where it has that); "custom" with the text as `prompt`. threads: None
    lets the runner choose. batch_size: samples decoded at a time; 1 is the honest setting for latency. temperature:
    None or 0 is greedy; top_p and top_k belong to it. ignore_eos: every output has the length of the limit. phases:
    tell the phases of each generation apart by hooks, and by events on a device. refine: drafts learn between samples.
    control: in half precision, measure `control` beside the methods. margin: the difference in points of 100 that
    counts as none. variants: "METRIC=VARIANT" each. min_decode_speedup, min_alpha, max_quality_drop: as in `Floors`.
    java: METEOR and SPICE of captions, too. metrics: further metrics of every suite, each by its name or the path of
    its file. until_width, budget: as in `StopRule`, for each suite. invocations: processes, each with all the repeats.
    shard: "i/N", the share of each suite's samples that is measured, as in `Share.parse`. energy: seconds of the blocks
    in which energy is measured. `validate` adds the checks that look at the disk.
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
    tensor_parallel: bool = False
    attn: str | None = None
    quantize: str | None = None
    engine: str = "auto"
    compile: bool = False
    trust_remote_code: bool = False
    offline: bool = False
    threads: int | None = None
    batch_size: int = 1
    refine: bool = False
    control: bool = True
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    ignore_eos: bool = False
    phases: bool = False
    until_width: float | None = None
    budget: float | None = None
    invocations: int = 1
    shard: str | None = None
    energy: float | None = None
    out: str = "results"
    resume: str | None = None
    json: bool = False
    require_lossless: bool = False
    require_valid: bool = False
    min_decode_speedup: float | None = None
    min_alpha: float | None = None
    max_quality_drop: float | None = None
    margin: float = 0.5
    variants: tuple[str, ...] = ()
    java: bool = False
    metrics: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in (
            "suites",
            "methods",
            "variants",
            "metrics",
        ):  # one name, or a list from a file, will do
            given = getattr(self, name)
            object.__setattr__(self, name, (given,) if isinstance(given, str) else tuple(given))
        object.__setattr__(self, "dtype", long_dtype(self.dtype))
        whole("gamma", self.gamma, 1, MAX_GAMMA)
        for name in ("exit_layer", "limit", "repeats", "max_new_tokens", "invocations", "batch_size"):
            whole(name, getattr(self, name), 1)
        for name in ("warmup", "seed"):
            whole(name, getattr(self, name), 0, (1 << 63) - 1 if name == "seed" else math.inf)
        whole("threads", self.threads, 1, os.cpu_count() or 1)
        if not 0 < self.margin <= 100:
            raise UsageError(f"--margin is {self.margin:g}; it must be above 0 and at most 100, points of 100")
        self.floors  # noqa: B018 - checked when it is made
        parse_variants(self.variants)
        for text in self.metrics:
            METRICS.known(text)
        whole("top_k", self.top_k, 1)
        check_loading(device=self.device, dtype=self.dtype, device_map=self.device_map, attn=self.attn,
                      quantize=self.quantize, engine=self.engine)  # fmt: skip
        if self.tensor_parallel:
            check_tensor_parallel(self)
        if not self.suites or len(set(self.suites)) != len(self.suites):
            raise UsageError(f"suites are {', '.join(self.suites) or 'missing'}; name at least one, each once")
        if self.refine and max(self.repeats, self.invocations) > 1:
            raise UsageError("--refine goes with one repeat and one invocation: a repeated sample was learned from")
        check_sampling(self)
        check_batches(self.batch_size, temperature=self.temperature, phases=self.phases, energy=self.energy,
                      refine=self.refine)  # fmt: skip
        check_stopping(self.until_width, self.budget, self.invocations, self.energy)
        check_shard(self.shard, until_width=self.until_width, budget=self.budget, refine=self.refine)
        labels = [spec.label for spec in self._parse_methods()]
        if ALL in self.methods:
            labels = [REFERENCE, ALL, *(label for label in labels if label in self.methods and label != REFERENCE)]
        object.__setattr__(self, "methods", tuple(labels))

    @property
    def generation(self) -> dict[str, Any]:
        """What `generate` is given, besides the limit, to decode as asked."""
        return generation(self)

    @property
    def share(self) -> Share:
        """The share of the samples that is measured: all without --shard."""
        return WHOLE if self.shard is None else Share.parse(self.shard)

    @property
    def floors(self) -> Floors:
        """The bounds that the run must keep, which say nothing of what is measured."""
        return Floors(self.min_decode_speedup, self.min_alpha, self.max_quality_drop)

    def _parse_methods(self) -> list[MethodSpec]:
        named = [text for text in self.methods if text != ALL]
        texts = [*(name for name in all_methods() if name not in named), *named] if ALL in self.methods else named
        specs = [MethodSpec.parse(text, gamma=self.gamma, exit_layer=self.exit_layer) for text in texts]
        for name, does, asked in ASKED_OF:
            if getattr(self, name) is not None and not any(asked(spec.name) for spec in specs):
                raise UsageError(f"--{name.replace('_', '-')} has no effect: none of the methods {does} "
                                 f"({', '.join(spec.label for spec in specs)}); add one, or leave it out")  # fmt: skip
        seen: dict[str, str] = {}
        for spec in specs:
            # A draft's advice is not known yet: what was typed may differ from it, even where it equals the default.
            typed = str(sorted(spec.typed & set(ADVISED))) if METHODS[spec.name].trained else ""
            if (key := f"{spec} {typed}") in seen:
                raise UsageError(f"methods '{seen[key]}' and '{spec.label}' are the same ({spec}); name it once")
            seen[key] = spec.label
        reference = MethodSpec.parse(REFERENCE)
        return [reference, *(spec for spec in specs if spec.name != REFERENCE)]

    @property
    def specs(self) -> tuple[MethodSpec, ...]:
        """The methods with --gamma and --exit-layer applied, the reference first."""
        return tuple(self._parse_methods())

    def optional(self, spec: MethodSpec) -> bool:
        """Whether a method is left out, and not refused, where it does not fit: `all` stood for it."""
        return ALL in self.methods and spec.label not in self.methods

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

    def measured(self) -> dict[str, Any]:
        """The fields that define the measurement, as JSON has them."""
        return {name: value for name, value in self.to_dict().items() if name not in NOT_MEASURED}

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
        new = {f.name: f.default for f in fields(self) if f.name in LATER} | {"engine": EAGER}
        # What "auto" stands for is not known yet. A run that goes on by another engine is refused by its environment.
        measured = self.measured() | ({"engine": EAGER} if self.engine == "auto" else {})
        measured = {name: value for name, value in measured.items() if not (name in new and value == new[name])}
        return hashlib.sha256(json.dumps(measured, sort_keys=True).encode()).hexdigest()


def check_tensor_parallel(config: RunConfig) -> None:
    """UsageError for options that do not go together with a target that processes share."""
    for name, given in (("--device-map", config.device_map), ("--quantize", config.quantize),
                        ("--engine graphs", config.engine == "graphs"), ("--phases", config.phases),
                        ("--compile", config.compile)):  # fmt: skip
        if given:
            raise UsageError(f"{name} and --tensor-parallel exclude each other: leave one out")
