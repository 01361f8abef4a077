"""What to do about drafts that are never used, that guess, or that do not pay: with options that the method has.

One cause gets one warning. An option is named only if the method has it, and can still go the way that is advised.
"""

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from fastvlm_bench.analysis.arms import Arm
from fastvlm_bench.analysis.differing import some
from fastvlm_bench.analysis.notices import Notice
from fastvlm_bench.analysis.speedup import SLOWER, Speedup
from fastvlm_bench.analysis.summary import Row
from fastvlm_bench.method_spec import METHODS

LOW_ALPHA, WASTEFUL_ALPHA = 0.05, 0.5
ENOUGH_TESTED = 300
"""From so many tested drafts on, an α of exactly 1 says with 95 % that the true one is above 0.99 (rule of three)."""
LOOP = "its passes alone are faster, so the loop around the model loses it, or the machine changed"
WASTED = "most drafting is wasted"
UNPAID = "drafting and verifying cost more than they save"
SHORT = "the answers are too short for drafts to pay"
NO_DRAFTS = "it drafts nothing, so only its own loop can be the cause; no option helps"
WAYS = {
    "gamma": ("a smaller", "a larger"), "exit_layer": ("a lower", "a higher"), "skip": ("a smaller", "a larger"),
    "model": ("a smaller", "a larger"), "stop_below": ("a lower", "a higher"),
}  # fmt: skip
"""Option -> how less and more of it are called."""


def draft_notices(row: Row, arm: Arm, where: str, layers: int | None, short: bool) -> Iterable[Notice]:
    """A warning where drafts are never used, hardly ever right, or always. where: the suite and method, in words.

    layers: of the target, if known. short: the answers of this suite leave no room for drafts, as another warning says.
    """
    own = row.acceptance
    if not row.settings.compared:  # it drafts with the target itself, so α = 1 is what one expects
        return
    if not row.settings.drafts or not own.rounds:
        return
    name = "UntrainedDraft" if arm.method.get("draft") else "UselessDrafts"
    if not own.drafted_per_round:
        if not short:
            said = "the draft was never used" if arm.method.get("draft") else "it drafted nothing"
            yield Notice(name, f"{where}: {said}{_try([*_less(arm, 'stop_below'), *better_drafts(arm, layers)])}")
    elif own.alpha == 1.0:
        if arm.rounds.tested >= ENOUGH_TESTED:
            yield Notice("AllAccepted", f"{where}: all of {arm.rounds.tested} tested drafts were accepted: the draft "
                         f"equals its target, or a count is wrong{_try(cheaper_drafts(arm))}")  # fmt: skip
    elif own.alpha is not None and own.alpha < LOW_ALPHA:
        yield Notice(name, f"{where}: α is {own.alpha:.3f}, the draft guesses{_guessing(arm, layers)}")


def _try(ways: Sequence[str]) -> str:
    """What to try, as the end of a sentence; "" where the method has nothing that would help."""
    return f"; try {', or '.join(ways)}" if ways else ""


def _guessing(arm: Arm, layers: int | None) -> str:
    """What to do about a draft that guesses. A head of somebody else's may count the target's states otherwise."""
    draft = arm.method.get("draft") or {}
    if "kind" not in draft:
        return _try(better_drafts(arm, layers))
    ids = [int(number) for number in str(draft.get("states") or "").split("-") if number]
    near = ["aux=" + "-".join(str(i + by) for i in ids) for by in (-1, 1) if ids and min(ids) + by >= 0]
    near = near if _has(arm, "aux") else []
    otherwise = f", or may count its states otherwise: try {' or '.join(near)}" if near else ""
    return f"; the head may be another target's{otherwise}"


# ------------------------------------------------------------------------------------------ the options of a method


def _has(arm: Arm, key: str) -> bool:
    """Whether the method has an option. Of a method whose file is not here, its record says so."""
    kind = METHODS.get(arm.method["name"])
    return key in (kind.options if kind is not None else arm.method.get("options") or {})


def _less(arm: Arm, key: str) -> list[str]:
    """["a lower KEY="] if the method has this option and its value is not the least already; else []."""
    return [f"{WAYS[key][0]} {key}="] if _has(arm, key) and not _at_end(arm, key, 0, None) else []


def _more(arm: Arm, key: str, most: float | None = None) -> list[str]:
    """["a higher KEY="] likewise. most: the largest value there is, where the option itself does not know it."""
    return [f"{WAYS[key][1]} {key}="] if _has(arm, key) and not _at_end(arm, key, 1, most) else []


