"""`--require-valid`: an INVALID run is measured, kept and printed, and then ends with an exit code of its own."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastvlm_bench.records.record import read_run

FEW = ("run", "--threads", "1", "--warmup", "0", "--max-new-tokens", "4", "--limit", "2", "--quiet")


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """(What the command said, folder) of a run of two samples, which are too few."""
    from typer.testing import CliRunner

    from fastvlm_bench.cli.app import app

    out = tmp_path_factory.mktemp("results")
    result = CliRunner().invoke(app, [*FEW, "--require-valid", "--out", str(out)], catch_exceptions=False)
    return result, next(out.glob("*/run.json")).parent


@pytest.fixture
def invalid(ran: tuple[Any, Path]) -> Path:
    return ran[1]


def told(result: Any) -> str:
    """The only line of the error."""
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("fastvlm-bench: ")]
    return str(line)


def test_run_keeps_and_prints_all_before(ran: tuple[Any, Path]) -> None:
    result, folder = ran
    assert result.exit_code == 8 and "INVALID" in result.stdout
    run = read_run(folder)
    assert run.meta["status"] == "success" and len(run.lines) == 4
    assert f"INVALID, and --require-valid asks for VALID: {run.run_id} (" in told(result)
    assert "at least 5 are needed" in told(result)


@pytest.mark.slow
def test_a_sweep_measures_every_size_first(call: Callable[..., Any], tmp_path: Path) -> None:
    result = call(*FEW, "--batch-size", "1,2", "--require-valid", "--out", tmp_path)
    assert result.exit_code == 8 and len(list(tmp_path.glob("*/*/run.json"))) == 2
    assert told(result).count("samples measured in both arms") >= 1


def test_report_and_compare(call: Callable[..., Any], invalid: Path) -> None:
    for words in (("report", invalid), ("compare", invalid, invalid)):
        plain, result = call(*words), call(*words, "--require-valid")
        assert plain.exit_code == 0
        assert result.exit_code == 8 and result.stdout == plain.stdout and invalid.name in told(result)
    valid = next((Path(__file__).parents[2] / "results").glob("*-coco-caption-*/run.json")).parent
    assert call("report", valid, "--require-valid").exit_code == 0


def test_other_failures_keep_their_codes(call: Callable[..., Any], invalid: Path) -> None:
    """Whatever ended a run before it could be judged is told as without the option."""
    assert call("report", invalid / "nothing", "--require-valid").exit_code == 2
    assert call(*FEW, "--suite", "nothing", "--require-valid").exit_code == 2
