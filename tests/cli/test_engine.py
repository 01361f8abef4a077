"""`run --engine graphs`: what is recorded of it, and that an engine that says otherwise is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fastvlm_bench.engine import slots
from fastvlm_bench.records.record import Run, read_run

OPTIONS = ("run", "--suite", "describe", "--limit", "1", "--max-new-tokens", "10", "--warmup", "1", "--threads", "1",
           "-m", "layerskip:exit_layer=2", "--engine", "graphs")  # fmt: skip


def ran(call: Callable[..., Any], out: Path) -> Run:
    done = call(*OPTIONS, "--out", out)
    assert done.exit_code == 0, done.output
    assert "engine graphs" in done.output
    return read_run(next(out.iterdir()))


def test_a_run_names_its_engine_and_what_recording_took(call: Callable[..., Any], tmp_path: Path) -> None:
    run = ran(call, tmp_path)
    assert run.meta["config"]["engine"] == "graphs"
    engine = run.meta["engine"]
    assert engine["self_check"].startswith("identical, logits differ by ") and engine["eager"] == []
    assert engine["passes"] >= 3 and engine["record_s"] > 0 and engine["record_bytes"] > 0
    assert [line["losslessness"] for line in run.lines if line["method"] != "standard"] == [{"outcome": "identical"}]


@pytest.mark.slow
def test_an_engine_that_says_otherwise_is_refused_before_anything_is_measured(
    call: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def early(self: slots.Slots, count: int) -> None:
        self.columns = self.start + torch.arange(count) - 3

    monkeypatch.setattr(slots.Slots, "open", early)
    run = ran(call, tmp_path)
    engine = run.meta["engine"]
    assert engine["passes"] == 1, "the one of the check"
    assert "recorded passes are not the eager ones" in engine["eager"][0]
    assert [n["name"] for n in run.meta["warnings"] if n["name"] in ("EagerEngine", "RecordedLate")] == ["EagerEngine"]


def test_an_unknown_engine_is_refused(refused: Callable[..., str], tmp_path: Path) -> None:
    line = refused("run", "--engine", "graph", "--out", tmp_path)
    assert "graph" in line and "eager, graphs" in line
