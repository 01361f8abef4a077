"""What the terminal says about a run: tables, one sentence per method, warnings, and VALID or INVALID."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fastvlm_bench import metrics
from fastvlm_bench.analysis.quality import Quality
from fastvlm_bench.analysis.summary import Row, summarise
from fastvlm_bench.analysis.verdict import Verdict, greedy, judge, word
from fastvlm_bench.records.record import Run
from fastvlm_bench.report.breakdown import energy_columns, energy_reason, memory_columns, outside, time_columns
from fastvlm_bench.report.layout import NOTHING, Cells, draw, say
from fastvlm_bench.report.numbers import mebibytes, milliseconds, number, ratio
from fastvlm_bench.report.quality_tables import print_quality

if TYPE_CHECKING:
    from rich.console import Console


def print_report(
    run: Run, console: "Console | None" = None, rows: Sequence[Row] | None = None, verdict: Verdict | None = None
) -> None:
    """Print the report of a run to a rich console (default: standard output)."""
    from rich.console import Console

    console = Console() if console is None else console
    rows = summarise(run) if rows is None else rows
    verdict = judge(run, rows) if verdict is None else verdict
    say(console, headline(run), "bold")
    for suite in run.meta["suites"]:
        own = [row for row in rows if row.suite == suite["name"]]
        console.print()
        say(console, suite_headline(own[0]), "bold")
        for columns in (speed_columns, quality_columns):
            console.print()
            draw(console, _labels(own), columns(own))
        console.print()
        for row in own:
            if sentence := conclusion(run, row):
                say(console, sentence)
        others = [row for row in own if row.method != row.reference]
        drafting = [row for row in own if row.alpha is not None]
        for shown, columns in ((others, estimate_columns), (drafting, draft_columns), (own, time_columns)):
            if shown:
                console.print()
                draw(console, _labels(shown), columns(shown))
        print_quality(console, run, own)
        if said := outside(run, suite["name"]):
            console.print()
            say(console, said, "dim")
        if (parts := memory_columns(run, own)) is not None:
            console.print()
            draw(console, _labels(own), parts)
        if energy := energy_columns(run, own):
            console.print()
            draw(console, _labels(own), energy)
        if reason := energy_reason(run, suite["name"]):
            console.print()
            say(console, reason, "yellow")
    console.print()
    unit = "seconds" if greedy(run.meta) else "seconds per token, as sampled lengths differ"
    say(console, "↑ higher is better, ↓ lower is better; [ ] 95 % interval; × reference/method, geometric mean over "
        f"samples ({unit}); of totals: the sums divided; ceiling: if decoding took no time; "
        "formulas: docs/measuring.md", "dim")  # fmt: skip
    if verdict.warnings:
        console.print()
    for notice in verdict.warnings:
        say(console, f"{notice.name}: {notice.message}", "yellow")
    console.print()
    if verdict.status == "VALID":
        say(console, "VALID", "bold green")
    else:
        say(console, "INVALID: " + "; ".join(verdict.reasons), "bold red")


def headline(run: Run) -> str:
    """The run in one line: model, precision, device, threads."""
    model, threads = run.meta["model"], run.meta.get("environment", {}).get("threads")
    parts = [f"{run.run_id}: {model['id']}", model["dtype"], model["device"]]
    parts += [f"{threads} thread{'s' if threads != 1 else ''}"] if threads and model["device"] == "cpu" else []
    parts += [f"attention {model['attention']}"]
    return " · ".join(parts)


def suite_headline(row: Row) -> str:
    """The suite in one line: what was measured, on what data, how often."""
    repeats = f" × {row.repeats} repeats" if row.repeats > 1 else ""
    repeats += f" in {row.invocations} invocations" if row.invocations > 1 else ""
    batches = f" in batches of {row.batch_size}" if row.batch_size > 1 else ""
    length = f"exactly {row.max_new_tokens} tokens (EOS ignored)" if row.ignore_eos else (
        f"at most {row.max_new_tokens} tokens")  # fmt: skip
    return (
        f"{row.suite} {row.suite_version} · split {row.split} · {row.source} · n = {row.samples}{batches}{repeats} · "
        f"{length} · reference {row.reference}{sampling(row)}"
    )


def sampling(row: Row) -> str:
    """How tokens were drawn: " · sampled at temperature 0.7, top-p 0.9"; "" where decoding was greedy."""
    parts = [f"temperature {row.temperature:g}"] if row.temperature else []
    parts += [f"top-{name} {value:g}" for name, value in (("p", row.top_p), ("k", row.top_k)) if value]
    return f" · sampled at {', '.join(parts)}" if parts else ""


# ------------------------------------------------------------------------------------------ tables


def quality_cell(quality: Quality) -> str:
    """A metric on a 0-100 scale and, in brackets, its difference to the reference with the interval's half width."""
    value, delta = number(quality.value, 1, 100), quality.delta
    if delta is None:
        return value
    if quality.verdict == "identical":
        return f"{value} (identical)"
    half = "" if delta.low is None or delta.high is None else f" ±{(delta.high - delta.low) * 50:.1f}"
    return f"{value} ({delta.value * 100:+.1f}{half})"


