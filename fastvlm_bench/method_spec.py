"""Method specifications: "fastvlm:gamma=4,exit_layer=6", and what a method's file declares. Without torch."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from fastvlm_bench.declared import Declarations
from fastvlm_bench.drafts.manifest import AT_THE_END, HEAD_LAYERS
from fastvlm_bench.errors import UsageError, did_you_mean

REFERENCE = "standard"
ALL = "all"
"""In the place of a method's name: every method that needs no option of the user's and fits the model."""
CONTROL = "control"
"""The method that shows what rounding does to the target. Nobody asks whether it is faster or better."""
MAX_GAMMA = 64
ADVISED = ("gamma", "stop_below")
"""The options that a draft's manifest may advise; such advice takes the place of the default."""
Value = int | float | str


@dataclass(frozen=True)
class Option:
    """One option of a method: its type, its default, a line of help and the values that it takes.

    default None: `help` says what is used then. `low` and `high` are allowed values; `below`, for floats, is not.
    source: the value is a folder or a hub id, not a name. joined: it is several values, as 1+4, whole
    numbers where there are no choices. needed: there is no default, and the user must give it.
    """

    kind: type[int] | type[float] | type[str]
    default: Value | None
    help: str
    low: float = 0
    high: float = math.inf
    below: float = math.inf
    choices: tuple[str, ...] = ()
    source: bool = False
    needed: bool = False
    joined: bool = False

    @property
    def allowed(self) -> str:
        """The allowed values in words."""
        if self.choices:
            return "one of " + ", ".join(self.choices) + (", or several joined by +" if self.joined else "")
        if self.joined:
            return "whole numbers of at least 1, joined by +"
        if self.source:
            return "a folder, or a hub id (OWNER/NAME), without a comma"
        if self.kind is str:
            return "a name of letters, digits, '.', '-' and '_'"
        if self.kind is float:
            return f"a number from {self.low:g} to below {self.below:g}"
        return f"a whole number of at least {self.low:g}" + (f", at most {self.high:g}" if self.high < math.inf else "")

    def parse(self, text: str) -> Value | None:
        """The value that `text` stands for; None if it is not an allowed one."""
        if self.choices:
            parts = text.split("+") if self.joined else [text]
            return text if all(part in self.choices for part in parts) else None
        if self.source:
            return text or None
        if self.joined:
            return text if re.fullmatch(r"[1-9][0-9]{0,3}(\+[1-9][0-9]{0,3})*", text) else None
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
    """What a method's file declares: `METHOD = MethodKind("a line about it", lossless=True, options={...})`.

    description: what `fastvlm-bench methods` says of it. lossless: whether its greedy output must equal the target's.
    group: where `methods` lists it, one of `GROUPS`. options: by name. The constructor has a parameter of each option's
    name, but for `draft`, `head` and `exit_layer` of a method that takes a trained draft: they choose it, and the
    constructor has the parameter `draft`.
    """

    description: str
    lossless: bool
    options: Mapping[str, Option] = field(default_factory=dict, hash=False)
    group: str = "your own"

    @property
    def trained(self) -> bool:
        """Whether it takes a draft that `train` made, which is chosen among the model's drafts."""
        return self.options.get("draft") in (DRAFT, AT_THE_END_DRAFT, BLOCK_DRAFT)

    @property
    def heads(self) -> tuple[str, ...]:
        """The kinds of head that its drafts may have."""
        if self.options.get("draft") == BLOCK_DRAFT:
            return ("block",)
        return tuple(AT_THE_END if self.options.get("draft") == AT_THE_END_DRAFT else HEAD_LAYERS)

    @property
    def drafts(self) -> bool:
        """Whether it drafts tokens that the target tests, so that it has an α: it has an option gamma, or is another
        library's loop, each of which drafts."""
        return "gamma" in self.options or self.foreign

    @property
    def foreign(self) -> bool:
        """Whether it is another library's loop, whose faults are its own and do not touch the other numbers."""
        return self.group == "transformers"

    @property
    def skips(self) -> bool:
        """Whether it takes a skip set that `skip-search` made, a folder or one among the model's drafts."""
        return self.options.get("draft") == SKIP_SET

    @property
    def needed(self) -> tuple[str, ...]:
        """The options that a user must give."""
        return tuple(key for key, option in self.options.items() if option.needed)


