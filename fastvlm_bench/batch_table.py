"""Where speculation's gain ends: a suite's methods over batch sizes, from one run a size. Without torch."""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from fastvlm_bench.arms import Arm, arms
from fastvlm_bench.batches import batch_size, waits
from fastvlm_bench.compare import identity
from fastvlm_bench.csv_text import to_csv
from fastvlm_bench.errors import IncompatibleRuns, UsageError, did_you_mean
from fastvlm_bench.export import save
from fastvlm_bench.layout import NOTHING, Cells, draw, say
from fastvlm_bench.notices import word
from fastvlm_bench.numbers import mebibytes, milliseconds, number, ratio
from fastvlm_bench.record import RUN_FILE, Run, read_run
from fastvlm_bench.statistics import Estimate, middle
from fastvlm_bench.summary import Row, summarise

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class SizeRow:
    """One suite x method x batch size. Speed-ups are against the reference *at the same batch size*.

    requests_per_s, tokens_per_s: samples, and their tokens, over the seconds of all batches, prefill included.
    wait_first_s, wait_last_s: median over batches until every row has its first token, and until all is done.
    batches: observations of the speed-up. status: VALID or INVALID, of the whole run.
    """

    run_id: str
    model: str
    suite: str
    method: str
    batch_size: int
    threads: int | None
    samples_ok: int
    samples_failed: int
    batches: int
    requests_per_s: float | None
    tokens_per_s: float | None
    decode_tokens_per_s: float | None
    decode_speedup_geomean: float | None
    decode_speedup_geomean_low: float | None
    decode_speedup_geomean_high: float | None
    e2e_speedup_geomean: float | None
    e2e_speedup_geomean_low: float | None
    e2e_speedup_geomean_high: float | None
    verdict: str
    identical: int | None
    samples_paired: int
    alpha: float | None
    tau: float | None
    wait_first_s: float | None
    wait_last_s: float | None
    peak_bytes: int | None
    status: str


def find_runs(folders: Sequence[Path]) -> list[Run]:
    """The runs in these folders: run folders, or folders of them. UsageError if there is none."""
    found: list[Path] = []
    for folder in folders:
        inner = sorted(path.parent for path in Path(folder).glob(f"*/{RUN_FILE}"))
        found += inner if inner and not (folder / RUN_FILE).exists() else [folder]
    if not found:
        raise UsageError("name the run folders to put side by side, or a folder that holds them")
    return [read_run(folder) for folder in found]


def size_rows(runs: Sequence[Run]) -> list[SizeRow]:
    """The rows, by suite, method and batch size. IncompatibleRuns if the runs differ in more than their batch size."""
    first = _identity(runs[0])
    for run in runs[1:]:
        other = _identity(run)
        differing = [name for name in first if other.get(name) != first[name]]
        if differing:
            raise IncompatibleRuns(
                f"{runs[0].run_id} and {run.run_id} differ in {', '.join(differing)}; a table over batch sizes needs "
                "runs of the same samples on the same machine"
            )
    sizes = [batch_size(run) for run in runs]
    if twice := sorted({size for size in sizes if sizes.count(size) > 1}):
        raise UsageError(f"several runs have batch size {twice[0]}; name one a size")
    rows = [_size_row(run, row, arm) for run in runs for row, arm in zip(summarise(run), arms(run), strict=True)]
    order = {name: place for place, name in enumerate(dict.fromkeys((row.suite, row.method) for row in rows))}
    return sorted(rows, key=lambda row: (order[row.suite, row.method], row.batch_size))


def _identity(run: Run) -> dict[str, object]:
    return {key: value for key, value in identity(run).items() if key not in ("batch size", "threads")}


