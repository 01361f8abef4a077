"""`run --engine`: what is recorded of it, which one `auto` is, and that an engine that says otherwise is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from covering import covering

from fastvlm_bench.analysis.settings import engine_of
from fastvlm_bench.engine import slots
from fastvlm_bench.engine.graphs import Graphs, engine_named
from fastvlm_bench.records.record import Run, read_run

OPTIONS = ("run", "--suite", "describe", "--limit", "1", "--max-new-tokens", "10", "--warmup", "1", "--threads", "1",
           "-m", "layerskip:exit_layer=2")  # fmt: skip
ASKED = ["graphs", "auto"]
"""`auto`, the default, is graphs on a CPU."""


def ran(call: Callable[..., Any], out: Path, engine: str) -> Run:
    done = call(*OPTIONS, *(("--engine", engine) if engine != "auto" else ()), "--out", out)
    assert done.exit_code == 0, done.output
    assert "engine graphs" in done.output
    return read_run(next(out.iterdir()))


@pytest.mark.parametrize("asked", covering(ASKED, ASKED[:1]))
def test_a_run_names_its_engine_and_what_recording_took(call: Callable[..., Any], tmp_path: Path, asked: str) -> None:
    run = ran(call, tmp_path, asked)
    assert run.meta["config"]["engine"] == asked
    assert run.meta["environment"]["engine"] == engine_of(run) == "graphs"
    engine = run.meta["engine"]
    assert engine["self_check"].startswith("identical, logits differ by ") and engine["eager"] == []
    assert engine["passes"] >= 3 and engine["record_s"] > 0 and engine["record_bytes"] > 0
    assert [line["losslessness"] for line in run.lines if line["method"] != "standard"] == [{"outcome": "identical"}]


@pytest.mark.slow
@pytest.mark.parametrize("asked", ASKED)
def test_an_engine_that_says_otherwise_is_refused_before_anything_is_measured(
    call: Callable[..., Any], tmp_path: Path, asked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nobody asked for it, all methods are `eager`'s, the record says so, and there is nothing to warn of."""

    def early(self: slots.Slots, count: int) -> None:
        self.columns = self.start + torch.arange(count) - 3

    monkeypatch.setattr(slots.Slots, "open", early)
    run = ran(call, tmp_path, asked)
    warned = [n["name"] for n in run.meta["warnings"] if n["name"] in ("EagerEngine", "RecordedLate")]
    if asked == "auto":
        assert run.meta["environment"]["engine"] == "eager" and "engine" not in run.meta and not warned
        return
    engine = run.meta["engine"]
    assert engine["passes"] == 1, "the one of the check"
    assert "recorded passes are not the eager ones" in engine["eager"][0] and warned == ["EagerEngine"]


def test_auto_is_graphs_where_recordings_are_known_to_work() -> None:
    names = {device: engine_named("auto", torch.device(device)).name for device in ("cuda", "cuda:1", "cpu", "mps")}
    assert names == {"cuda": "graphs", "cuda:1": "graphs", "cpu": "graphs", "mps": "eager"}
    parts = {device: engine_named("auto", torch.device(device), compiled=True).name for device in ("cuda", "cpu")}
    assert parts == {"cuda": "graphs", "cpu": "eager"}, "a tape cannot see compiled code"
    for name in ("eager", "graphs"):
        assert all(engine_named(name, torch.device(device)).name == name for device in names)


def test_auto_gives_way_to_eager_alone() -> None:
    """Of several processes one would change its engine, and the others not."""
    cuda = torch.device("cuda")
    for engine, name in ((engine_named("auto", cuda), "eager"), (engine_named("auto", cuda, alone=False), "graphs"),
                         (engine_named("graphs", cuda), "graphs")):  # fmt: skip
        assert isinstance(engine, Graphs)
        engine.refuse("it says something else")
        assert engine.name == name and engine.refusal(object()) == "it says something else"
        assert [notice["name"] for notice in engine.notices()] == ["EagerEngine"] * (name == "graphs")


def test_an_unknown_engine_is_refused(refused: Callable[..., str], tmp_path: Path) -> None:
    line = refused("run", "--engine", "graph", "--out", tmp_path)
    assert "graph" in line and "auto, eager, graphs" in line
