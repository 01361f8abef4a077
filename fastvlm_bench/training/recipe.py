"""Recipes: how each draft is trained, such as "attention:exit_layer=1,kd=1,cosine=0". Without torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastvlm_bench.drafts.manifest import AT_THE_END, HEAD_LAYERS, KINDS
from fastvlm_bench.errors import UsageError, did_you_mean

LOSSES = {
    "cosine": "1 - cosine similarity of the head's states and the target's deeper ones (mean of the last `fuse`)",
    "smooth_l1": "smooth L1 distance of the same",
    "kd": "KL divergence from the target's distribution to the draft's, at temperature `temperature`",
    "ce": "cross-entropy on the token that the target would choose",
    "acceptance": "total variation distance, 1 - Σ min(p, q): the chance that sampling rejects the draft's token",
}
MAX_HEADS = 16
DEFAULT_LOSSES = {"cosine": 0.1, "kd": 1.0, "ce": 0.5}
OF_STATES = ("cosine", "smooth_l1")
"""Losses that compare states. Heads at the end have none to compare: theirs lead to a later token than the target's."""
END_KEYS = ("heads", "own_output", "decay")
KEYS = ("exit_layer", "depth", *LOSSES, "fuse", "temperature", "top_k", "unroll", "refine", "places", *END_KEYS, "name")


