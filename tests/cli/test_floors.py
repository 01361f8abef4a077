"""`run --min-decode-speedup …`: everything is measured, kept and printed, then exit code 8 and one line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastvlm_bench.records.record import read_run

FEW = ("run", "--threads", "1", "--warmup", "0", "--max-new-tokens", "4", "--limit", "2", "--quiet")


def test_run_keeps_and_prints_all_before(call: Callable[..., Any], tmp_path: Path) -> None:
    result = call(*FEW, "--min-decode-speedup", "900", "--min-alpha", "0.0001", "--out", tmp_path)
    assert result.exit_code == 8 and "fastvlm" in result.stdout
    run = read_run(next(tmp_path.glob("*/run.json")).parent)
    assert run.meta["status"] == "success" and run.meta["config"]["min_decode_speedup"] == 900
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("fastvlm-bench: ")]
    assert "fastvlm on coco-caption" in line and "--min-decode-speedup 900" in line and "--min-alpha" not in line


def test_a_sweep_measures_every_size_first(call: Callable[..., Any], tmp_path: Path) -> None:
    result = call(*FEW, "--batch-size", "1,2", "--min-decode-speedup", "900", "--out", tmp_path)
    assert result.exit_code == 8 and len(list(tmp_path.glob("*/*/run.json"))) == 2


def test_bad_bounds(refused: Callable[..., str]) -> None:
    assert "--min-alpha is 2" in refused("run", "--min-alpha", "2")
    assert "--max-quality-drop is -1" in refused("run", "--max-quality-drop", "-1")
