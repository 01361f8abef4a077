"""The report of a run on one screen: one table a suite, the best lossless method, warnings, verdict, where the rest is.

The whole report is `terminal.print_report`.
"""

import textwrap
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from fastvlm_bench import metrics
from fastvlm_bench.analysis.best_cell import BestCell, best_cells, is_sweep
from fastvlm_bench.analysis.generation import unusual_generation
from fastvlm_bench.analysis.notices import Notice
from fastvlm_bench.analysis.quality import Quality
from fastvlm_bench.analysis.statistics import Estimate
from fastvlm_bench.analysis.summary import Row, summarise
from fastvlm_bench.analysis.verdict import Verdict, greedy, judge
from fastvlm_bench.records.record import Run
from fastvlm_bench.report.layout import NOTHING, Cells, draw_tight, say, tight_width
from fastvlm_bench.report.numbers import mebibytes, milliseconds, number, ratio
from fastvlm_bench.report.sentences import best
from fastvlm_bench.report.sweep import copy_line, fewer, predicted_out, print_grids, sentences
from fastvlm_bench.report.terminal import failed_cell, headline, quality_cell, suite_headline
from fastvlm_bench.visible import visible

if TYPE_CHECKING:
    from rich.console import Console

DROPPED = ("memory", "τ", "α", "TPOT", "TTFT", "quality", "requests", "same", "end-to-end")
"""The columns that are left out where the terminal is too narrow, the first one first.

Before them, the difference of quality loses its interval. With usual labels all others fit 120 columns; 100 have no
room for memory and τ, and 80 none for α, TPOT and TTFT either.
"""
HEADLINE_METRIC = "cider_d"
"""The metric that is shown where a suite has it; else the first one of the suite."""
LABEL_WIDTH = 21
SHORT = {"head": "{}", "exit_layer": "exit {}", "gamma": "γ{}", "topk": "topk {}", "nodes": "nodes {}",
         "stop_below": "stop {}", "draft": "{}", "model": "{}"}  # fmt: skip
"""How options are written in a short label; of paths only the last part. Others stay key=value."""


def print_screen(
    run: Run, console: "Console | None" = None, rows: Sequence[Row] | None = None, verdict: Verdict | None = None
) -> None:
    """Print what a reader wants first to a rich console (default: standard output)."""
    from rich.console import Console

    console = Console() if console is None else console
    rows = summarise(run) if rows is None else rows
    verdict = judge(run, rows) if verdict is None else verdict
    say(console, headline(run).removeprefix(f"{run.run_id}: "), "bold")  # the folder's name is in the last line
    if line := unusual_generation(run):
        say(console, line, "dim")
    swept = best_cells(run, rows) if is_sweep(run) else []
    for place, suite in enumerate(run.meta["suites"]):
        if place:
            console.print()
        own = [row for row in rows if row.suite == suite["name"]]
        say(console, suite_headline(own[0]))
        if swept:
            _print_swept(console, run, own, swept[place])
            continue
        _draw(console, own)
        console.print()
        if sentence := best(run, own):
            say(console, sentence, "bold")
    processes = max(row.counts.invocations for row in rows)
    single = "each in one process" if run.meta.get("merged") or run.meta.get("ranks") else "one process"
    scope = single if processes == 1 else f"{processes} processes"
    per = "" if greedy(run.meta) else ", per token"
    say(console, f"[ ] 95 % interval of these samples, {scope}{per}; Δ to the reference", "dim")
    for text in [*(predicted_out(run) if swept else left_out(run)), *merged(verdict.warnings)]:
        say(console, text, "yellow")
    if verdict.status == "VALID":
        say(console, "VALID", "bold green")
    else:
        reasons = fewer(verdict.reasons) if swept else verdict.reasons
        say(console, "INVALID: " + "; ".join(reasons), "bold red")
    say(console, "every table: report --details; answers token by token: show", "dim")
    console.print(visible(f"records: {run.folder}"), markup=False, highlight=False, emoji=False, soft_wrap=True)


def _print_swept(console: "Console", run: Run, rows: Sequence[Row], found: BestCell) -> None:
    """Of a sweep: the grid in the place of a line for each method, and the best cell."""
    print_grids(console, found)
    console.print()
    for place, sentence in enumerate(sentences(found)):
        say(console, sentence, "" if place else "bold")
    if line := copy_line(run, found):
        console.print(line, style="bold", markup=False, highlight=False, emoji=False, soft_wrap=True)


# ------------------------------------------------------------------------------------------ the table


def _draw(console: "Console", rows: Sequence[Row]) -> None:
    labels = ("\n  ".join(textwrap.wrap(label, LABEL_WIDTH)) for label in short_labels([row.method for row in rows]))
    label = Cells("method", tuple(labels), "left")
    draw_tight(console, label, list(fitting(label, rows, console.width).values()))


