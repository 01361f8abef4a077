"""The table of a suite's methods over batch sizes, from one run per size: it shows where speculation's gain ends."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING

from fastvlm_bench.analysis.batch_sizes import SizeRow, find_runs, size_rows
from fastvlm_bench.analysis.statistics import Estimate
from fastvlm_bench.errors import UsageError, did_you_mean
from fastvlm_bench.report.csv_text import to_csv
from fastvlm_bench.report.export import deliver
from fastvlm_bench.report.layout import NOTHING, Cells, draw, say
from fastvlm_bench.report.numbers import mebibytes, milliseconds, number, ratio

if TYPE_CHECKING:
    from rich.console import Console


def sizes_csv(rows: Sequence[SizeRow]) -> str:
    """One line per suite x method x batch size, in full precision; empty means not measured."""
    names = [field.name for field in fields(SizeRow)]
    return to_csv(names, ([getattr(row, name) for name in names] for row in rows))


def sizes_json(rows: Sequence[SizeRow]) -> str:
    """The same rows as a JSON array of objects."""
    return json.dumps([asdict(row) for row in rows], indent=2) + "\n"


def sizes_markdown(rows: Sequence[SizeRow]) -> str:
    """A table for a page: throughput, speed-ups with their intervals, and how long requests wait."""
    header = ("suite", "method", "batch size", "requests/s", "tokens/s", "decode speed-up", "end-to-end speed-up",
              "identical", "α", "τ", "wait, first token (s)", "wait, last token (s)")  # fmt: skip
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    for r in rows:
        mark = "" if r.status == "VALID" else " (INVALID)"
        cells = (r.suite, r.method.replace("_", "\\_") + mark, str(r.batch_size), number(r.requests_per_s),
                 number(r.tokens_per_s, 0), _speedup(r, "decode"), _speedup(r, "e2e"), _same(r), number(r.alpha),
                 _tau(r), number(r.wait_first_s, 3), number(r.wait_last_s, 3))  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


FORMATS = {"csv": sizes_csv, "markdown": sizes_markdown, "json": sizes_json}


def print_table(folders: Sequence[Path], form: str, out: Path | None) -> None:
    """Print the runs of these folders as a table, or write them in one of `FORMATS` to `out` or standard output.

    UsageError for an unknown format, for `out` with a table, and for runs that do not fit together.
    """
    if form not in ("table", *FORMATS):
        known = ("table", *FORMATS)
        raise UsageError(f"unknown format '{form}'{did_you_mean(form, known)}; choose one of: {', '.join(known)}")
    if form == "table" and out is not None:
        raise UsageError("--out is for csv, markdown and json; the table goes to the terminal")
    rows = size_rows(find_runs(folders))
    if form == "table":
        print_sizes(rows)
    else:
        deliver(lambda: FORMATS[form](rows), out)


def print_sizes(rows: Sequence[SizeRow], console: "Console | None" = None) -> None:
    """Print a table per suite on a terminal of any width, and a sentence per method that says where its gain ends."""
    from rich.console import Console

    console = Console() if console is None else console
    for suite in dict.fromkeys(row.suite for row in rows):
        own = [row for row in rows if row.suite == suite]
        console.print()
        threads = {row.threads for row in own}
        note = f" · threads {own[0].threads}" if len(threads) == 1 and own[0].threads else ""
        say(console, f"{suite} over batch sizes · {own[0].model} · n = {own[0].samples_ok}{note}", "bold")
        console.print()
        digits = max(len(str(row.batch_size)) for row in own)  # in the label, the size is in every part of a wide table
        labels = Cells("size, method", tuple(f"{row.batch_size:>{digits}} {row.method}" for row in own), "left")
        draw(console, labels, _columns(own, len(threads) > 1))
        console.print()
        for method in dict.fromkeys(row.method for row in own):
            if sentence := where_it_ends([row for row in own if row.method == method]):
                say(console, sentence)
    console.print()
    say(console, "× reference/method seconds at the same batch size, interval over batches; wait: median until all "
        "rows of a batch have their first token, and their last; 1 is the setting for latency", "dim")  # fmt: skip
    for name in dict.fromkeys(row.run_id for row in rows if row.status != "VALID"):
        say(console, f"INVALID: {name}; fastvlm-bench report says why", "bold red")


def where_it_ends(rows: Sequence[SizeRow]) -> str:
    """One sentence about a method: how its end-to-end gain changes with the size, and from which size on it is gone.

    rows: of one method, by batch size. "" with fewer than two sizes.
    """
    known = [row for row in rows if row.verdict and row.e2e_speedup_geomean is not None]
    if len(known) < 2:
        return ""
    first, last = known[0], known[-1]
    gone = next((i for i in range(len(known)) if all(row.verdict != "FASTER" for row in known[i:])), None)
    trend = (
        f"{first.method}: end to end {_speedup(first, 'e2e')} at batch size {first.batch_size}, "
        f"{_speedup(last, 'e2e')} at {last.batch_size}"
    )
    if gone is None:
        return f"{trend}; still a gain at the largest size measured."
    if gone == 0:
        return f"{trend}; no gain is shown at any size."
    return f"{trend}; no gain is shown from batch size {known[gone].batch_size} on."


def _columns(rows: Sequence[SizeRow], threads: bool) -> list[Cells]:
    def column(header: str, cell: Callable[[SizeRow], str]) -> Cells:
        return Cells(header, tuple(cell(row) for row in rows))

    return [
        column("requests\n/s ↑", lambda r: number(r.requests_per_s)),
        column("tokens\n/s ↑", lambda r: number(r.tokens_per_s, 0)),
        column("decode\nspeed-up ↑", lambda r: _speedup(r, "decode")),
        column("end-to-end\nspeed-up ↑", lambda r: _speedup(r, "e2e")),
        column("same\ntokens", _same),
        column("α ↑\n", lambda r: number(r.alpha)),
        column("τ ↑\n", _tau),
        column("first token\nwait ms ↓", lambda r: milliseconds(r.wait_first_s)),
        column("last token\nwait ms ↓", lambda r: milliseconds(r.wait_last_s)),
        column("peak\nMiB ↓", lambda r: mebibytes(r.peak_bytes)),
        column("failed\nsamples", lambda r: str(r.samples_failed) if r.samples_failed else ""),
        column("threads\n", lambda r: str(r.threads) if threads else ""),
    ]


def _speedup(row: SizeRow, kind: str) -> str:
    value, low, high = (getattr(row, f"{kind}_speedup_geomean{part}") for part in ("", "_low", "_high"))
    return NOTHING if value is None else ratio(Estimate(value, low, high, row.batches))


def _same(row: SizeRow) -> str:
    return NOTHING if row.identical is None else f"{row.identical}/{row.samples_paired}"


def _tau(row: SizeRow) -> str:
    return NOTHING if row.alpha is None else number(row.tau)
