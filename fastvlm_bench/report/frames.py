"""Rows, samples and rounds as pandas data frames, for notebooks: the CSV's columns, with types.

The exports do not go through here: pandas takes longer to import than a table takes to write, and its CSV leaves
carriage returns unquoted (`csv_text.to_csv`). pandas is imported when a frame is made.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fastvlm_bench.analysis.comparison import Comparison
from fastvlm_bench.analysis.summary import Row
from fastvlm_bench.records.record import Run
from fastvlm_bench.report.columns import columns, row_dict
from fastvlm_bench.report.csv_text import cell_text
from fastvlm_bench.report.sample_export import sample_columns, sample_values

if TYPE_CHECKING:
    from pandas import DataFrame

DTYPES = {str: "string", int: "Int64", float: "Float64", bool: "boolean"}
"""pandas' nullable types: NA is what was not measured, and a column of counts with gaps stays one of whole numbers."""
COUNTS = ("repeat", "invocation", "order", "seed", "turn", "prompt_tokens", "tokens", "rounds", "drafted",
          "tested", "accepted", "emitted", "batch_id", "batch_size", "batch_row")  # fmt: skip
"""Columns of samples that hold whole numbers; those in bytes do, too."""


def rows_frame(rows: Sequence[Row]) -> "DataFrame":
    """One line a suite x method (`summary.summarise`), in the columns of `export --format csv`. Lists are text."""
    kinds = {column.name: column.kind for column in columns()}
    return _frame(kinds, [row_dict(row) for row in rows])


def samples_frame(run: Run) -> "DataFrame":
    """One line a suite x sample x method x repeat, in the columns of `export --format samples-csv`."""
    return _frame({name: _kind(name) for name in sample_columns()}, sample_values(run))


ROUND_COLUMNS: dict[str, type] = {
    "run_id": str, "model": str, "suite": str, "sample_id": str, "method": str, "repeat": int, "invocation": int,
    "round": int, "first_token": int, "drafted": int, "tested": int, "accepted": int, "emitted": int, "draft_s": float,
    "verify_s": float,
}  # fmt: skip
"""Columns of `rounds_frame` and what they hold."""


def rounds_frame(run: Run) -> "DataFrame":
    """One line a round of every sample that did not fail, in the order of the records.

    round: its number within the answer, from 0. first_token: the index of the first token that it emitted; the prefill
    emits token 0, so the first round's is 1. The counts and seconds are those of the record (`records.trace.Round`).
    """
    lines: list[dict[str, Any]] = []
    for line in run.lines:
        own = {name: line.get(name) for name in ("suite", "sample_id", "method", "repeat", "invocation")}
        own |= {"run_id": run.run_id, "model": run.meta["model"]["id"]}
        place = 1
        for number, (drafted, tested, accepted, emitted, draft_s, verify_s, *_) in enumerate(line["rounds"]):
            counts = {"drafted": drafted, "tested": tested, "accepted": accepted, "emitted": emitted}
            lines.append({**own, "round": number, "first_token": place, **counts, "draft_s": draft_s,
                          "verify_s": verify_s})  # fmt: skip
            place += emitted
    return _frame(ROUND_COLUMNS, lines)


def compared_frame(comparison: Comparison) -> "DataFrame":
    """One line a run x suite x method of `compare`: the columns of `rows_frame`, then those against the first run."""
    kinds = {column.name: column.kind for column in columns()}
    against = {"against": str, "identical_with_first": int, "compared_with_first": int,
               **{f"{part}_speedup_over_first{end}": float for part in ("decode", "e2e")
                  for end in ("", "_low", "_high")}}  # fmt: skip
    lines = []
    for one in comparison.rows:
        ratios = {f"{part}_speedup_over_first{end}": getattr(estimate, name) if estimate else None
                  for part, estimate in (("decode", one.decode), ("e2e", one.e2e))
                  for end, name in (("", "value"), ("_low", "low"), ("_high", "high"))}  # fmt: skip
        lines.append({**row_dict(one.row), "against": one.against or None, "identical_with_first": one.identical,
                      "compared_with_first": one.compared, **ratios})  # fmt: skip
    return _frame({**kinds, **against}, lines)


def _kind(column: str) -> type:
    """What a column of samples holds: by its suffix, which is its unit, or by name."""
    if column in COUNTS or column.endswith("_bytes"):
        return int
    if column.endswith("_s") or column == "losslessness_gap" or column.startswith("score_"):
        return float
    return bool if column == "identical" else str


def _frame(kinds: Mapping[str, type], lines: Iterable[Mapping[str, Any]]) -> "DataFrame":
    import pandas

    lines = list(lines)
    return pandas.DataFrame({
        name: pandas.array([_cell(line.get(name), kind) for line in lines], dtype=DTYPES[kind])
        for name, kind in kinds.items()
    })  # fmt: skip


def _cell(value: Any, kind: type) -> Any:
    """The value, or pandas' own nothing; text as the CSV has it."""
    import pandas

    if value is None:
        return pandas.NA
    return cell_text(value) if kind is str else value