def _labels(rows: Sequence[Row]) -> Cells:
    return Cells("method", tuple(row.method for row in rows), "left")


def _column(header: str, rows: Sequence[Row], cell: Callable[[Row], str]) -> Cells:
    return Cells(header, tuple(cell(row) for row in rows))


def _with_ceiling(row: Row) -> str:
    """The end-to-end speed-up and its ceiling (Amdahl), in one cell so that no narrow terminal separates them."""
    ceiling = "" if row.e2e_speedup_ceiling is None else f" ({number(row.e2e_speedup_ceiling, 1)})"
    return ratio(row.e2e_speedup_geomean) + ceiling


def _same(row: Row) -> str:
    if row.temperature and row.lossless and row.method != row.reference:
        return "sampled"
    return NOTHING if row.identical is None else f"{row.identical}/{row.samples_paired}{_others(row)}"


def _others(row: Row) -> str:
    """How the outputs that are not identical were judged: ", 2 near-ties, 1 violation", or ""."""
    counts = ((row.near_ties, "near-tie"), (row.violations, "violation"))
    return "".join(f", {count} {name}{'s' * (count > 1)}" for count, name in counts if count)


def speed_columns(rows: Sequence[Row]) -> list[Cells]:
    """What one wants to know first: speed-ups, whether the tokens are the same, and latencies."""
    return [
        _column("decode\nspeed-up ↑", rows, lambda r: ratio(r.decode_speedup_geomean)),
        _column("end-to-end\nspeed-up ↑ (ceiling)", rows, _with_ceiling),
        _column("same\ntokens", rows, _same),
        _column("requests\n/s ↑", rows, lambda r: number(r.requests_per_s, 2) if r.batch_size > 1 else ""),
        _column("TTFT\nms ↓", rows, lambda r: milliseconds(r.ttft_s.median)),
        _column("TPOT\nms ↓", rows, lambda r: milliseconds(r.tpot_s.median)),
        _column("decode\ntok/s ↑", rows, lambda r: number(r.decode_tokens_per_s, 1)),
        _column("failed\nsamples", rows, lambda r: f"{r.samples_failed}/{r.samples}" if r.samples_failed else ""),
    ]


def quality_columns(rows: Sequence[Row]) -> list[Cells]:
    """The metrics of the suite with their differences to the reference, and the memory."""

    def metric(index: int) -> Callable[[Row], str]:
        return lambda row: quality_cell(row.quality[index])

    columns = [
        _column(f"{metrics.LABELS.get(quality.metric, quality.metric)} ↑\n0-100 (Δ)", rows, metric(index))
        for index, quality in enumerate(rows[0].quality)
    ]
    kind = "allocated" if any(row.peak_allocated_bytes is not None for row in rows) else "rss"
    name = "tensors" if kind == "allocated" else "RSS"
    return [
        *columns,
        _column(f"peak {name}\nMiB ↓", rows, lambda r: mebibytes(getattr(r, f"peak_{kind}_bytes"))),
        _column("Δ peak\nMiB", rows, lambda r: mebibytes(getattr(r, f"peak_{kind}_delta_bytes"), True)),
    ]


