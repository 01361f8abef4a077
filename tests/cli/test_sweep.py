"""`sweep` on the embedded model as a stranger would use it; its folder is a run's."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fastvlm_bench.cli.app import app
from fastvlm_bench.measuring import runner as runners
from fastvlm_bench.measuring.runner import Runner
from fastvlm_bench.models.names import layer_count
from fastvlm_bench.records.record import read_run

GRID = ("sweep", "--suite", "describe", "--limit", "2", "--exit-layer", "1,4", "--gamma", "3", "--stop", "0,0.5",
        "--max-new-tokens", "8", "--warmup", "0", "--threads", "1", "--engine", "eager")  # fmt: skip
Call = Callable[..., Any]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A sweep that is interrupted after its first sample and goes on: (output of the second call, folder, out)."""
    out = tmp_path_factory.mktemp("sweep")
    measured = Runner._measured

    def stop(self: Any, suite: Any, asked: Any, *rest: Any) -> Any:
        if asked[0].samples[0] is not suite.samples[0]:
            raise KeyboardInterrupt
        return measured(self, suite, asked, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runners.Runner, "_measured", stop)
        broken = CliRunner().invoke(app, [*GRID, "--out", str(out)])
    assert broken.exit_code == 130, broken.output
    (folder,) = out.glob("*/")
    arguments = ["sweep", "--resume", str(folder), "--csv", str(out / "grid.csv"), "--plots", str(out), "-f", "svg"]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False, env={"COLUMNS": "80"})
    assert result.exit_code == 0, result.output
    return result, folder, out


def test_what_it_prints(made: Any) -> None:
    result, _, _ = made
    for text in ("exit 1 eagle", "exit 4 mlp", "never stops", "stop 0.5", "γ 3", "α ", "Best of 4 cells"):
        assert text in result.stdout
    assert max(map(len, [line for line in result.stdout.splitlines() if not line.startswith(("records", "-m"))])) <= 80
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("-m fastvlm:head=")]
    assert "gamma=3" in line


def test_the_record_is_a_runs(made: Any) -> None:
    _, folder, _ = made
    run = read_run(folder)
    assert run.meta["status"] == "success" and len(run.lines) == 2 * 5
    assert run.meta["sweep"] == {"head": ["eagle", "mlp"], "exit_layer": [1, 4], "gamma": [3], "stop_below": [0.0, 0.5]}
    ids: dict[str, set[str]] = {}
    for line in run.lines:
        ids.setdefault(line["sample_id"], set()).add(str(line["token_ids"]))
    assert all(len(own) == 1 for own in ids.values()), "every cell is lossless"
    assert {line["order"] for line in run.lines} == set(range(5))


def test_costs_are_measured_once_for_each_draft(made: Any) -> None:
    """Cells that differ in nothing but γ share the seconds of their passes (of suites with enough samples)."""
    _, folder, _ = made
    run = read_run(folder)
    assert "without_stop" not in run.meta or run.meta["without_stop"] == []
    assert run.meta.get("memory", []) == []


def test_csv_and_heat_map(made: Any) -> None:
    _, folder, out = made
    with open(out / "grid.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 and {row["gamma"] for row in rows} == {"3"} and rows[0]["decode_speedup"]
    assert (out / "grid-samples.csv").is_file()
    assert {path.name for path in out.glob("describe-*")} == {
        "describe-heat-map.csv", "describe-heat-map-one-column.svg", "describe-heat-map-two-column.svg"
    }  # fmt: skip


def test_other_commands_read_it(made: Any, call: Call, tmp_path: Path) -> None:
    _, folder, _ = made
    for arguments in (
        ("report", folder), ("report", folder, "--details"), ("show", folder), ("compare", folder, folder),
        ("export", folder), ("report", folder, "--html", tmp_path / "page.html"),
    ):  # fmt: skip
        assert call(*arguments).exit_code == 0, arguments
    assert "Best of 4 cells" in call("report", folder).stdout
    shown = json.loads(call("sweep", "--resume", folder, "--json").stdout)
    assert shown["swept"][0]["ranked"] == 4 and len(shown["swept"][0]["cells"]) == 4


def test_resume_takes_its_own_options(made: Any, refused: Callable[..., str], tmp_path: Path) -> None:
    _, folder, _ = made
    assert "leave out --gamma" in refused("sweep", "--resume", folder, "--gamma", "9")
    assert "not a run folder" in refused("sweep", "--resume", tmp_path)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--gamma", "9:2"], ["--gamma", "empty"]),
        (["--exit-layer", "40"], [f"1 .. {layer_count('tiny') - 1}"]),
        (["--exit-layer", "5"], ["no draft has a head at exit 5", "train"]),
        (["--gamma", "1:60", "--stop", "0,0.5"], ["at most 128"]),
        (["--suite", "descrbe"], ["unknown suite", "did you mean 'describe'?"]),
        (["--model", "tinny"], ["unknown model"]),
        (["--plots", "/proc/none"], ["--plots"]),
    ],
)
def test_refused(arguments: list[str], says: list[str], refused: Callable[..., str], tmp_path: Path) -> None:
    line = refused("sweep", *arguments, "--out", tmp_path / "out")
    for text in says:
        assert text in line
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["eager", "graphs"])
def test_predict_first_says_what_it_leaves_out(call: Call, tmp_path: Path, engine: str) -> None:
    """The raw exit 1 drafts nonsense, and a head is good: no prediction holds the former a winner."""
    result = call("sweep", "--limit", "6", "--exit-layer", "1", "--head", "eagle", "--head", "raw", "--gamma", "2,8",
                  "--stop", "0", "--max-new-tokens", "40", "--warmup", "0", "--threads", "1", "--predict-first",
                  "--engine", engine, "--out", tmp_path)  # fmt: skip
    assert result.exit_code == 0, result.output
    run = read_run(next(tmp_path.glob("*/")))
    predicted = {entry["method"]: entry["decode_speedup"] for entry in run.meta["sweep"]["predicted"]}
    left = {entry["label"] for entry in run.meta["left_out"]}
    assert len(predicted) == 4 and left and all(predicted[label] < 0.9 * max(predicted.values()) for label in left)
    assert any(label.startswith("layerskip") for label in left)
    assert {m["label"] for m in run.meta["methods"]} == {"standard"} | (predicted.keys() - left)
    assert "Left out by prediction" in result.stdout
