"""`run --min-decode-speedup …`: everything is measured, kept and printed, then exit code 8 and one line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fastvlm_bench.config import RunConfig
from fastvlm_bench.measuring import batch_sweep, bench
from fastvlm_bench.measuring.signals import INTERRUPTED, TERMINATED
from fastvlm_bench.method_spec import CONTROL, METHODS, REFERENCE
from fastvlm_bench.records.record import read_run

FEW = ("run", "--threads", "1", "--warmup", "0", "--max-new-tokens", "4", "--limit", "2", "--quiet")


@pytest.mark.slow
def test_run_keeps_and_prints_all_before(call: Callable[..., Any], tmp_path: Path) -> None:
    result = call(*FEW, "--limit", "5", "--min-decode-speedup", "900", "--min-alpha", "0.0001", "--out", tmp_path)
    assert result.exit_code == 8 and "fastvlm" in result.stdout
    run = read_run(next(tmp_path.glob("*/run.json")).parent)
    assert run.meta["status"] == "success" and run.meta["config"]["min_decode_speedup"] == 900
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("fastvlm-bench: ")]
    assert "fastvlm on coco-caption" in line and "--min-decode-speedup 900" in line and "--min-alpha" not in line


@pytest.mark.slow
def test_a_sweep_measures_every_size_first(call: Callable[..., Any], tmp_path: Path) -> None:
    result = call(*FEW, "--batch-size", "1,2", "--min-decode-speedup", "900", "--out", tmp_path)
    assert result.exit_code == 8 and len(list(tmp_path.glob("*/*/run.json"))) == 2
    (folder,) = tmp_path.iterdir()
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("fastvlm-bench: ")]
    assert "batch size 1: " in line and "batch size 2: " in line
    assert line.endswith(f"everything is kept in {folder}")


@pytest.mark.slow
@pytest.mark.parametrize("required", [("--min-decode-speedup", "900"), ("--require-valid",)])
@pytest.mark.parametrize("ended", [INTERRUPTED, TERMINATED])
def test_a_sweep_that_ended_early_keeps_its_own_code(
    call: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, required: tuple[str, ...], ended: int
) -> None:
    real, codes = batch_sweep.run_benchmark, iter([None, ended])

    def interrupted(*given: Any, **options: Any) -> int:
        code = next(codes)
        return real(*given, **options) if code is None else code

    monkeypatch.setattr(batch_sweep, "run_benchmark", interrupted)
    result = call(*FEW, "--batch-size", "1,2", *required, "--out", tmp_path)
    assert result.exit_code == ended and "go on with the other sizes" in result.stderr
    assert "kept in" not in result.stderr and "INVALID" not in result.stderr


@pytest.mark.slow
def test_failed_measurements_are_told_before_the_bound(
    call: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever ends the run, the line about failed measurements stands before its own."""
    real, calls = bench.measure, []

    def measure(*given: Any, **options: Any) -> Any:
        calls.extend([1] if "phases" in options else [])  # the warm-up does not ask for them
        if len(calls) == 2:
            calls.append(1)
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(*given, **options)

    monkeypatch.setattr(bench, "measure", measure)
    for required, code, said in ((("--min-alpha", "0.0001"), 8, "(1 of 6 samples failed)"),
                                 (("--require-valid",), 8, "INVALID")):  # fmt: skip
        calls.clear()
        result = call(*FEW, "--limit", "6", *required, "--out", tmp_path / required[0])
        assert result.exit_code == code
        first, second = (line for line in result.stderr.splitlines() if line.startswith("fastvlm-bench: "))
        assert "1 measurements failed" in first and "INVALID" in second and said.strip("()") in second


BOUNDS = {"--min-decode-speedup": "1.1", "--min-alpha": "0.5", "--max-quality-drop": "0"}
NOBODY = [
    (("standard",), tuple(BOUNDS)), (("control",), tuple(BOUNDS)), (("standard", "control"), tuple(BOUNDS)),
    *(((name,), ("--min-alpha",)) for name, kind in METHODS.items()
      if not kind.drafts and name not in (REFERENCE, CONTROL)),
]  # fmt: skip


@pytest.mark.parametrize(("methods", "options"), NOBODY)
def test_bounds_that_nothing_can_miss(
    refused: Callable[..., str], methods: tuple[str, ...], options: tuple[str, ...]
) -> None:
    for option in options:
        asked = [word for name in methods for word in ("-m", name)]
        line = refused("run", *asked, option, BOUNDS[option])
        assert f"{option} has no effect: none of the methods" in line and methods[-1] in line


@pytest.mark.parametrize("name", [name for name, kind in METHODS.items() if kind.drafts and name != CONTROL])
def test_every_method_that_drafts_can_miss_alpha(name: str) -> None:
    needed = ",".join(f"{key}={'1+2' if key == 'levels' else 'there'}" for key in METHODS[name].needed)
    RunConfig(methods=(f"{name}:{needed}" if needed else name,), min_alpha=0.5)


def test_a_suite_without_metrics(refused: Callable[..., str]) -> None:
    line = refused("run", "--suite", "mmspec", "--max-quality-drop", "1")
    assert "--max-quality-drop has no effect: suite mmspec has no metric" in line and "--metric" in line


def test_bad_bounds(refused: Callable[..., str]) -> None:
    assert "--min-alpha is 2" in refused("run", "--min-alpha", "2")
    assert "--max-quality-drop is -1" in refused("run", "--max-quality-drop", "-1")
    assert "above 0 and below 1000" in refused("run", "--min-decode-speedup", "1000")