def fitting(label: Cells, rows: Sequence[Row], width: int) -> dict[str, Cells]:
    """The columns that fit beside `label`, by their names in `DROPPED`. Empty ones are left out first."""
    for interval in (True, False):
        columns = {name: column for name, column in _columns(rows, interval).items()
                   if any(cell not in ("", NOTHING) for cell in column.cells)}  # fmt: skip
        if tight_width(label, list(columns.values())) <= width:
            return columns
    for name in DROPPED:
        columns.pop(name, None)
        if tight_width(label, list(columns.values())) <= width:
            break
    return columns


def _columns(rows: Sequence[Row], interval: bool) -> dict[str, Cells]:
    """All columns in their order. interval: the difference of quality has its interval."""
    quality = headline_metric(rows[0].quality)
    kind = "allocated" if any(row.memory.peak_allocated_bytes is not None for row in rows) else "rss"

    def column(header: str, cell: Callable[[Row], str]) -> Cells:
        return Cells(header, tuple(cell(row) for row in rows))

    found = {
        "decode": column("decode ↑\nspeed-up", lambda r: _ratio(r.speedup.decode_speedup_geomean)),
        "end-to-end": column("end-to-end ↑\nspeed-up", lambda r: _ratio(r.speedup.e2e_speedup_geomean)),
        "same": column("same\ntokens", _same),
        "failed": column("failed", lambda r: failed_cell(r.counts)),
    }
    if quality is not None:
        name, _, scale = metrics.kind_of(rows[0].quality[quality].metric).header.partition("\n")
        found["quality"] = column(f"{name}\n{scale} (Δ)".replace("\n ", "\n"),
                                  lambda r: quality_cell(r.quality[quality], r.counts.samples_paired, r.counts.samples,
                                                         interval=interval, identical="="))  # fmt: skip
    return found | {
        "requests": column("req.\n/s ↑", lambda r: number(r.times.requests_per_s, 2)
                           if r.settings.batch_size > 1 else ""),
        "TTFT": column("TTFT\nms ↓", lambda r: milliseconds(r.times.ttft_s.median)),
        "TPOT": column("TPOT\nms ↓", lambda r: milliseconds(r.times.tpot_s.median)),
        "α": column("α ↑\n", lambda r: number(r.acceptance.alpha)),
        "τ": column("τ ↑\n", lambda r: number(r.acceptance.tau) if r.acceptance.alpha is not None else NOTHING),
        "memory": column("tensors peak\nMiB (Δ) ↓" if kind == "allocated" else "RSS peak\nMiB ↓",
                         lambda r: _memory(r, kind)),
    }  # fmt: skip


def headline_metric(quality: Sequence[Quality]) -> int | None:
    """The place of the metric that stands for a suite: CIDEr-D where it is, else the first. None if there is none."""
    names = [each.metric for each in quality]
    return names.index(HEADLINE_METRIC) if HEADLINE_METRIC in names else 0 if names else None


def _ratio(estimate: Estimate | None) -> str:
    """A ratio with its interval, in few characters: "2.44 [2.37–2.51]"."""
    return ratio(estimate).replace("×", "").replace(", ", "–")


def _memory(row: Row, kind: str) -> str:
    """The peak. Only tensors have a difference: methods share a process, whose resident peak is that of all of them."""
    if kind == "rss":
        return mebibytes(row.memory.peak_rss_bytes)
    delta = row.memory.peak_allocated_delta_bytes
    return mebibytes(row.memory.peak_allocated_bytes) + ("" if delta is None else f" ({mebibytes(delta, True)})")


def _same(row: Row) -> str:
    if row.settings.sampled and row.settings.lossless and row.method != row.reference:
        return "sampled"
    identical = row.sameness.identical
    return NOTHING if identical is None else f"{identical}/{row.counts.samples_paired}"


def short_labels(labels: Sequence[str]) -> list[str]:
    """Labels of methods in fewer characters, "fastvlm mlp exit 2 γ4"; as they are where two would look alike."""
    short = [_short(label) for label in labels]
    return [own if short.count(own) == 1 else label for own, label in zip(short, labels, strict=True)]


def _short(label: str) -> str:
    name, _, options = label.partition(":")
    told = [name]
    for option in options.split(",") if options else ():
        key, _, value = option.partition("=")
        told.append(SHORT[key].format(value.rstrip("/").rpartition("/")[2]) if key in SHORT else option)
    return " ".join(told)


# ------------------------------------------------------------------------------------------ sentences


def left_out(run: Run) -> list[str]:
    """One line about the methods that `-m all` stood for and that do not fit; [] if all do."""
    names = [each["label"] for each in run.meta.get("left_out") or ()]
    return [f"left out, as they do not fit: {', '.join(names)}"] if names else []


def merged(notices: Sequence[Notice]) -> list[str]:
    """Each kind of warning once: the first message, and how many there are beside it."""
    kinds: dict[str, list[str]] = {}
    for notice in notices:
        kinds.setdefault(notice.name, []).append(notice.message)
    return [f"{name}: {message}" + (f" (and {len(others)} more)" if others else "")
            for name, (message, *others) in kinds.items()]  # fmt: skip
