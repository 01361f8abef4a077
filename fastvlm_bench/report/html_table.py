"""The main table of the page: of each column its title, what it means, and the text and number of each series."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fastvlm_bench import metrics
from fastvlm_bench.analysis.statistics import Estimate
from fastvlm_bench.analysis.summary import Row
from fastvlm_bench.report.figure_data import Series
from fastvlm_bench.report.layout import NOTHING
from fastvlm_bench.report.numbers import mebibytes, milliseconds, number, ratio
from fastvlm_bench.report.terminal import quality_cell


@dataclass(frozen=True)
class Cell:
    """sort: what it is sorted by, a number; None goes last."""

    text: str
    sort: float | None


@dataclass(frozen=True)
class Column:
    """better: "↑" where more is better, "↓" where less is, "" where neither is. meaning: shown at the title."""

    title: str
    better: str
    meaning: str
    cells: tuple[Cell, ...]


def table_columns(series: Sequence[Series]) -> list[Column]:
    """The columns in order; those in which no series has anything are left out."""
    rows = [one.row for one in series]

    def column(title: str, better: str, meaning: str, text: Callable[[Row], str], sort: Callable[[Row], Any]) -> Column:
        return Column(title, better, meaning, tuple(Cell(text(row), sort(row)) for row in rows))

    found = [
        column("decode speed-up", "↑", "reference seconds / method seconds of decoding, geometric mean, 95 % interval",
               lambda r: ratio(r.speedup.decode_speedup_geomean), lambda r: _value(r.speedup.decode_speedup_geomean)),
        column("", "", "FASTER, SLOWER, SAME (within 1 %) or AMBIGUOUS",
               lambda r: r.speedup.decode_speedup_verdict or NOTHING,
               lambda r: _value(r.speedup.decode_speedup_geomean)),
        column("end-to-end speed-up", "↑", "the same for whole requests, image and prompt included",
               lambda r: ratio(r.speedup.e2e_speedup_geomean), lambda r: _value(r.speedup.e2e_speedup_geomean)),
        column("same tokens", "↑", "samples whose output has the reference's token ids",
               _same, lambda r: r.sameness.identical),
        *(_quality(rows, place) for place in range(len(rows[0].quality))),
        column("requests/s", "↑", "requests answered per second, in batches",
               lambda r: number(r.times.requests_per_s, 2) if r.settings.batch_size > 1 else NOTHING,
               lambda r: r.times.requests_per_s),
        column("TTFT ms", "↓", "time to first token, median",
               lambda r: milliseconds(r.times.ttft_s.median), lambda r: r.times.ttft_s.median),
        column("TPOT ms", "↓", "time per output token after the first, median",
               lambda r: milliseconds(r.times.tpot_s.median), lambda r: r.times.tpot_s.median),
        column("decode tok/s", "↑", "tokens per second of decoding",
               lambda r: number(r.times.decode_tokens_per_s, 1), lambda r: r.times.decode_tokens_per_s),
        column("α", "↑", "accepted / tested drafts", lambda r: number(r.acceptance.alpha),
               lambda r: r.acceptance.alpha),
        column("τ", "↑", "tokens that a round emits", lambda r: number(r.acceptance.tau), lambda r: r.acceptance.tau),
        _memory(rows),
        column("added weights MiB", "↓", "weights that the method adds to the model",
               lambda r: mebibytes(r.memory.extra_bytes) if r.memory.extra_bytes else NOTHING,
               lambda r: r.memory.extra_bytes),
        column("J/token", "↓", "energy of the device per new token",
               lambda r: number(r.energy.joules_per_token, 3), lambda r: r.energy.joules_per_token),
        column("failed", "↓", "samples that failed", lambda r: str(r.counts.samples_failed or NOTHING),
               lambda r: r.counts.samples_failed),
    ]  # fmt: skip
    return [column for column in found if any(cell.text not in ("", NOTHING) for cell in column.cells)]


def _value(estimate: Estimate | None) -> float | None:
    return None if estimate is None else estimate.value


def _same(row: Row) -> str:
    if row.sameness.identical is None:
        return "sampled" if row.settings.sampled and row.method != row.reference else NOTHING
    return f"{row.sameness.identical}/{row.counts.samples_paired}"


def _quality(rows: Sequence[Row], place: int) -> Column:
    """One metric with its difference to the reference, in the first row's order; runs may have other metrics."""
    metric = rows[0].quality[place].metric
    kind = metrics.kind_of(metric)
    own = [next((quality for quality in row.quality if quality.metric == metric), None) for row in rows]
    cells = tuple(Cell(NOTHING, None) if quality is None else
                  Cell(quality_cell(quality, row.counts.samples_paired, row.counts.samples), quality.value)
                  for quality, row in zip(own, rows, strict=True))  # fmt: skip
    return Column(f"{kind.label} (Δ)", "↑" if kind.higher_is_better else "↓",
                  f"{kind.description}; {kind.unit}; in brackets the difference to the reference", cells)  # fmt: skip


def _memory(rows: Sequence[Row]) -> Column:
    kind = "allocated" if any(row.memory.peak_allocated_bytes is not None for row in rows) else "rss"
    peaks = [getattr(row.memory, f"peak_{kind}_bytes") for row in rows]
    if kind == "rss":  # methods share a process, whose peak is that of all of them
        return Column("peak MiB", "↓", "largest peak, resident memory of the process",
                      tuple(Cell(mebibytes(peak), peak) for peak in peaks))  # fmt: skip
    deltas = [row.memory.peak_allocated_delta_bytes for row in rows]
    cells = tuple(Cell(mebibytes(peak) + (f" ({mebibytes(delta, True)})" if delta is not None else ""), peak)
                  for peak, delta in zip(peaks, deltas, strict=True))  # fmt: skip
    return Column("peak MiB (Δ)", "↓",
                  "largest peak, tensors on the device; in brackets the difference to the reference",
                  cells)  # fmt: skip
