"""Commands that read runs take folders of runs, too, as a shell's `results/*/` gives them: runs, sweeps and others."""

import csv
import io
import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

BUILD = runpy.run_path(str(Path(__file__).parents[1] / "results" / "conftest.py"))


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs that can be compared, a sweep over two batch sizes, and a folder without a run."""
    root = tmp_path_factory.mktemp("results")
    for place, (name, size) in enumerate((("a", 1), ("b", 1), ("sweep/one", 1), ("sweep/two", 2))):
        meta = {"run_id": name.replace("/", "-"), "config": {"batch_size": size},
                "started_at": f"2026-11-2{place}T10:00:00Z"}  # fmt: skip
        BUILD["write_run"](root / name, suites=[BUILD["suite"](n=6)], meta=meta)
    (root / "pictures").mkdir()
    return root


def ids(text: str) -> list[str]:
    return list(dict.fromkeys(row["run_id"] for row in csv.DictReader(io.StringIO(text))))


def test_every_way_to_name_runs(call: Callable[..., Any], results: Path) -> None:
    every = ["a", "b", "sweep-one", "sweep-two"]
    globbed = call("export", *sorted(results.iterdir()))
    assert ids(globbed.stdout) == every and "no run in" in globbed.stderr and "pictures" in globbed.stderr
    assert ids(call("export", results).stdout) == every
    assert ids(call("export", results / "sweep").stdout) == every[2:]
    assert ids(call("export", results / "a", results).stdout) == every
    told = json.loads(call("export", results / "sweep", "--format", "json").stdout)
    assert [one["run_id"] for one in told] == every[2:]
    assert call("report", results / "sweep").stdout.count("records: ") == 2


def test_compare_shows_what_can_be_compared_and_names_the_rest(call: Callable[..., Any], results: Path) -> None:
    for named in ([results], sorted(results.iterdir())):
        found = call("compare", *named)
        assert found.exit_code == 0, found.output
        assert "A = b" in found.stdout and "B = a" in found.stdout
        assert "a sweep over batch sizes" in " ".join(found.stdout.split())
    assert call("compare", "--force", results).stdout.count("FORCED") >= 1


def test_what_is_none(refused: Callable[..., str], results: Path) -> None:
    sweep = results / "sweep"
    assert f"fastvlm-bench batches {sweep}" in refused("compare", sweep)
    assert "holds 2 runs, and show is of one" in refused("show", sweep)
    for command in ("export", "report", "compare", "batches"):
        assert "is not a folder" in refused(command, results / "none")
        assert "no run in" in refused(command, results / "pictures")
    assert "eval-results is of one run, not of 2" in refused("export", sweep, "--format", "eval-results")
