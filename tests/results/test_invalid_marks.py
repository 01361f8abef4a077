"""An INVALID run is marked wherever its numbers leave the tool, and n is what was measured, not what was planned."""

import csv
import io
import json
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from fastvlm_bench.analysis.comparison import compare
from fastvlm_bench.analysis.verdict import judge
from fastvlm_bench.records.record import Run
from fastvlm_bench.report.compare import print_comparison
from fastvlm_bench.report.export import export_runs
from fastvlm_bench.report.one_screen import print_screen
from fastvlm_bench.report.terminal import print_report

COLUMN_CHOICES: list[list[str] | None] = [None, ["method", "alpha"], ["alpha", "tau"], ["suite"]]


def half(fake: SimpleNamespace, run_id: str = "half") -> Run:
    """A run that was interrupted after 15 of its 40 samples: INVALID."""
    drop: Any = lambda line: line if int(line["sample_id"]) < 15 else None  # noqa: E731
    run: Run = fake.run(status="interrupted", change=drop, meta={"run_id": run_id})
    assert judge(run).status == "INVALID"
    return run


def whole(fake: SimpleNamespace) -> Run:
    run: Run = fake.run(seed=1, meta={"run_id": "whole"})
    assert judge(run).status == "VALID"
    return run


def compared(runs: list[Run]) -> str:
    stream = io.StringIO()
    print_comparison(compare(runs), Console(width=120, file=stream, _environ={}))
    return stream.getvalue()


@pytest.mark.parametrize("form", ["csv", "samples-csv"])
def test_csv_has_a_column(fake: SimpleNamespace, form: str) -> None:
    lines = list(csv.DictReader(io.StringIO(export_runs([half(fake), whole(fake)], form))))
    told = {line["run_id"]: line["status"] for line in lines}
    assert told == {"half": "INVALID", "whole": "VALID"}


@pytest.mark.parametrize("columns", COLUMN_CHOICES)
@pytest.mark.parametrize("form", ["latex", "markdown"])
def test_tables_mark_each_line_whatever_their_columns(
    fake: SimpleNamespace, form: str, columns: list[str] | None
) -> None:
    text = export_runs([half(fake), whole(fake)], form, columns)
    table, marks = text.partition("INVALID, do not publish: half")[0], text.count("(INVALID)")
    assert marks == table.count("(INVALID)") == 2, "both methods of the one run"
    assert "INVALID, do not publish: half: the run is interrupted, not finished" in text
    assert "INVALID" not in export_runs([whole(fake)], form, columns)


def test_json_rows_and_the_hubs_yaml_say_so(fake: SimpleNamespace) -> None:
    pytest.importorskip("huggingface_hub")
    document = json.loads(export_runs([half(fake)], "json"))
    assert document["verdict"]["status"] == "INVALID" and {row["status"] for row in document["rows"]} == {"INVALID"}
    assert "INVALID" in export_runs([half(fake)], "eval-results", dataset="a/b")


def test_compare_marks_the_run_and_its_lines(fake: SimpleNamespace) -> None:
    text = " ".join(compared([whole(fake), half(fake)]).split())
    assert "B is INVALID, do not publish its numbers: the run is interrupted, not finished" in text
    assert "B: standard (INVALID)" in text and "B: fastvlm (INVALID)" in text
    assert "A is INVALID" not in text and "A: standard (INVALID)" not in text
    assert "INVALID" not in compared([whole(fake), whole(fake)])


def test_n_is_what_was_measured(fake: SimpleNamespace) -> None:
    assert "n = 15–40 of 40" in compared([whole(fake), half(fake)])
    assert "n = 15 of 40" in compared([half(fake, "a"), half(fake, "b")])
    for run, told in ((half(fake), "n = 15 of 40 ·"), (whole(fake), "n = 40 ·")):
        for printing in (print_screen, print_report):
            stream = io.StringIO()
            printing(run, Console(width=200, file=stream, _environ={}))
            assert told in stream.getvalue()