GROUPS = {
    "reference": "what everything is compared with",
    "ours": "FastVLM: drafts with the target's own first layers and a trained imitation head",
    "baselines": "need no training",
    "drafts": "draft with a model or a head that you have, or that `train` makes for comparison",
    "transformers": "the loops of transformers, as they are",
    "checks": "show what the other numbers mean",
    "your own": "from your files",
}
"""The groups in which `methods` lists the methods, in order, and a line about each."""
GAMMA = Option(int, 10, "most tokens drafted per round", low=1, high=MAX_GAMMA)
EXIT_LAYER = Option(int, None, "target layers run while drafting; by default the draft's own", low=1)
RAW = "raw"
"""In the place of a head: the raw exit, which any exit has. `layerskip` decodes with it."""
HEADS_OR_RAW = (RAW, *HEAD_LAYERS)
HEAD = Option(str, None, "kind of imitation head; by default the draft's own", choices=tuple(HEAD_LAYERS))
DRAFT = Option(str, None, "the draft of this name, a folder below --draft")
AT_THE_END_DRAFT = Option(str, None, "the draft of this name, a folder below --draft, that `train --head medusa` made")
BLOCK_DRAFT = Option(str, None, "the draft of this name, a folder below --draft, that `train --head block` made")
SKIP_SET = Option(
    str, None, "folder of a set that `skip-search` found; by default one among the model's drafts", source=True
)
STOP_BELOW = Option(float, 0.5, "drafting stops before a token less probable than this; 0 is never", low=0, below=1)
TOPK = Option(
    int, None, "2 or more draft a tree, with so many tokens a level at most; by default a chain", low=1, high=32
)
NODES = Option(int, None, "most tokens of a tree; by default 16", low=2, high=256)
BRANCH_ABOVE = Option(
    float,
    None,
    "a token joins its tree level's best if it is this share as likely; by default 0.2",
    low=0,
    below=1,
)
EAGLE_OPTIONS = {
    "gamma": Option(int, 5, "most tokens of a chain drafted per round", low=1, high=MAX_GAMMA),
    "topk": Option(int, 1, "1 drafts a chain; more a tree, whose best nodes have so many children", low=1, high=32),
    "depth": Option(int, None, "levels of a tree; by default gamma", low=1, high=MAX_GAMMA),
    "nodes": Option(int, 59, "most nodes of a tree that are verified", low=1, high=512),
    "stop_below": Option(float, 0.0, "a chain stops before a token less probable than this", low=0, below=1),
    "images": Option(str, "merged", "what the head reads of an image: what the target embeds there, or its "
                     "placeholder as a word", choices=("merged", "placeholder")),
}  # fmt: skip
"""What every EAGLE head is asked."""
WORDS = {
    "MethodKind": MethodKind, "Option": Option, "int": int, "float": float, "str": str, "GAMMA": GAMMA,
    "EXIT_LAYER": EXIT_LAYER, "HEAD": HEAD, "DRAFT": DRAFT, "STOP_BELOW": STOP_BELOW, "MAX_GAMMA": MAX_GAMMA,
    "TOPK": TOPK, "NODES": NODES, "BRANCH_ABOVE": BRANCH_ABOVE,
    "AT_THE_END_DRAFT": AT_THE_END_DRAFT, "BLOCK_DRAFT": BLOCK_DRAFT,
    "SKIP_SET": SKIP_SET, "HEADS_OR_RAW": HEADS_OR_RAW,
    "EAGLE_OPTIONS": EAGLE_OPTIONS,
}  # fmt: skip
"""What a declaration may use besides literals, because it is read without running its file."""
METHODS = Declarations(
    "method", "METHOD", MethodKind, "fastvlm_bench.decoding", WORDS,
    named=lambda stem: stem.replace("_", "-"), first=REFERENCE,
)  # fmt: skip
"""Every method by its name, which is that of its file: decoding/early_exit.py is early-exit."""


def all_methods() -> list[str]:
    """What `all` stands for: methods without a needed option, in the order of their groups.

    `control` is not among them: it measures rounding, and a run in half precision adds it by itself.
    """
    places = {group: place for place, group in enumerate(GROUPS)}
    names = [name for name, kind in METHODS.items() if not kind.needed and name != CONTROL]
    return sorted(names, key=lambda name: places.get(METHODS[name].group, len(places)))


@dataclass(frozen=True)
class MethodSpec:
    """A method with its options. `label` is what the user typed; `options` holds every option that has a value.

    typed: the options that the user gave, in the label or by --gamma and --exit-layer. No draft's advice overrules
    them.

    `str(spec)` is the canonical form, with defaults spelt out: it is the same for two specs that decode alike.
    """

    name: str
    options: Mapping[str, Value] = field(hash=False)
    label: str
    typed: frozenset[str] = field(default=frozenset(), compare=False)

    @classmethod
    def parse(cls, text: str, *, gamma: int | None = None, exit_layer: int | None = None) -> "MethodSpec":
        """Read "name" or "name:option=value,..."; the name may be the path of a file. UsageError where it cannot.

        gamma, exit_layer: used for a method that has such an option where `text` does not set it.
        """
        label = text.strip()
        name, colon, rest = label.partition(":")
        name = METHODS.known(name)
        known = METHODS[name].options
        named = dict(_parse_option(name, known, part) for part in rest.split(",")) if colon else {}
        keys = [part.partition("=")[0].strip() for part in rest.split(",")]
        if colon and len(keys) != len(named):
            raise UsageError(f"method '{label}' gives an option twice; name each once")
        if lacking := [key for key in METHODS[name].needed if key not in named]:
            option = known[lacking[0]]
            raise UsageError(f"method '{name}' needs {lacking[0]}=…: {option.help}; it must be {option.allowed}, as in "
                             f"{name}:{lacking[0]}=…")  # fmt: skip
        shared = {"gamma": gamma, "exit_layer": exit_layer}
        options = {
            key: value for key, option in known.items()
            for value in [named.get(key, option.default if shared.get(key) is None else shared[key])]
            if value is not None
        }  # fmt: skip
        return cls(name, options, label, frozenset(named) | {key for key in known if shared.get(key) is not None})

    def fixed(self, options: Mapping[str, Value]) -> "MethodSpec":
        """The same method with these values of options that it takes, as if they had been typed."""
        own = {key: value for key, value in options.items() if key in METHODS[self.name].options}
        return replace(self, options={**self.options, **own}, typed=self.typed | own.keys())

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