def _at_end(arm: Arm, key: str, up: int, most: float | None) -> bool:
    value: Any = (arm.method.get("options") or {}).get(key, (arm.method.get("draft") or {}).get(key))
    if not isinstance(value, int | float):
        return False
    kind = METHODS.get(arm.method["name"])
    option = kind.options[key] if kind is not None else None
    if up:
        return most is not None and value >= most
    return value <= (1 if option is None else option.low)


def cheaper_drafts(arm: Arm) -> list[str]:
    """What makes a method's drafts cheaper."""
    found = [*_less(arm, "exit_layer"), *_more(arm, "skip"), *_less(arm, "model")]
    return found or _another(arm)


def better_drafts(arm: Arm, layers: int | None) -> list[str]:
    """What makes a method's drafts better. layers: of the target, if known."""
    most = None if layers is None else layers - 1
    found = [*_more(arm, "exit_layer", most), *_less(arm, "skip"), *_more(arm, "model")] or _another(arm)
    kind = METHODS.get(arm.method["name"])
    return ["training it for this target", *found] if kind is not None and kind.trained else found


def _another(arm: Arm) -> list[str]:
    kind = METHODS.get(arm.method["name"])
    if kind is not None and kind.skips:
        return ["another set, by skip-search"]
    return ["another draft="] if _has(arm, "draft") else []


# ------------------------------------------------------------------------------------------ slower than the reference


@dataclass(frozen=True)
class Slow:
    """Why a row is slower than its reference, and what to try: () where no option of the method helps."""

    cause: str
    ways: tuple[str, ...]


def slowness(row: Row, arm: Arm, short: bool) -> Slow:
    """The cause of a row's slowness. short: the answers of its suite are, by another warning."""
    own, alpha = row.acceptance, row.acceptance.alpha
    passes_s = (own.drafted_per_round or 0.0) * (row.costs.draft_s_per_token or 0.0) + (
        row.costs.verify_s_per_round or 0
    )
    if alpha is not None and (own.tau or 0.0) * (row.costs.standard_s_per_token or 0.0) > passes_s:
        ways = ["a larger model", *(["--device cuda"] if row.settings.device == "cpu" else [])]
        return Slow(LOOP, tuple(ways))
    if short and row.settings.drafts:
        return Slow(SHORT, ())
    if alpha is None:
        return Slow(NO_DRAFTS, ())
    if alpha < WASTEFUL_ALPHA:
        return Slow(WASTED, (*_less(arm, "gamma"), *better_drafts(arm, None)[:1]))
    return Slow(UNPAID, (*_less(arm, "exit_layer"), *_less(arm, "gamma")) or tuple(cheaper_drafts(arm)))


def slower(speedup: Speedup) -> str:
    """What is slower than the reference, and how much: "decoding is 0.85x"; "" where nothing is."""
    judged = (("decoding", speedup.decode_speedup_geomean, speedup.decode_speedup_verdict),
              ("end to end", speedup.e2e_speedup_geomean, speedup.e2e_speedup_verdict))  # fmt: skip
    found = (f"{phase} is {estimate.value:.2f}x" for phase, estimate, verdict in judged
             if estimate is not None and verdict == SLOWER)  # fmt: skip
    return next(found, "")


def slower_notices(
    rows: Sequence[tuple[Row, Arm]], told: Container[tuple[str, str]], short: Container[str]
) -> Iterable[Notice]:
    """The methods that are slower than the reference: one warning for each suite, cause and remedy.

    told: suite and method of rows of which another warning says what is wrong. short: the suites of short answers.
    """
    found: dict[tuple[str, Slow], list[Row]] = {}
    for row, arm in rows:
        if row.settings.compared and (row.suite, row.method) not in told and slower(row.speedup):
            found.setdefault((row.suite, slowness(row, arm, row.suite in short)), []).append(row)
    for (suite, why), own in found.items():
        each = [slower(row.speedup) + (f", α is {row.acceptance.alpha:.2f}" if why.cause == WASTED else "")
                for row in own]  # fmt: skip
        if len(own) == 1:
            said = f"{suite}, {own[0].method}: {each[0].replace('x', f'x as fast as {own[0].reference}', 1)}"
        else:
            named = some([f"{row.method} ({text})" for row, text in zip(own, each, strict=True)])
            said = f"{suite}: {len(own)} methods are slower than {own[0].reference}: {named}"
        yield Notice("SlowerThanReference", f"{said}; {why.cause}{_try(why.ways)}")
