"""Bounds that a run must keep: the end of the interval decides, not the value; exit code 8 and one line."""

from pathlib import Path
from typing import Any

import pytest

from fastvlm_bench.analysis.arms import arms
from fastvlm_bench.analysis.floors import Floors, alpha_of, misses, require
from fastvlm_bench.analysis.summary import summarise
from fastvlm_bench.errors import FloorMissed, UsageError
from fastvlm_bench.records.record import Run, read_run

RUN = min((Path(__file__).parents[2] / "results").glob("*-coco-caption-batches-*/*/run.json")).parent
STEP = 1e-6


@pytest.fixture(scope="module")
def run() -> Run:
    """A committed run, which has a method that drafts."""
    return read_run(RUN)


def drafting(run: Run) -> list[Any]:
    return [(row, arm) for row, arm in zip(summarise(run), arms(run), strict=True)
            if row.method != row.reference and row.acceptance.alpha is not None]  # fmt: skip


def test_the_lower_end_decides_and_not_the_value(run: Run) -> None:
    rows = [row for row in summarise(run) if row.method != row.reference and row.settings.compared]
    slowest = min(rows, key=lambda row: row.speedup.decode_speedup_geomean.low)  # type: ignore[union-attr]
    found = slowest.speedup.decode_speedup_geomean
    assert found is not None and found.low is not None and found.low < found.value
    assert list(misses(run, Floors(decode_speedup=found.low - STEP))) == []
    (line,) = misses(run, Floors(decode_speedup=found.low + STEP))
    assert f"{slowest.method} on {slowest.suite}" in line and "--min-decode-speedup" in line


def test_alpha_likewise(run: Run) -> None:
    own = [(alpha_of(arm), row) for row, arm in drafting(run)]
    for estimate, row in own:
        assert estimate is not None and estimate.value == pytest.approx(row.acceptance.alpha)
        assert estimate.low is not None and estimate.low < estimate.value
    least = min(estimate.low for estimate, _ in own if estimate is not None and estimate.low is not None)
    assert list(misses(run, Floors(alpha=least - STEP))) == []
    assert len(list(misses(run, Floors(alpha=least + STEP)))) == 1


def test_texts_that_are_the_same_keep_every_bound_of_quality(run: Run) -> None:
    kept = {row.method for row in summarise(run) if all(q.verdict == "identical" for q in row.quality)}
    told = list(misses(run, Floors(quality_drop=0)))
    assert kept and not any(line.startswith(f"{method} on ") for line in told for method in kept)


def test_one_line_and_exit_code_8(run: Run) -> None:
    with pytest.raises(FloorMissed) as missed:
        require([run], Floors(decode_speedup=99.0, alpha=1.0))
    text = str(missed.value)
    assert missed.value.exit_code == 8 and "\n" not in text and str(RUN) in text
    assert "is not shown to be at least --min-decode-speedup 99" in text
    require([run], Floors())


@pytest.mark.parametrize(
    "bad", [{"decode_speedup": 0.0}, {"decode_speedup": float("nan")}, {"alpha": 1.5}, {"alpha": 0.0},
            {"quality_drop": -1.0}, {"quality_drop": float("inf")}],
)  # fmt: skip
def test_bounds_that_say_nothing_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="--m"):
        Floors(**bad)
