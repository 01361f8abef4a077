"""Prints a study: shares of agreement, the matrix, predicted speed-ups, and a run beside them."""

from collections.abc import Sequence

from rich.console import Console

from fastvlm_bench.agreement.against import Against
from fastvlm_bench.agreement.rates import KIND, LENGTH, OVERALL, POSITION, order_of
from fastvlm_bench.agreement.sources import Source
from fastvlm_bench.agreement.speedups import Hierarchy, best_of
from fastvlm_bench.agreement.study import Study
from fastvlm_bench.analysis.statistics import Estimate
from fastvlm_bench.report.layout import NOTHING, Cells, draw, say
from fastvlm_bench.report.numbers import milliseconds, number
from fastvlm_bench.sweeping.grid import RAW, cell_method

FEW_RAW = 6
"""Most raw exits that are printed without --details; every trained head is."""
TOP = 5
TITLES = {
    POSITION: "by the token's place in the answer, %", KIND: "by kind of token, %",
    LENGTH: "by length of the answer in tokens, %",
}  # fmt: skip


def print_study(console: Console, found: Study, *, details: bool = False) -> None:
    """Every table. details: with every raw exit, not a few of them."""
    shown = found.sources if details else thinned(found.sources)
    say(console, headline(found), "bold")
    for line in (READING, *doubts(found)):
        say(console, line, "dim")
    for by in (POSITION, KIND, LENGTH):
        say(console, f"\nAgreement with the target {TITLES[by]}", "bold")
        _rates(console, found, shown, by)
    say(console, "\nAgreement of each exit with each deeper one, %", "bold")
    _matrix(console, found, shown)
    if len(shown) < len(found.sources):
        say(console, f"{len(shown)} of {len(found.sources)} exits are shown; --details, --csv and --picture have all",
            "dim")  # fmt: skip
    say(console, f"\nPredicted decode speed-up, each exit's best cell (a standard pass takes "
                 f"{milliseconds(found.standard_s)} ms)", "bold")  # fmt: skip
    _promises(console, found, shown)
    if found.hierarchies:
        _hierarchies(console, found)
    if found.against is not None:
        _against(console, found.against)


READING = ("Read off: of the tokens after the first of the target's own greedy answers, the share that an exit guesses "
           "right, given the target's text before it.")  # fmt: skip


def headline(found: Study) -> str:
    """What was read: "acceptance of tiny on describe · ..."."""
    threads = f" · {found.threads} thread{'s' if found.threads != 1 else ''}" if found.device == "cpu" else ""
    return (f"acceptance of {found.model} on {found.suite} · split {found.split} · {found.texts} answers, "
            f"{found.images} images, {found.tokens} tokens · {found.dtype} · {found.device}{threads}")  # fmt: skip


def doubts(found: Study) -> list[str]:
    """What limits the numbers, a sentence each."""
    told = []
    if found.answers > found.texts:
        told.append(
            f"Answers of one token are left out, {found.answers - found.texts} of {found.answers}: nothing is drafted."
        )
    if found.forced < 1:
        told.append(f"The teacher-forced pass chooses the answer's own token at {found.forced:.2%} of the places: "
                    "rounding differs with the length of a pass.".replace("%", " %"))  # fmt: skip
    return told


def thinned(sources: Sequence[Source]) -> list[Source]:
    """Every trained head, and a few raw exits: the first, the last and some between them."""
    raw = [source for source in sources if source.head == RAW]
    count = min(FEW_RAW, len(raw))
    kept = {raw[round(i * (len(raw) - 1) / max(count - 1, 1))] for i in range(count)}
    return [source for source in sources if source.head != RAW or source in kept]


def percent(estimate: Estimate | None, interval: bool = False) -> str:
    """A share as per cent, "92.1", or with its interval, "92.1 [90.0, 93.9]"."""
    if estimate is None:
        return NOTHING
    told = f"{estimate.value * 100:.1f}"
    if interval and estimate.low is not None and estimate.high is not None:
        told += f" [{estimate.low * 100:.1f}, {estimate.high * 100:.1f}]"
    return told


def _names(sources: Sequence[Source]) -> Cells:
    return Cells("exit", tuple(source.name for source in sources), "left")


def _short(source: Source) -> str:
    """For narrow places: "2 mlp"."""
    return f"{source.exit_layer} {source.head}"


def _rates(console: Console, found: Study, shown: Sequence[Source], by: str) -> None:
    """A table of one kind of groups. The first one begins with the share over all tokens and its interval."""
    own = {(rate.source, rate.by, rate.group): rate for rate in found.rates}
    columns = []
    if by == POSITION:
        every = tuple(percent(own[source, OVERALL, OVERALL].share, True) for source in shown)
        columns.append(Cells(f"all tokens [95 %]\nn = {found.tokens}", every))
    for group in sorted({rate.group for rate in found.rates if rate.by == by}, key=lambda name: order_of(by, name)):
        cells = tuple(percent(own[source, by, group].share) for source in shown)
        columns.append(Cells(f"{group}\nn = {own[shown[0], by, group].tokens}", cells))
    draw(console, _names(shown), columns)