def estimate_columns(rows: Sequence[Row]) -> list[Cells]:
    """The ratios of totals, the words for the headline speed-ups, and how single invocations and outliers differ."""
    return [
        _column("decode ×\nof totals", rows, lambda r: ratio(r.decode_speedup_totals)),
        _column("end-to-end ×\nof totals", rows, lambda r: ratio(r.e2e_speedup_totals)),
        _column("decode\nverdict", rows, lambda r: word(r.decode_speedup_geomean, r.decode_speedup_holm_p)),
        _column("end-to-end\nverdict", rows, lambda r: word(r.e2e_speedup_geomean, r.e2e_speedup_holm_p)),
        _column("each invocation\n×", rows, lambda r: " ".join(number(value) for value in r.speedup_by_invocation)),
        _column("between\ninvocations", rows, lambda r: ratio(r.speedup_between)),
        _column("outliers\nkept", rows, lambda r: str(r.outliers) if r.outliers else ""),
    ]


def draft_columns(rows: Sequence[Row]) -> list[Cells]:
    """How good the drafts are: acceptance, tokens per round, and the size of the imitation head."""
    return [
        _column("α ↑\n", rows, lambda r: number(r.alpha)),
        _column("τ ↑\ntok/round", rows, lambda r: number(r.tau)),
        _column("accepted\n/drafted ↑", rows, lambda r: number(r.draft_acceptance_rate)),
        _column("drafted\n/round", rows, lambda r: number(r.drafted_per_round, 1)),
        _column("% accepted of tested ↑\nat position 1 2 3 ..", rows,
                lambda r: " ".join(f"{a * 100:.0f}" for a in r.acceptance_by_position)),
        _column("head\nMiB", rows, lambda r: mebibytes(r.extra_bytes) if r.extra_bytes else NOTHING),
    ]  # fmt: skip


# ------------------------------------------------------------------------------------------ sentences


def describe(method: Mapping[str, Any]) -> str:
    """A method's name with the options that decide its speed: "fastvlm(γ=6, exit 2, attention head)"."""
    options = method.get("options") or {}
    parts = [f"γ={options['gamma']}"] if options.get("gamma") is not None else []
    parts += [f"exit {options['exit_layer']}"] if options.get("exit_layer") else []
    parts += [f"{options['head']} head"] if options.get("head") else []
    return f"{method['name']}({', '.join(parts)})" if parts else str(method["name"])


def conclusion(run: Run, row: Row) -> str:
    """One sentence about a lossless method against the reference; "" for the reference and for lossy methods."""
    if row.method == row.reference or not row.lossless:
        return ""
    name, estimate, doing = describe(run.method(row.method)), row.decode_speedup_geomean, "decodes"
    if estimate is None:
        estimate, doing = row.e2e_speedup_geomean, "answers"
    if estimate is None:
        return f"{name}: nothing was measured together with {row.reference}."
    found = word(estimate, row.decode_speedup_holm_p if doing == "decodes" else row.e2e_speedup_holm_p)
    value, _, interval = ratio(estimate).partition(" ")
    interval = f" {interval}" if interval else ""
    phrase = {
        "FASTER": f"{doing} {value} faster than {row.reference}{interval}",
        "SLOWER": f"{doing} {value} as fast as {row.reference}{interval}: it is slower",
        "SAME": f"{doing} as fast as {row.reference}, {value}{interval}",
        "AMBIGUOUS": f"{doing} {value} as fast as {row.reference}{interval}: too few samples or too much noise to tell",
    }[found]
    if doing == "decodes" and row.e2e_speedup_geomean is not None:
        phrase += f", end to end {ratio(row.e2e_speedup_geomean)}"
    same = f", identical on {row.identical} of {row.samples_paired}{_others(row)}" if greedy(run.meta) else (
        ", per token, drawn by a rule that keeps the target's distribution")  # fmt: skip
    return f"{name} {phrase}{same}."
