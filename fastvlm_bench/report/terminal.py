"""What the terminal says about a run: tables, one sentence per method, warnings, and VALID or INVALID."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from fastvlm_bench import metrics
from fastvlm_bench.analysis.contexts import context_rows
from fastvlm_bench.analysis.counts import Counts
from fastvlm_bench.analysis.differences import IDENTICAL
from fastvlm_bench.analysis.generation import generation_line
from fastvlm_bench.analysis.groups import group_rows
from fastvlm_bench.analysis.quality import Quality
from fastvlm_bench.analysis.settings import Settings, engine_of
from fastvlm_bench.analysis.summary import Row, summarise
from fastvlm_bench.analysis.verdict import Verdict, greedy, judge
from fastvlm_bench.records.record import Run
from fastvlm_bench.report.breakdown import (
    energy_columns,
    energy_reason,
    group_columns,
    memory_columns,
    outside,
    time_columns,
)
from fastvlm_bench.report.contexts import context_columns, context_labels
from fastvlm_bench.report.layout import NOTHING, Cells, draw, say
from fastvlm_bench.report.numbers import mebibytes, milliseconds, number, ratio, score, share
from fastvlm_bench.report.quality_tables import print_quality
from fastvlm_bench.report.sentences import conclusion, others

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
    if line := generation_line(run):
        say(console, line, "dim")
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
        compared = [row for row in own if row.method != row.reference]
        drafting = [row for row in own if row.acceptance.alpha is not None]
        for shown, columns in ((compared, estimate_columns), (drafting, draft_columns), (own, time_columns)):
            if shown:
                console.print()
                draw(console, _labels(shown), columns(shown))
        print_quality(console, run, own)
        if groups := group_rows(run, suite["name"], own[0].settings.sampled):
            console.print()
            several = len({row.method for row in groups}) > 1
            told = tuple(f"{row.group}: {row.method}" if several else row.group for row in groups)
            draw(console, Cells("part of the data", told, "left"), group_columns(groups))
        if contexts := context_rows(run, suite["name"]):
            console.print()
            draw(console, context_labels(contexts), context_columns(contexts))
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
    say(console, scope_of_intervals(rows), "dim")
    if left_out := run.meta.get("left_out"):
        console.print()
    for each in left_out or ():
        say(console, f"left out: {each['label']}: {each['reason']}", "dim")
    if verdict.warnings:
        console.print()
    for notice in verdict.warnings:
        say(console, f"{notice.name}: {notice.message}", "yellow")
    console.print()
    if verdict.status == "VALID":
        say(console, "VALID", "bold green")
    else:
        say(console, "INVALID: " + "; ".join(verdict.reasons), "bold red")


def scope_of_intervals(rows: Sequence[Row]) -> str:
    """What the intervals of the speed-ups speak about: this process, or the samples of several processes."""
    processes = max(row.counts.invocations for row in rows)
    if processes == 1:
        return ("Intervals speak of these samples within one process; a restarted process may differ by more: "
                "--invocations 3 measures by how much")  # fmt: skip
    return f"Intervals speak of these samples; those named between processes speak of the {processes} processes"


def headline(run: Run) -> str:
    """The run in one line: model, precision, device, threads."""
    model, threads = run.meta["model"], run.meta.get("environment", {}).get("threads")
    parts = [f"{run.run_id}: {model['id']}", model["dtype"], model["device"]]
    parts += [f"{threads} thread{'s' if threads != 1 else ''}"] if threads and model["device"] == "cpu" else []
    parts += [f"attention {model['attention']}"]
    parts += [f"engine {engine}"] if (engine := engine_of(run)) != "eager" else []
    parts += shared_among(run)
    return " · ".join(parts)


def shared_among(run: Run) -> list[str]:
    """Of a run that has a share of the samples, or whose samples were shared: among what."""
    shard, merged, ranks = (run.meta.get(name) for name in ("shard", "merged", "ranks"))
    found = [f"shard {shard['number']}/{shard['of']}"] if shard else []
    found += [f"{len(merged['shards'])} of {merged['of']} shards"] if merged else []
    return found + ([f"{len(ranks)} processes"] if ranks else [])


def suite_headline(row: Row) -> str:
    """The suite in one line: what was measured, on what data, how often."""
    settings, counts = row.settings, row.counts
    repeats = f" × {counts.repeats} repeats" if counts.repeats > 1 else ""
    repeats += f" in {counts.invocations} invocations" if counts.invocations > 1 else ""
    batches = f" in batches of {settings.batch_size}" if settings.batch_size > 1 else ""
    length = f"exactly {settings.max_new_tokens} tokens (EOS ignored)" if settings.ignore_eos else (
        f"at most {settings.max_new_tokens} tokens")  # fmt: skip
    return (
        f"{row.suite} {settings.suite_version} · split {settings.split} · {settings.source} · "
        f"n = {measured([row])}{_turns(counts)}{batches}{repeats} · {length} · "
        f"reference {row.reference}{sampling(settings)}"
    )


def _turns(counts: Counts) -> str:
    return f" ({counts.turns} turns)" if counts.turns > counts.samples else ""


def measured(rows: Sequence[Row]) -> str:
    """How many samples were measured: "200"; "100 of 200" where not all were; "100–200 of 200" of unequal rows."""
    counts, planned = {row.counts.samples_ok for row in rows}, max(row.counts.samples for row in rows)
    told = "–".join(map(str, sorted({min(counts), max(counts)})))
    return told if counts == {planned} else f"{told} of {planned}"


def sampling(settings: Settings) -> str:
    """How tokens were drawn: " · sampled at temperature 0.7, top-p 0.9"; "" where decoding was greedy."""
    parts = [f"temperature {settings.temperature:g}"] if settings.sampled else []
    parts += [f"top-{name} {value:g}" for name, value in (("p", settings.top_p), ("k", settings.top_k)) if value]
    return f" · sampled at {', '.join(parts)}" if parts else ""


# ------------------------------------------------------------------------------------------ tables


def quality_cell(
    quality: Quality, paired: int, samples: int, *, interval: bool = True, identical: str = IDENTICAL
) -> str:
    """A metric on its tables' scale; in brackets its difference to the reference, with the interval's wider half.

    paired: of how many of all samples the difference is; the cell says so where these are fewer, since the values that
    the table shows are then of other samples. identical: the word where no text differs.
    """
    value, delta = score(quality.metric, quality.value), quality.delta
    if delta is None:
        return value
    told = score(quality.metric, delta.value, True)
    if quality.verdict == IDENTICAL:
        told = identical
    elif interval and delta.low is not None and delta.high is not None:
        told += f" ±{score(quality.metric, max(delta.high - delta.value, delta.value - delta.low))}"
    return f"{value} ({told}" + (f", n = {paired})" if paired < samples else ")")


def _labels(rows: Sequence[Row]) -> Cells:
    return Cells("method", tuple(row.method for row in rows), "left")


def _column(header: str, rows: Sequence[Row], cell: Callable[[Row], str]) -> Cells:
    return Cells(header, tuple(cell(row) for row in rows))


def _with_ceiling(row: Row) -> str:
    """The end-to-end speed-up and its ceiling (Amdahl), in one cell so that no narrow terminal separates them."""
    ceiling = row.speedup.e2e_speedup_ceiling
    return ratio(row.speedup.e2e_speedup_geomean) + ("" if ceiling is None else f" ({number(ceiling, 1)})")


def _same(row: Row) -> str:
    if row.settings.sampled and row.settings.lossless and row.method != row.reference:
        return "sampled"
    identical = row.sameness.identical
    return NOTHING if identical is None else f"{identical}/{row.counts.samples_paired}{others(row.sameness)}"


def failed_cell(counts: Counts) -> str:
    """Failed samples of all, "1/7"; "" where none failed."""
    return f"{counts.samples_failed}/{counts.samples}" if counts.samples_failed else ""


def speed_columns(rows: Sequence[Row]) -> list[Cells]:
    """What one wants to know first: speed-ups, whether the tokens are the same, and latencies."""
    return [
        _column("decode\nspeed-up ↑", rows, lambda r: ratio(r.speedup.decode_speedup_geomean)),
        _column("end-to-end\nspeed-up ↑ (ceiling)", rows, _with_ceiling),
        _column("same\ntokens", rows, _same),
        _column("requests\n/s ↑", rows,
                lambda r: number(r.times.requests_per_s, 2) if r.settings.batch_size > 1 else ""),
        _column("TTFT\nms ↓", rows, lambda r: milliseconds(r.times.ttft_s.median)),
        _column("TPOT\nms ↓", rows, lambda r: milliseconds(r.times.tpot_s.median)),
        _column("decode\ntok/s ↑", rows, lambda r: number(r.times.decode_tokens_per_s, 1)),
        _column("failed\nsamples", rows, lambda r: failed_cell(r.counts)),
    ]  # fmt: skip


def quality_columns(rows: Sequence[Row]) -> list[Cells]:
    """The metrics of the suite with their differences to the reference, and the memory.

    Resident memory has no difference: methods share a process, whose peak is the same for all of them.
    """

    def metric(index: int) -> Callable[[Row], str]:
        return lambda row: quality_cell(row.quality[index], row.counts.samples_paired, row.counts.samples)

    columns = [
        _column(f"{metrics.kind_of(quality.metric).header} (Δ)", rows, metric(index))
        for index, quality in enumerate(rows[0].quality)
    ]
    kind = "allocated" if any(row.memory.peak_allocated_bytes is not None for row in rows) else "rss"
    name = "tensors" if kind == "allocated" else "RSS"
    return [
        *columns,
        _column(f"peak {name}\nMiB ↓", rows, lambda r: mebibytes(getattr(r.memory, f"peak_{kind}_bytes"))),
        *([_column("Δ peak\nMiB", rows, lambda r: mebibytes(r.memory.peak_allocated_delta_bytes, True))]
          if kind == "allocated" else []),
    ]  # fmt: skip


def estimate_columns(rows: Sequence[Row]) -> list[Cells]:
    """The ratios of totals, the words for the headline speed-ups, and how single invocations and outliers differ."""
    return [
        _column("decode ×\nof totals", rows, lambda r: ratio(r.speedup.decode_speedup_totals)),
        _column("end-to-end ×\nof totals", rows, lambda r: ratio(r.speedup.e2e_speedup_totals)),
        _column("decode\nverdict", rows, lambda r: r.speedup.decode_speedup_verdict or NOTHING),
        _column("end-to-end\nverdict", rows, lambda r: r.speedup.e2e_speedup_verdict or NOTHING),
        _column("each process\n×", rows, lambda r: " ".join(map(number, r.speedup.speedup_by_invocation))),
        _column("between\nprocesses", rows, lambda r: ratio(r.speedup.speedup_between)),
        _column("outliers\nkept", rows, lambda r: str(r.speedup.outliers) if r.speedup.outliers else ""),
    ]


def draft_columns(rows: Sequence[Row]) -> list[Cells]:
    """How good the drafts are: acceptance, tokens per round, and the size of the imitation head."""
    levels = [_column("α of each\nlevel ↑", rows, lambda r: " ".join(map(number, r.acceptance.alpha_by_level)))]
    return [
        _column("α ↑\n", rows, lambda r: number(r.acceptance.alpha)),
        _column("without\nstop", rows, lambda r: number(r.acceptance.alpha_without_stop)),
        _column("τ ↑\ntok/round", rows, lambda r: number(r.acceptance.tau)),
        _column("without\nstop", rows, lambda r: number(r.acceptance.tau_without_stop)),
        _column("rounds w/o\ndraft %", rows, lambda r: share(r.acceptance.undrafted_share)),
        _column("accepted\n/drafted ↑", rows, lambda r: number(r.acceptance.draft_acceptance_rate)),
        _column("drafted\n/round", rows, lambda r: number(r.acceptance.drafted_per_round, 1)),
        _column("% accepted of tested ↑\nat position 1 2 3 ..", rows,
                lambda r: " ".join(f"{a * 100:.0f}" for a in r.acceptance.acceptance_by_position)),
        _column("% of rounds\nthat accepted 0 1 2 ..", rows,
                lambda r: " ".join(f"{a * 100:.0f}" for a in r.acceptance.accepted_per_round)),
        *(levels if any(row.acceptance.alpha_by_level for row in rows) else ()),
        _column("head\nMiB", rows, lambda r: mebibytes(r.memory.extra_bytes) if r.memory.extra_bytes else NOTHING),
    ]  # fmt: skip
