"""Whether the seconds of a method depend on its place in the turn, or on the method that ran before it.

The contrast is taken within samples, after everything that is expected to differ: how long a sample takes, how long a
method takes, and how many rounds and drafts an answer needed. docs/measuring.md gives the formulas.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from statistics import fmean, median, stdev
from typing import Any

from fastvlm_bench.analysis.arms import Arm
from fastvlm_bench.analysis.batches import batch_of, whole
from fastvlm_bench.analysis.drift import OUTLIER_Z, modified_z
from fastvlm_bench.analysis.statistics import t_tail, welch_p

FEWEST_GROUPS, FEWEST_OF_A_KIND = 20, 5
ORDER_P = 0.05
MOST_GROUPS = 10_000
"""Of more samples, or batches, an even selection is looked at: more would find effects that matter to nobody."""

Key = tuple[Any, int]
"""(sample id or number of the batch, repeat): a group of lines, one observation of each method."""


@dataclass(frozen=True)
class Turn:
    """One group: the methods in the order in which they ran, and for each the log of its seconds / expected seconds."""

    order: tuple[str, ...]
    logs: Mapping[str, float]


@dataclass(frozen=True)
class OrderEffect:
    """The contrast with the smallest p. what: which lines it is about, as "at place 1". shift: 0.03 is 3 % slower.

    p: of the t test, times the number of contrasts (Bonferroni).
    """

    what: str
    shift: float
    p: float


def order_effect(own: Sequence[Arm]) -> OrderEffect | None:
    """The strongest effect of order within one suite, whatever its p. None with too few samples to say.

    own: the arms of one suite.
    """
    return strongest(turns(own))


def turns(own: Sequence[Arm]) -> list[Turn]:
    """The groups of a suite in which no method failed, in the order of measurement."""
    chosen = _selection(own)
    seconds = {arm.method["label"]: known for arm in own if (known := _observations(arm, chosen))}
    keys = [key for key in next(iter(seconds.values()), {}) if all(key in known for known in seconds.values())]
    ttft = _additive(
        {name: {key: math.log(known[key].ttft_s) for key in keys} for name, known in seconds.items()}
    )  # fmt: skip
    costs = {name: _cost_model([known[key] for key in keys]) for name, known in seconds.items()}
    found = []
    for key in keys:
        of_group = {name: known[key] for name, known in seconds.items()}
        logs = {name: math.log((one.ttft_s + one.decode_s) / (math.exp(ttft[name][key]) + costs[name](one)))
                for name, one in of_group.items()}  # fmt: skip
        found.append(Turn(tuple(name for _, name in sorted((one.order, name) for name, one in of_group.items())), logs))
    return found


def strongest(groups: Sequence[Turn]) -> OrderEffect | None:
    """The contrast with the smallest p: of a place, of what follows a method, or of one method after another."""
    names = groups[0].order if groups else ()
    if len(groups) < FEWEST_GROUPS or len(names) < 2:
        return None
    logs = [turn.logs for turn in groups]
    plain, clipped = _residuals(logs, fmean), _residuals(_clipped(logs), fmean)
    scale = len(names) / (len(names) - 1)  # a shift of one line also moves the mean of its group
    found: list[OrderEffect] = []
    for what, lines in _contrasts(groups):
        ours = [clipped[g][name] for g, name in lines]
        mean = fmean(plain[g][name] for g, name in lines)
        (only, *others) = {name for _, name in lines}
        if others or len(names) == 2:  # residuals add up to 0 in each group, so they are tested against 0
            p: float | None = _one_sample_p(ours)
        else:  # of a single method: against its other groups
            in_it = {g for g, _ in lines}
            rest = [g for g in range(len(groups)) if g not in in_it]
            p = welch_p(ours, [clipped[g][only] for g in rest]) if len(rest) >= FEWEST_OF_A_KIND else None
            mean -= fmean(plain[g][only] for g in rest) if rest else 0.0
        if p is not None:
            found.append(OrderEffect(what, math.expm1(scale * mean), p))
    if not found:
        return None
    best = min(found, key=lambda effect: effect.p)
    return OrderEffect(best.what, best.shift, min(1.0, best.p * len(found)))


def _contrasts(groups: Sequence[Turn]) -> list[tuple[str, list[tuple[int, str]]]]:
    """(what, its lines as (group, method)) for each contrast with enough lines. With two methods all are one."""
    names, lines = groups[0].order, dict[str, list[tuple[int, str]]]()
    for place in range(len(names) if len(names) > 2 else 1):
        lines[f"at place {place + 1} of {len(names)}"] = [(g, turn.order[place]) for g, turn in enumerate(groups)]
    if len(names) > 2:
        for g, turn in enumerate(groups):
            for before, after in zip(turn.order, turn.order[1:], strict=False):
                lines.setdefault(f"right after {before}", []).append((g, after))
                lines.setdefault(f"of {after} right after {before}", []).append((g, after))
    return [(what, own) for what, own in lines.items() if len(own) >= FEWEST_OF_A_KIND]


def _residuals(
    logs: Sequence[Mapping[str, float]], centre: Callable[[Iterable[float]], float]
) -> list[dict[str, float]]:
    """The logs less the centre of their group, then less the centre of their method."""
    within = []
    for group in logs:
        middle = centre(group.values())
        within.append({name: log - middle for name, log in group.items()})
    middles = {name: centre(group[name] for group in within) for name in within[0]}
    return [{name: log - middles[name] for name, log in group.items()} for group in within]


def _clipped(logs: Sequence[Mapping[str, float]]) -> list[dict[str, float]]:
    """The logs, of which none lies further from what is expected than the limit of outliers.

    Otherwise a single hiccup would decide, also over the other lines of its group, from whose mean they are taken.
    Medians say what is expected.
    """
    rough = _residuals(logs, median)
    scores = {name: modified_z([group[name] for group in rough]) for name in rough[0]}
    return [
        {name: log - rough[g][name] * max(0.0, 1 - OUTLIER_Z / abs(scores[name][g])) if scores[name][g] else log
         for name, log in group.items()}
        for g, group in enumerate(logs)
    ]  # fmt: skip


def _one_sample_p(values: Sequence[float]) -> float:
    """Two-sided p of the t test of mean 0."""
    mean, spread = fmean(values), stdev(values)
    if spread <= 1e-12:  # rounding of equal values
        return 1.0 if abs(mean) <= 1e-9 else 0.0
    return t_tail(mean / spread * math.sqrt(len(values)), len(values) - 1)


# ------------------------------------------------------------------------------------------ what is expected


@dataclass(frozen=True)
class _Observation:
    """A method on one sample or batch. rounds, drafted: passes that verify and that draft; of a batch, of all rows."""

    order: int
    ttft_s: float
    decode_s: float
    rounds: int
    drafted: int


def _unit(line: Mapping[str, Any]) -> Any:
    """What is observed: a sample by its id, or a batch by its number."""
    number = batch_of(line)
    return line["sample_id"] if number is None else number


def _selection(own: Sequence[Arm]) -> set[Any] | None:
    """The units to look at; None for all."""
    units = [
        unit for arm in own[:1] for unit in (arm.measured if arm.single else dict.fromkeys(map(_unit, arm.lines())))
    ]
    if len(units) <= MOST_GROUPS:
        return None
    return {units[place * len(units) // MOST_GROUPS] for place in range(MOST_GROUPS)}


def _observations(arm: Arm, chosen: set[Any] | None = None) -> dict[Key, _Observation]:
    rows: dict[Key, list[Mapping[str, Any]]] = {}
    lines_of = arm.lines()
    if arm.single and chosen is not None:  # the others need not be looked at, of a data set nearly all
        lines_of = chain.from_iterable(arm.measured[unit].lines for unit in arm.measured if unit in chosen)
    for line in lines_of:
        unit = _unit(line)
        if chosen is None or unit in chosen:
            rows.setdefault((unit, line["repeat"]), []).append(line)
    found = {}
    for key, lines in rows.items():
        lines.sort(key=lambda line: line["batch"]["row"] if "batch" in line else 0)
        first = whole(lines)
        if "batch" in first and len(lines) < first["batch"]["size"]:  # a row is missing: its rounds are unknown
            continue
        count = max(len(line["rounds"]) for line in lines)
        drafted = sum(max(line["rounds"][i][0] for line in lines if i < len(line["rounds"])) for i in range(count))
        if first["ttft_s"] > 0:
            found[key] = _Observation(first["order"], first["ttft_s"], first["decode_s"], count, drafted)
    return found


def _additive(logs: Mapping[str, Mapping[Key, float]]) -> dict[str, dict[Key, float]]:
    """What each method's log is on each group if only the group and the method mattered."""
    keys = list(next(iter(logs.values()), {}))
    if not keys:
        return {name: {} for name in logs}
    of_group = {key: fmean(known[key] for known in logs.values()) for key in keys}
    whole_mean = fmean(of_group.values())
    own = {name: fmean(known.values()) for name, known in logs.items()}
    return {name: {key: of_group[key] + own[name] - whole_mean for key in keys} for name in logs}


def _cost_model(observed: Sequence[_Observation]) -> Callable[[_Observation], float]:
    """Expected decode seconds from counts: a · rounds + b · drafted, fitted to relative errors by least squares."""
    known = [(one.rounds / one.decode_s, one.drafted / one.decode_s) for one in observed
             if one.decode_s > 0 and one.rounds]  # fmt: skip
    xx, xy, yy = (sum(row[i] * row[j] for row in known) for i, j in ((0, 0), (0, 1), (1, 1)))
    x, y = (sum(row[i] for row in known) for i in (0, 1))
    determinant = xx * yy - xy * xy
    a, b = ((x * yy - y * xy) / determinant, (y * xx - x * xy) / determinant) if determinant > 1e-9 * xx * yy else (
        x / xx if xx else 0.0, 0.0)  # fmt: skip
    alone = x / xx if xx else 0.0

    def expect(one: _Observation) -> float:
        if not one.rounds:
            return one.decode_s  # an answer of one token: nothing is decoded
        told = a * one.rounds + b * one.drafted
        return told if told > 0 else alone * one.rounds

    return expect
