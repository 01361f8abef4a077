"""`run --show`, and `show` of what was just measured."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

FEW = ("run", "--suite", "describe", "--limit", "2", "--max-new-tokens", "8", "--threads", "1", "--warmup", "0",
       "--engine", "eager")  # fmt: skip


OTHERWISE = [pytest.param(how, marks=pytest.mark.slow) for how in (("--batch-size", "2"), ("--temperature", "1.2"))]


@pytest.mark.parametrize("how", [(), *OTHERWISE], ids=["greedy", "batch", "drawn"])
def test_answers_as_they_are_measured_and_afterwards(call: Callable[..., Any], tmp_path: Path, how: Any) -> None:
    result = call(*FEW, "--show", *how, "-o", tmp_path)
    assert result.exit_code == 0, result.output
    assert "describe · sample 1 · fastvlm" in result.stderr and "describe · sample 2 · fastvlm" in result.stderr
    assert "prefill" in result.stderr and "prefill" not in result.stdout, "answers are part of the progress"
    folder = next(tmp_path.glob("*/run.json")).parent
    later = call("show", folder, "--sample", "1", "--sample", "2")
    assert later.exit_code == 0 and "older record" not in later.stdout and "does not name" not in later.stdout
    for line in later.stdout.splitlines():
        if "describe · sample" in line:
            assert line.strip() in result.stderr


@pytest.mark.parametrize("other", ["--json", "--quiet"])
def test_no_progress_no_answers(refused: Callable[..., str], tmp_path: Path, other: str) -> None:
    assert f"--show prints answers among the progress, which {other} leaves out" in refused(
        *FEW, "--show", other, "-o", tmp_path
    )
