"""`utilisation` on the embedded model: what it prints and writes, and what it refuses."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fastvlm_bench.cli.app import app


def test_what_it_prints_and_writes(tmp_path: Path) -> None:
    arguments = (f"utilisation --limit 2 --max-new-tokens 5 --threads 1 --quiet --json {tmp_path}/all.json "
                 f"--csv {tmp_path}/layers.csv")  # fmt: skip
    result = CliRunner().invoke(app, arguments.split(), catch_exceptions=False, env={"COLUMNS": "80"})
    assert result.exit_code == 0, result.output
    assert "utilisation of tiny on describe" in result.stdout and "compare only on the same samples" in " ".join(
        result.stdout.split()
    )
    told = json.loads((tmp_path / "all.json").read_text())
    table = list(csv.DictReader((tmp_path / "layers.csv").open()))
    assert len(table) == len(told["layers"]) and [row["layer"] for row in table[:2]] == ["1", "2"]
    assert table[-1]["to_full_model"] == "1.0" and float(table[-1]["utilisation_up_to"]) == told["utilisation"]
    used, every = (sum(int(row[name]) for row in table) for name in ("used_neurons", "neurons"))
    assert told["utilisation"] == used / every and told["tokens"] == 10
    assert all(int(row["key_neurons"]) <= int(row["used_neurons"]) <= 2 * int(row["key_neurons"]) for row in table)
    assert [row["samples"] for row in told["growth"]] == [1, 2]
    assert told["growth"][0]["utilisation"] <= told["growth"][1]["utilisation"] == told["utilisation"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--key-share", "0"], "--key-share is 0; it must be above 0 and at most 1"),
        (["--key-share", "1.5"], "--key-share is 1.5; it must be above 0"),
        (["--suite", "describ"], "describe"),
        (["--csv", "/nowhere/at/all/x.csv"], "--csv"),
    ],
)
def test_what_is_refused_before_anything_is_loaded(
    arguments: list[str], told: str, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastvlm_bench.utilisation.study.load_target", lambda *_, **__: pytest.fail("it was loaded"))
    assert told in refused("utilisation", *arguments)
