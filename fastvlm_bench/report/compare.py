"""Prints a comparison of runs, on a terminal of any width."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from fastvlm_bench import metrics
from fastvlm_bench.analysis.comparison import ComparedRow, Comparison, differing
from fastvlm_bench.analysis.differing import some
from fastvlm_bench.analysis.summary import Row
from fastvlm_bench.analysis.verdict import INVALID
from fastvlm_bench.records.record import Run
from fastvlm_bench.report.labels import differences, labels, letters
from fastvlm_bench.report.layout import NOTHING, Cells, draw, say
from fastvlm_bench.report.numbers import number, ratio
from fastvlm_bench.report.terminal import measured, quality_cell

if TYPE_CHECKING:
    from rich.console import Console


def print_comparison(comparison: Comparison, console: "Console | None" = None) -> None:
    """Print a comparison to a rich console (default: standard output)."""
    from rich.console import Console

    console = Console() if console is None else console
    names = letters(len(comparison.runs))
    runs = zip(names, comparison.runs, _of_runs(comparison), comparison.verdicts, strict=True)
    for name, run, differs, verdict in runs:
        say(console, f"{name} = {run.run_id}" + (f": {differs}" if differs else ""))
        if verdict.status == INVALID:
            say(console, f"{name} is INVALID, do not publish its numbers: {some(verdict.reasons)}", "bold red")
    if comparison.forced:
        say(console, "FORCED: these runs are not comparable. " + "; ".join(comparison.forced), "bold red")
    if comparison.of_suites:
        say(
            console,
            "These runs are of different suites, on the same model, machine and settings: a table for each suite.",
        )
    for sentence in comparison.left_out:
        say(console, f"left out: {sentence}", "dim")
    for suite in dict.fromkeys(row.row.suite for row in comparison.rows):
        own = [row for row in comparison.rows if row.row.suite == suite]
        settings = own[0].row.settings
        console.print()
        say(console, f"{suite} {settings.suite_version} · split {settings.split} · n = {measured([r.row for r in own])}"
            + (" · FORCED" if comparison.forced else ""), "bold")  # fmt: skip
        told = labels([r.row for r in own], of_run=False)
        methods = Cells(
            "run: method", tuple(f"{names[r.run]}: {m}{_mark(r.row)}" for r, m in zip(own, told, strict=True)), "left"
        )
        draw(console, methods, _columns(own))
    console.print()
    if any(row.against for row in comparison.rows):
        say(console, "vs A: seconds of the same method in A / seconds here, geometric mean over the same samples, "
            "95 % interval; it includes what changed in the machine between the runs", "dim")  # fmt: skip
    for note in comparison.notes:
        say(console, f"note: {note}", "yellow")


def _mark(row: Row) -> str:
    return f" ({INVALID})" if row.status == INVALID else ""


def _of_runs(comparison: Comparison) -> list[str]:
    """For each run what differs between the runs as a whole: dtype, device, commit, when it began."""
    firsts = [next((r.row for r in comparison.rows if r.run == index), None) for index in range(len(comparison.runs))]
    known = [row for row in firsts if row is not None]
    told = iter(differences(known, of_method=False))
    return ["" if row is None else next(told) for row in firsts]


def _columns(rows: Sequence[ComparedRow]) -> list[Cells]:
    def column(header: str, cell: Callable[[ComparedRow], str]) -> Cells:
        return Cells(header, tuple(cell(row) for row in rows))

    def metric(index: int) -> Callable[[ComparedRow], str]:
        def cell(r: ComparedRow) -> str:
            if index >= len(r.quality):
                return NOTHING
            return quality_cell(r.quality[index], r.compared, r.row.counts.samples)

        return cell

    paired = any(row.against for row in rows)
    own = [
        column("decode ×\nin its run ↑", lambda r: ratio(r.row.speedup.decode_speedup_geomean)),
        *([] if paired else [column("end-to-end ×\nin its run ↑", lambda r: ratio(r.row.speedup.e2e_speedup_geomean))]),
        column("decode ×\nvs A ↑", lambda r: ratio(r.decode)),
        column("end-to-end ×\nvs A ↑", lambda r: ratio(r.e2e)),
        column("tokens\nas A", lambda r: NOTHING if r.identical is None else f"{r.identical}/{r.compared}"),
        column("α ↑\n", lambda r: number(r.row.acceptance.alpha)),
        column("τ ↑\n", lambda r: number(r.row.acceptance.tau)),
    ]
    for index, quality in enumerate(rows[0].quality):
        own.append(
            column(
                f"{metrics.kind_of(quality.metric).header}{' (Δ A)' if paired else ''}",
                metric(index),
            )
        )
    return own


def obstacles(runs: Sequence[Run]) -> tuple[str, ...]:
    """What forbids or hampers to compare these runs, a sentence each; () for a single run."""
    if len(runs) < 2:
        return ()
    forbidden, notes = differing(runs, of_suites=True)
    return (*(f"Not comparable: {text}" for text in forbidden), *notes)
