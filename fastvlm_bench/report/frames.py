"""Rows and samples as pandas data frames, for notebooks: the CSV's columns, with types.

The exports do not go through here: pandas takes longer to import than a table takes to write, and its CSV leaves
carriage returns unquoted (`csv_text.to_csv`). pandas is imported when a frame is made.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fastvlm_bench.analysis.summary import Row
from fastvlm_bench.records.record import Run
from fastvlm_bench.report.columns import columns, row_dict
from fastvlm_bench.report.csv_text import cell_text
from fastvlm_bench.report.sample_export import sample_columns, sample_values

if TYPE_CHECKING:
    from pandas import DataFrame

DTYPES = {str: "string", int: "Int64", float: "Float64", bool: "boolean"}
"""pandas' nullable types: NA is what was not measured, and a column of counts with gaps stays one of whole numbers."""
COUNTS = ("repeat", "invocation", "order", "seed", "tokens", "rounds", "drafted", "tested", "accepted", "emitted",
          "batch_id", "batch_size", "batch_row")  # fmt: skip
"""Columns of samples that hold whole numbers; those in bytes do, too."""


def rows_frame(rows: Sequence[Row]) -> "DataFrame":
    """One line a suite x method (`summary.summarise`), in the columns of `export --format csv`. Lists are text."""
    kinds = {column.name: column.kind for column in columns()}
    return _frame(kinds, [row_dict(row) for row in rows])


def samples_frame(run: Run) -> "DataFrame":
    """One line a suite x sample x method x repeat, in the columns of `export --format samples-csv`."""
    return _frame({name: _kind(name) for name in sample_columns()}, sample_values(run))


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
