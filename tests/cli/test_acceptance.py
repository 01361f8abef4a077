"""`acceptance` on the embedded model as a stranger would use it: what it prints and writes, and what it refuses."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fastvlm_bench.cli.app import app
from fastvlm_bench.training import costs

(RUN,) = (Path(__file__).parents[2] / "results").glob("*-tiny-describe-*")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """(what was printed at 80 columns, the folder of the files)."""
    out = tmp_path_factory.mktemp("acceptance")
    arguments = ("acceptance --limit 2 --max-new-tokens 8 --exit-layer 2,6 --head raw --head mlp --gamma 2 --stop 0 "
                 f"--threads 1 --quiet --json {out}/all.json --csv {out}/rates.csv --picture {out}/m.svg")  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(costs, "ATTEMPTS", 1)  # that passes are timed is enough here
        result = CliRunner().invoke(app, arguments.split(), catch_exceptions=False, env={"COLUMNS": "80"})
    assert result.exit_code == 0, result.output
    return result, out


def test_what_it_prints(made: tuple[Any, Path]) -> None:
    lines = made[0].stdout.splitlines()
    assert "acceptance of tiny on describe" in lines[0] and "2 answers" in lines[0]
    assert "Read off: " in made[0].stdout and max(map(len, lines)) <= 80
    for text in ("exit 2 mlp", "exit 6 mlp", "other word", "target", "predicted", "2 raw → 6 raw"):
        assert text in made[0].stdout


def test_its_files_say_the_same(made: tuple[Any, Path]) -> None:
    _, out = made
    told = json.loads((out / "all.json").read_text())
    assert told["forced"] == 1.0 and told["texts"] == 2
    tables = {
        name: list(csv.DictReader((out / f"{name}.csv").open()))
        for name in ("rates", "rates-matrix", "rates-predicted")
    }
    whole = {row["exit"]: float(row["agreement"]) for row in tables["rates"] if row["by"] == "all"}
    assert list(whole) == ["exit 2 raw", "exit 2 mlp", "exit 6 raw", "exit 6 mlp"]
    target = {row["exit"]: float(row["agreement"]) for row in tables["rates-matrix"] if row["deeper_exit"] == "target"}
    assert target == whole and whole["exit 2 mlp"] > whole["exit 2 raw"]
    assert {row["copy"] for row in tables["rates-predicted"]} >= {"-m layerskip:exit_layer=6,gamma=2,stop_below=0"}
    assert len(told["predicted"]) == 4 and len(told["hierarchies"]) == 4 and told["against"] is None
    assert "<svg" in (out / "m.svg").read_text()


@pytest.mark.parametrize(
    "arguments, told",
    [
        (["--exit-layer", "12"], "--exit-layer has 12, which is not within 1 .. 11 of model 'tiny'"),
        (
            ["--exit-layer", "2", "--head", "twig"],
            "fastvlm-bench train --model tiny --suite describe --head twig --exit-layer 2",
        ),
        (["--head", "linear"], "fastvlm-bench train --model tiny --suite describe --head linear"),
        (["--head", "atention"], "did you mean 'attention'"),
        (["--suite", "describ"], "describe"),
        (["--gamma", "0"], "--gamma has '0'"),
        (["--picture", "matrix.bmp"], ".pdf, .png, .svg"),
        (["--suite", "vqav2", "--against", str(RUN)], "give --suite describe"),
    ],
)
def test_what_is_refused_before_anything_is_loaded(
    arguments: list[str], told: str, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastvlm_bench.agreement.study.load_target", lambda *_, **__: pytest.fail("it was loaded"))
    assert told in refused("acceptance", *arguments)