def _matrix(console: Console, found: Study, shown: Sequence[Source]) -> None:
    table = found.matrix
    columns = []
    for deeper in shown[1:]:
        cells = tuple(
            f"{table.between(source, deeper) * 100:.0f}" if source.exit_layer < deeper.exit_layer else ""
            for source in shown
        )
        columns.append(Cells(_short(deeper).replace(" ", "\n"), cells))
    columns.append(Cells("target\n", tuple(f"{table.with_target(source) * 100:.0f}" for source in shown)))
    draw(console, _names(shown), columns)


def _promises(console: Console, found: Study, shown: Sequence[Source]) -> None:
    best = {cell.source: cell for cell in best_of(found.promises)}
    own = [best[source] for source in shown]
    top = max(best.values(), key=lambda cell: cell.speedup)
    costs = [found.prices.of(source) for source in shown]
    draw(console, _names(shown), [
        Cells("predicted\n× ↑", tuple(number(cell.speedup) + (" *" if cell == top else "  ") for cell in own)),
        Cells("γ\n", tuple(str(cell.gamma) for cell in own)),
        Cells("stop\nbelow", tuple(f"{cell.stop_below:g}" if cell.stop_below else "never" for cell in own)),
        Cells("α ↑\n", tuple(number(cell.alpha) for cell in own)),
        Cells("τ ↑\ntok/round", tuple(number(cell.tau) for cell in own)),
        Cells("draft pass\n/ standard", tuple(number(cost.draft_s / cost.standard_s) for cost in costs)),
        Cells("verification\n/ standard", tuple(number(cost.verification(cell.gamma + 1) / cost.standard_s)
                                                for cost, cell in zip(costs, own, strict=True))),
    ])  # fmt: skip
    if top.speedup > 1:
        name = f"{top.source.name} γ{top.gamma} stop {top.stop_below:g}"
        say(console, f"* of all {len(found.promises)} cells, {name} is predicted the fastest: "
                     f"{top.speedup:.2f}×. Measure it: {copy_line(top.source, top.gamma, top.stop_below)}")  # fmt: skip
    else:
        say(console, f"* Nothing is predicted to beat standard decoding: the best of {len(found.promises)} cells "
                     f"reaches {top.speedup:.2f}×.")  # fmt: skip


def copy_line(source: Source, gamma: int, stop_below: float) -> str:
    """What to type after `run` to measure a cell."""
    return f"-m {cell_method(source.head, source.exit_layer, gamma, stop_below)}"


def _hierarchies(console: Console, found: Study) -> None:
    say(console, "\nPredicted hierarchies: the lowest exit drafts, each one above checks, then the target", "bold")
    own = found.hierarchies[:TOP]
    draw(console, Cells("exits", tuple(one.name for one in own), "left"), [
        Cells("predicted\n× ↑", tuple(number(one.speedup) for one in own)),
        Cells("/ best\nsingle", tuple(number(one.speedup / one.single) for one in own)),
        Cells("each\n", tuple("+".join(map(str, one.each)) for one in own)),
        Cells("γ\n", tuple(str(one.gamma) for one in own)),
        Cells("% = next\nexit", tuple(" ".join(agreements(found, one)) for one in own)),
        Cells("% last\n= target", tuple(f"{found.matrix.with_target(one.levels[-1]) * 100:.0f}" for one in own)),
    ])  # fmt: skip
    fastest = own[0]
    lost = "" if fastest.speedup > fastest.single else ": no hierarchy is predicted to be worth it"
    say(console, f"The {len(own)} fastest of {len(found.hierarchies)}, with independent tokens (arXiv 2510.19705); by "
                 f"the same formula the best single exit reaches {fastest.single:.2f}×{lost}. Measure the first: "
                 f"{hierarchy_line(fastest)}", "dim")  # fmt: skip


def agreements(found: Study, one: Hierarchy) -> list[str]:
    """How often each exit of a hierarchy agrees with the next, %."""
    pairs = zip(one.levels, one.levels[1:], strict=False)
    return [f"{found.matrix.between(lower, upper) * 100:.0f}" for lower, upper in pairs]


def hierarchy_line(one: Hierarchy) -> str:
    """What to type after `run` to measure a hierarchy."""
    parts = ("levels", [level.exit_layer for level in one.levels]), ("each", one.each), ("head", [
        level.head for level in one.levels])  # fmt: skip
    told = ",".join(f"{name}={'+'.join(map(str, values))}" for name, values in parts)
    return f"-m hierarchical:{told},gamma={one.gamma},stop_below=0"


def _against(console: Console, against: Against) -> None:
    say(console, f"\nBeside what {against.run_id} measured, on the same {against.samples} samples", "bold")
    own = against.compared
    if own:
        draw(console, Cells("method", tuple(one.method for one in own), "left"), [
            Cells("predicted\n×", tuple(number(one.speedup_predicted) for one in own)),
            Cells("measured\n×", tuple(number(one.speedup_measured) for one in own)),
            Cells("error\n%", tuple(f"{one.error * 100:+.1f}" for one in own)),
            Cells("α pre-\ndicted", tuple(number(one.alpha_predicted) for one in own)),
            Cells("α mea-\nsured", tuple(number(one.alpha_measured) for one in own)),
            Cells("pass\ncosts", tuple("the run's" if one.own_costs else "here" for one in own)),
        ])  # fmt: skip
    say(console, against.sentence)
    if against.skipped:
        say(console, f"Left out, since their exits were not read: {', '.join(against.skipped)}", "dim")
