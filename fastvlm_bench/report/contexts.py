"""The table of acceptance and speed by context length: in the terminal, as CSV, and as JSON."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from fastvlm_bench.analysis.contexts import ContextRow, context_rows
from fastvlm_bench.analysis.statistics import Estimate
from fastvlm_bench.analysis.verdict import judge
from fastvlm_bench.records.record import Run
from fastvlm_bench.report.csv_text import to_csv
from fastvlm_bench.report.layout import Cells
from fastvlm_bench.report.numbers import interval, milliseconds, number, ratio

CONTEXT_COLUMNS = (
    "run_id", "status", "model", "suite", "method", "reference", "context_from", "context_to", "samples", "images",
    "tokens", "rounds", "s_per_token", "alpha", "alpha_low", "alpha_high", "decode_speedup", "decode_speedup_low",
    "decode_speedup_high",
)  # fmt: skip
"""The columns of `contexts_csv`, and the keys of `context_values`."""


def context_columns(rows: Sequence[ContextRow]) -> list[Cells]:
    """What `report --details` prints beside range and method."""

    def column(header: str, cell: Callable[[ContextRow], str]) -> Cells:
        return Cells(header, tuple(cell(row) for row in rows))

    return [
        column("samples\n", lambda r: str(r.samples)),
        column("tokens\n", lambda r: str(r.tokens)),
        column("decode\n× ↑", lambda r: ratio(r.decode_speedup)),
        column("α ↑\n", lambda r: _share(r.alpha)),
        column("ms per\ntoken ↓", lambda r: milliseconds(r.s_per_token)),
    ]


def _share(estimate: Estimate | None) -> str:
    """A share with its interval, which is over images."""
    if estimate is None or estimate.low is None or estimate.high is None:
        return number(estimate.value if estimate else None)
    return interval(estimate.value, estimate.low, estimate.high)


def context_labels(rows: Sequence[ContextRow]) -> Cells:
    """The range of each row in tokens, and its method."""
    return Cells("context, tokens", tuple(f"{r.context_from}–{r.context_to}: {r.method}" for r in rows), "left")


def context_values(run: Run, status: str) -> Iterable[dict[str, Any]]:
    """Each row of a run by column. status: whether the run is VALID."""
    for suite in run.meta["suites"]:
        for row in context_rows(run, suite["name"]):
            yield {
                "run_id": run.run_id, "status": status, "model": run.meta["model"]["id"], "suite": row.suite,
                "method": row.method, "reference": run.meta["reference"], "context_from": row.context_from,
                "context_to": row.context_to, "samples": row.samples,
                "images": row.images, "tokens": row.tokens, "rounds": row.rounds,
                "s_per_token": row.s_per_token, **_bounds("alpha", row.alpha),
                **_bounds("decode_speedup", row.decode_speedup),
            }  # fmt: skip


def _bounds(name: str, estimate: Estimate | None) -> dict[str, float | None]:
    return {f"{name}{end}": getattr(estimate, part) if estimate else None
            for end, part in (("", "value"), ("_low", "low"), ("_high", "high"))}  # fmt: skip


def contexts_csv(run: Run, excel_safe: bool = False) -> str:
    """One line a suite x range x method. excel_safe: as in `to_csv`."""
    values = context_values(run, judge(run).status)
    return to_csv(CONTEXT_COLUMNS, ([row[name] for name in CONTEXT_COLUMNS] for row in values), excel_safe)
