"""Data frames say what the CSV says, cell by cell, with types."""

import csv
import io
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas
import pytest

from fastvlm_bench.analysis.summary import summarise
from fastvlm_bench.records.record import Run, read_run
from fastvlm_bench.report.csv_text import cell_text
from fastvlm_bench.report.export import rows_csv
from fastvlm_bench.report.frames import rows_frame, samples_frame
from fastvlm_bench.report.sample_export import samples_csv

GOLDEN = Path(__file__).parent / "golden-v1"


def as_csv(frame: pandas.DataFrame) -> list[dict[str, str]]:
    """The frame's cells as the CSV writes them; NA is empty."""
    lines = frame.astype(object).to_dict("records")
    return [{name: "" if cell is pandas.NA else cell_text(cell) for name, cell in line.items()} for line in lines]


def read_csv(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


@pytest.fixture(params=["fake", "golden"])
def run(request: pytest.FixtureRequest, fake: SimpleNamespace) -> Run:
    def change(line: dict[str, Any]) -> dict[str, Any]:
        if line["sample_id"] == "001":
            return dict(fake.failed(line, "out_of_memory: 3, GiB"))
        batch = {"id": 0, "size": 2, "row": 1, "ttft_s": 1.0, "decode_s": 2.0}
        seed = (1 << 63) - 1
        return {**line, "text": ["None", "", "cr\rhere"][int(line["sample_id"]) % 3], "flags": ["throttled"],
                "batch": batch, "seed": seed}  # fmt: skip

    if request.param == "golden":
        return read_run(GOLDEN)
    return fake.run(suites=[fake.suite(n=6), fake.suite("vqav2", n=6)], change=change, repeats=2)  # type: ignore[no-any-return]


def test_rows_are_those_of_the_csv(run: Run) -> None:
    rows = summarise(run)
    assert as_csv(rows_frame(rows)) == read_csv(rows_csv(rows))


def test_samples_are_those_of_the_csv(run: Run) -> None:
    assert as_csv(samples_frame(run)) == read_csv(samples_csv(run))


def test_columns_have_types_with_or_without_values(run: Run) -> None:
    for rows in (summarise(run), []):
        frame = rows_frame(rows)
        assert {str(kind) for kind in frame.dtypes} == {"string", "Int64", "Float64", "boolean"}
        assert str(frame["method"].dtype) == "string" and str(frame["lossless"].dtype) == "boolean"
        assert str(frame["samples_ok"].dtype) == str(frame["peak_allocated_bytes"].dtype) == "Int64"
        assert str(frame["ttft_s_median"].dtype) == str(frame["quality_bleu4"].dtype) == "Float64"
        assert str(frame["acceptance_by_position"].dtype) == "string"
    frame = samples_frame(run)
    assert str(frame["sample_id"].dtype) == "string" and str(frame["identical"].dtype) == "boolean"
    assert str(frame["tokens"].dtype) == str(frame["batch_id"].dtype) == "Int64"
    assert str(frame["decode_s"].dtype) == str(frame["score_cider_d"].dtype) == "Float64"


def test_what_was_not_measured_is_missing_and_an_empty_text_is_not(fake: SimpleNamespace) -> None:
    def change(line: dict[str, Any]) -> dict[str, Any]:
        return dict(fake.failed(line)) if line["sample_id"] == "001" else {**line, "text": ""}

    frame = samples_frame(fake.run(suites=[fake.suite(n=2, metrics=[])], change=change))
    failed = frame[frame["sample_id"] == "001"]
    assert failed[["text", "tokens", "decode_s", "identical"]].isna().all(axis=None)
    assert list(frame[frame["sample_id"] == "000"]["text"]) == ["", ""]
    assert frame["error"].isna().sum() == 2


def test_a_frame_computes(run: Run) -> None:
    """The point of types: sums and ratios without conversions."""
    frame = samples_frame(run)
    own = frame[frame["error"].isna() & (frame["method"] == "fastvlm")]
    done = [line for line in run.lines if line["method"] == "fastvlm" and line["error"] is None]
    assert own["tokens"].sum() == sum(len(line["token_ids"]) for line in done)
    assert own["accepted"].sum() / own["tested"].sum() == pytest.approx(
        sum(r[2] for line in done for r in line["rounds"]) / sum(r[1] for line in done for r in line["rounds"])
    )


def test_the_module_opens_without_pandas() -> None:
    code = "import sys, fastvlm_bench.report.frames; sys.exit('pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