def _size_row(run: Run, row: Row, arm: Arm) -> SizeRow:
    seen = waits(arm)
    decode, e2e = _parts(row.decode_speedup_geomean), _parts(row.e2e_speedup_geomean)
    return SizeRow(
        run_id=run.run_id, model=row.model, suite=row.suite, method=row.method, batch_size=row.batch_size,
        threads=row.threads, samples_ok=row.samples_ok, samples_failed=row.samples_failed, batches=len(seen),
        requests_per_s=row.requests_per_s, tokens_per_s=row.e2e_tokens_per_s,
        decode_tokens_per_s=row.decode_tokens_per_s,
        decode_speedup_geomean=decode[0], decode_speedup_geomean_low=decode[1], decode_speedup_geomean_high=decode[2],
        e2e_speedup_geomean=e2e[0], e2e_speedup_geomean_low=e2e[1], e2e_speedup_geomean_high=e2e[2],
        verdict="" if row.method == row.reference else word(row.e2e_speedup_geomean, row.e2e_speedup_holm_p),
        identical=row.identical, samples_paired=row.samples_paired, alpha=row.alpha, tau=row.tau,
        wait_first_s=middle([first for first, _ in seen]), wait_last_s=middle([last for _, last in seen]),
        peak_bytes=row.peak_allocated_bytes or row.peak_rss_bytes,
        status=str((run.meta.get("verdict") or {}).get("status") or run.meta["status"]),
    )  # fmt: skip


def _parts(estimate: Estimate | None) -> tuple[float | None, float | None, float | None]:
    return (None, None, None) if estimate is None else (estimate.value, estimate.low, estimate.high)


def sizes_csv(rows: Sequence[SizeRow]) -> str:
    """One line a suite x method x batch size, in full precision; empty means not measured."""
    names = [field.name for field in fields(SizeRow)]
    return to_csv(names, ([getattr(row, name) for name in names] for row in rows))


def sizes_json(rows: Sequence[SizeRow]) -> str:
    """The same as an array of objects."""
    return json.dumps([asdict(row) for row in rows], indent=2) + "\n"


def sizes_markdown(rows: Sequence[SizeRow]) -> str:
    """The table for a page: throughput, speed-ups with their intervals, and the wait."""
    header = ("suite", "method", "batch size", "requests/s", "tokens/s", "decode speed-up", "end-to-end speed-up",
              "identical", "α", "τ", "wait, first token (s)", "wait, last token (s)")  # fmt: skip
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    for r in rows:
        cells = (r.suite, r.method.replace("_", "\\_"), str(r.batch_size), number(r.requests_per_s),
                 number(r.tokens_per_s, 0), _speedup(r, "decode"), _speedup(r, "e2e"), _same(r), number(r.alpha),
                 _tau(r), number(r.wait_first_s, 3), number(r.wait_last_s, 3))  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


FORMATS = {"csv": sizes_csv, "markdown": sizes_markdown, "json": sizes_json}


def print_table(folders: Sequence[Path], form: str, out: Path | None) -> None:
    """Print the runs of these folders as a table, or write them in one of `FORMATS` to `out` or standard output."""
    if form not in ("table", *FORMATS):
        known = ("table", *FORMATS)
        raise UsageError(f"unknown format '{form}'{did_you_mean(form, known)}; choose one of: {', '.join(known)}")
    if form == "table" and out is not None:
        raise UsageError("--out is for csv, markdown and json; the table goes to the terminal")
    rows = size_rows(find_runs(folders))
    if form == "table":
        print_sizes(rows)
    elif out is None:
        sys.stdout.write(FORMATS[form](rows))
    else:
        save(out, FORMATS[form](rows))


def print_sizes(rows: Sequence[SizeRow], console: "Console | None" = None) -> None:
    """The table of each suite on a terminal of any width, and a sentence a method that says where its gain ends."""
    from rich.console import Console

    console = Console() if console is None else console
    for suite in dict.fromkeys(row.suite for row in rows):
        own = [row for row in rows if row.suite == suite]
        console.print()
        threads = {row.threads for row in own}
        note = f" · threads {own[0].threads}" if len(threads) == 1 and own[0].threads else ""
        say(console, f"{suite} over batch sizes · {own[0].model} · n = {own[0].samples_ok}{note}", "bold")
        console.print()
        digits = max(len(str(row.batch_size)) for row in own)  # the size stands in the label: it is in every part
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
    """One sentence about a method: how its end-to-end gain changes with the size, and from where on it is gone."""
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