@dataclass(frozen=True)
class Recipe:
    """One draft to be trained.

    losses: loss -> weight, zeros left out. fuse: over how many of the last layers the states are averaged for `cosine`
    and `smooth_l1` (the paper reports three to be best). temperature: of `kd`, whose loss is scaled by its square as
    usual. top_k: `kd` compares only the target's k likeliest tokens, 0 for all. unroll: how many passes a head that
    recurs makes over its own output. refine: whether rejected positions weigh more in the refinement stage.
    Heads at the end have the exit layer 0, which means that they have none. decay: the loss of head i, or of place i of
    a block, counted from 0, weighs decay^i (Medusa's λ, 0.8).
    """

    name: str
    head: str
    exit_layer: int
    head_options: Mapping[str, int] = field(default_factory=dict, hash=False)
    losses: Mapping[str, float] = field(default_factory=lambda: dict(DEFAULT_LOSSES), hash=False)
    fuse: int = 3
    temperature: float = 1.0
    top_k: int = 0
    unroll: int = 1
    refine: bool = True
    decay: float = 0.8

    @classmethod
    def parse(cls, text: str, *, exit_layer: int | None = None, losses: str | None = None) -> "Recipe":
        """Read "head" or "head:key=value,…". A loss that is named replaces its default weight; 0 drops it.

        exit_layer, losses: the values of --exit-layer and --loss, used where `text` does not set them. UsageError for
        what cannot be read.
        """
        head, colon, rest = text.strip().partition(":")
        if head not in KINDS:
            raise UsageError(f"unknown head '{head}': one of {', '.join(KINDS)}{did_you_mean(head, KINDS)}")
        given: dict[str, str] = {}
        for part in rest.split(",") if colon else ():
            key, equals, value = (piece.strip() for piece in part.partition("="))
            if key not in KEYS or not equals or not value or key in given:
                raise UsageError(
                    f"recipe '{text}' has '{part}'; it must be KEY=VALUE, each key once, of {', '.join(KEYS)}"
                    f"{did_you_mean(key, KEYS)}"
                )
            given[key] = value
        end = head in AT_THE_END
        _check_keys(text, head, given)
        weights = dict(DEFAULT_LOSSES) if losses is None else parse_losses(losses)
        weights = {key: weight for key, weight in weights.items() if not (end and key in OF_STATES)}
        weights |= {key: _number(text, key, given[key]) for key in LOSSES if key in given}
        weights = {key: weight for key, weight in weights.items() if weight > 0}
        if not weights:
            raise UsageError(f"recipe '{text}' has no loss left; give one of {', '.join(LOSSES)} a weight")
        place = _whole(text, "exit_layer", given["exit_layer"], 1) if "exit_layer" in given else exit_layer
        place = 0 if end else place
        if place is None:
            raise UsageError(f"recipe '{text}' has no exit layer; add exit_layer=N or give --exit-layer")
        options = {"depth": _whole(text, "depth", given["depth"], 1)} if "depth" in given else {}
        if options and not HEAD_LAYERS.get(head):
            raise UsageError(f"recipe '{text}' gives a depth, but head '{head}' has no layers; leave it out")
        if head == "block":  # spelt out, because the manifest holds it, and a default may change
            options["places"] = _whole(text, "places", given.get("places", "4"), 2, MAX_HEADS)
        elif "places" in given:
            raise UsageError(f"recipe '{text}' gives places, which only block takes; leave it out")
        if end:  # spelt out, because the manifest holds them, and a default may change
            options = {"heads": _whole(text, "heads", given.get("heads", str(AT_THE_END[head])), 1, MAX_HEADS),
                       "own_output": _whole(text, "own_output", given.get("own_output", "0"), 0, 1)}  # fmt: skip
        if "unroll" in given and head != "eagle":
            raise UsageError(f"recipe '{text}' unrolls a head that never reads its own output; only eagle does")
        temperature = _number(text, "temperature", given.get("temperature", "1"))
        if temperature <= 0:
            raise UsageError(f"recipe '{text}' has temperature {temperature:g}; it must be above 0")
        return cls(
            name=given.get("name", head if end else f"{head}-exit{place}"), head=head, exit_layer=place,
            head_options=options, losses=weights, temperature=temperature,
            fuse=_whole(text, "fuse", given.get("fuse", "1" if end else "3"), 1),
            top_k=_whole(text, "top_k", given.get("top_k", "0"), 0),
            unroll=_whole(text, "unroll", given.get("unroll", "3" if head == "eagle" else "1"), 1),
            refine=bool(_whole(text, "refine", given.get("refine", "1"), 0, 1)),
            decay=_number(text, "decay", given.get("decay", "0.8")),
        )  # fmt: skip

    @property
    def depth(self) -> int:
        """How many layers of the target's kind the head has."""
        return self.head_options.get("depth", HEAD_LAYERS.get(self.head, 0))

    @property
    def at_the_end(self) -> bool:
        """Whether its heads follow the target's last layer, so that it has no exit."""
        return self.head in AT_THE_END

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for the manifest, the log and the comparison with what a checkpoint was trained with."""
        return {**vars(self), "head_options": dict(self.head_options), "losses": dict(self.losses)}


def at_the_end(text: str) -> bool:
    """Whether a recipe, as typed, has heads at the end."""
    return text.strip().partition(":")[0] in AT_THE_END


def _check_keys(recipe: str, head: str, given: Mapping[str, str]) -> None:
    """UsageError for a key that this kind of head does not take."""
    if head not in AT_THE_END:
        own = ("decay",) if head == "block" else ()
        if wrong := [key for key in END_KEYS if key in given and key not in own]:
            who = "medusa and block take" if wrong[0] == "decay" else f"{', '.join(AT_THE_END)} takes"
            raise UsageError(f"recipe '{recipe}' gives {wrong[0]}, which only {who}; leave it out")
        return
    if "exit_layer" in given:
        raise UsageError(f"recipe '{recipe}' gives an exit layer, but {head} heads read the target's last state; leave "
                         "it out")  # fmt: skip
    if wrong := [key for key in OF_STATES if key in given]:
        raise UsageError(f"recipe '{recipe}' gives {wrong[0]}, which compares states, but {head} heads lead to later "
                         "tokens; give kd, ce or acceptance")  # fmt: skip
    if "fuse" in given:
        raise UsageError(f"recipe '{recipe}' gives fuse, which is for losses that {head} does not take; leave it out")


def default_recipes(exits: Sequence[int]) -> tuple[str, ...]:
    """The recipes of `ablate` where none is named: the usual heads at each exit, then variants at the first exit.

    The variants are the other heads, and the attention head without each of its losses, with the acceptance loss alone,
    and without refinement.
    """
    place = exits[0]
    heads = [f"{head}:exit_layer={n},name={head}-exit{n}" for n in exits for head in ("linear", "mlp", "attention")]
    return (
        *heads,
        f"gated-mlp:exit_layer={place}", f"twig:exit_layer={place}", f"eagle:exit_layer={place}",
        f"block:exit_layer={place}",
        f"attention:exit_layer={place},cosine=0,name=attention-no-cosine",
        f"attention:exit_layer={place},kd=0,name=attention-no-kd",
        f"attention:exit_layer={place},ce=0,name=attention-no-ce",
        f"attention:exit_layer={place},acceptance=1,kd=0,ce=0,cosine=0,name=attention-acceptance-only",
        f"attention:exit_layer={place},refine=0,name=attention-no-refinement",
    )  # fmt: skip


def parse_losses(text: str) -> dict[str, float]:
    """ "kd=1,ce=0.5" -> loss -> weight. UsageError, with the names of the losses, for what is not of this form."""
    weights = {}
    for part in text.split(","):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if key not in LOSSES or not equals:
            raise UsageError(
                f"--loss has '{part}'; it must be NAME=WEIGHT of {', '.join(LOSSES)}, as in kd=1,ce=0.5"
                f"{did_you_mean(key, LOSSES)}"
            )
        weights[key] = _number(text, key, value)
    return weights


def _number(recipe: str, key: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e6:
        raise UsageError(f"{key} in '{recipe}' is '{text}'; it must be a number of at least 0")
    return value


def _whole(recipe: str, key: str, text: str, low: int, high: int = 10**6) -> int:
    if not text.isdecimal() or not low <= int(text) <= high:
        raise UsageError(f"{key} in '{recipe}' is '{text}'; it must be a whole number, {low} .. {high}")
    return int(text)
