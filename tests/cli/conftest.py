"""The command line in this process: torch and the embedded model are loaded once."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fastvlm_bench.cli.app import app
from fastvlm_bench.engine import graphs

KEEP_AUTO = ("test_run", "test_engine", "test_sweep")
"""Tests of the main command, of the engine, and of many methods together have the engine that users have."""


@pytest.fixture(scope="module", autouse=True)
def quickly(quick_bounds: None) -> None:
    """These tests look at what commands do and say: results has the tests of the numbers."""


@pytest.fixture(scope="module", autouse=True)
def eagerly(request: pytest.FixtureRequest) -> Iterator[None]:
    """To record passes takes longer than the few tokens that most of these tests decode."""
    if request.path.stem in KEEP_AUTO:
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graphs, "GRAPHS_ON", frozenset({"cuda"}))
        yield


@pytest.fixture
def call() -> Callable[..., Any]:
    """Runs `fastvlm-bench ARGS`; an exception that is no clean exit fails the test."""

    def invoke(*arguments: str | Path) -> Any:
        result = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False, env={"COLUMNS": "100"})
        return result

    return invoke


@pytest.fixture
def refused(call: Callable[..., Any]) -> Callable[..., str]:
    """Runs a command that must be refused: exit code 2, one line, no traceback; returns the line."""

    def invoke(*arguments: str | Path) -> str:
        result = call(*arguments)
        assert result.exit_code == 2, result.output
        lines = [line for line in result.stderr.splitlines() if line.startswith("fastvlm-bench: ")]
        assert len(lines) == 1 and result.stderr.rstrip().endswith(lines[0]), result.stderr
        assert "Traceback" not in result.output
        return str(lines[0])

    return invoke
