"""`--resume RUN` alone goes on: what was not typed is as the run recorded it, and only what was typed can differ."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from fastvlm_bench.cli.app import app
from fastvlm_bench.cli.resuming import FIELDS
from fastvlm_bench.config import RunConfig
from fastvlm_bench.measuring import benchmark
from fastvlm_bench.records.record import RunWriter

UNUSUAL: dict[str, Any] = {
    "suites": ("vqav2", "describe"), "model": "/some/model", "draft": "/some/draft",
    "methods": ("standard", "fastvlm:stop_below=0.5"), "gamma": 3, "exit_layer": 2, "split": "embedded",
    "data": "/some/data", "limit": 7, "repeats": 2, "warmup": 1, "max_new_tokens": 9, "prompt_set": "llava",
    "prompt": "Say {question}", "seed": 5, "device": "cpu", "dtype": "float32", "device_map": "auto", "attn": "eager",
    "quantize": "4bit", "trust_remote_code": True, "offline": True, "threads": 1, "batch_size": 2, "control": False,
    "engine": "graphs", "compile": True,
    "ignore_eos": True, "invocations": 2, "shard": "2/3", "require_lossless": True, "require_valid": True,
    "min_decode_speedup": 1.5, "min_alpha": 0.2, "max_quality_drop": 3.0, "margin": 2.0,
    "variants": ("vqa_accuracy=official",), "java": True, "metrics": ("rouge_l",),
}  # fmt: skip
OTHERS: dict[str, Any] = {"temperature": 0.7, "top_p": 0.9, "top_k": 4, "phases": True, "budget": 9.0,
                          "until_width": 0.1}  # fmt: skip
"""These do not go with some of the above."""
ALONE: dict[str, Any] = {"energy": 5.0, "refine": True, "tensor_parallel": True}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[RunConfig]:
    """The configurations that `run` was called with; nothing is measured."""
    found: list[RunConfig] = []
    monkeypatch.setattr(benchmark, "run_benchmark", lambda config, **_: found.append(config) or 0)
    return found


def recorded(tmp_path: Path, config: RunConfig) -> Path:
    folder = tmp_path / "kept"
    meta = {"run_id": "kept", "status": "started", "config": config.to_dict(), "config_sha256": config.sha256(),
            "suites": [], "model": {"id": config.model}, "methods": [], "reference": "standard"}  # fmt: skip
    with RunWriter.create(folder, meta) as writer:
        writer.finish("interrupted")
    return folder


def call(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["run", *map(str, arguments)])


@pytest.mark.parametrize("options", [UNUSUAL, OTHERS, *({name: value} for name, value in ALONE.items()), {}])
def test_every_option_comes_from_the_record(tmp_path: Path, asked: list[RunConfig], options: dict[str, Any]) -> None:
    before = RunConfig(**options)
    folder = recorded(tmp_path, before)
    done = call("--resume", folder)
    assert done.exit_code == 0, done.output
    (config,) = asked
    assert config.sha256() == before.sha256()
    assert {**config.to_dict(), "out": ""} == {**before.to_dict(), "out": ""} and config.out == str(folder.parent)


def test_the_cases_name_every_field() -> None:
    fields = {field.name for field in dataclasses.fields(RunConfig)}
    assert fields - {"out", "resume", "json"} == {*UNUSUAL, *OTHERS, *ALONE}
    command = typer.main.get_command(app).commands["run"]  # type: ignore[attr-defined]
    shown = {
        "resume",
        "csv",
        "predictions_out",
        "json",
        "show",
        "details",
        "trackers",
        "quiet",
        "config",
        "max_image_pixels",
    }
    assert {FIELDS.get(param.name, param.name) for param in command.params} - shown <= fields


@pytest.mark.parametrize(
    ("typed", "field", "value"),
    [
        (("--limit", 3), "limit", 3), (("-s", "coco-caption"), "suites", ["coco-caption"]),
        (("-m", "layerskip:exit_layer=1"), "methods", ["standard", "layerskip:exit_layer=1"]),
        (("--batch-size", 4), "batch_size", 4), (("--control",), "control", True),
        (("--metric", "bleu4"), "metrics", ["bleu4"]), (("--model", "tiny"), "model", "tiny"),
    ],
)  # fmt: skip
def test_what_is_typed_wins(
    tmp_path: Path, asked: list[RunConfig], typed: tuple[object, ...], field: str, value: Any
) -> None:
    before = RunConfig(**{**UNUSUAL, "gamma": None, "exit_layer": None})
    folder = recorded(tmp_path, before)
    done = call("--resume", folder, *typed)
    assert done.exit_code == 0, done.output
    (config,) = asked
    assert config.to_dict()[field] == value
    same = {name: own for name, own in config.to_dict().items() if name not in (field, "out")}
    assert same == {name: own for name, own in before.to_dict().items() if name not in (field, "out")}


def test_a_typed_option_that_differs_is_refused_by_its_name_alone(tmp_path: Path) -> None:
    before = RunConfig(suites=("vqav2",), limit=3, margin=2.0)
    folder = recorded(tmp_path, before)
    done = call("--resume", folder, "--limit", 2, "--margin", 1)
    assert done.exit_code == 2
    assert f"{folder} was made with another configuration (limit: 3 -> 2); leave those options out" in done.stderr


def test_another_place_is_refused_and_its_own_is_not(tmp_path: Path, asked: list[RunConfig]) -> None:
    folder = recorded(tmp_path / "results", RunConfig())
    done = call("--resume", folder, "--out", tmp_path / "elsewhere")
    assert done.exit_code == 2 and f"--resume goes on in {folder}; leave one of them out" in done.stderr
    for own in (tmp_path / "results", tmp_path):  # of a single run, and of a folder of runs
        assert call("--resume", folder, "--out", own).exit_code == 0
    assert [config.out for config in asked] == [str(tmp_path / "results"), str(tmp_path)]


def test_a_file_of_config_counts_as_typed(tmp_path: Path, asked: list[RunConfig]) -> None:
    folder = recorded(tmp_path, RunConfig(suites=("vqav2",), limit=3))
    (tmp_path / "asked.json").write_text(json.dumps({"limit": 4}))
    assert call("--resume", folder, "--config", tmp_path / "asked.json").exit_code == 0
    assert (asked[0].limit, asked[0].suites) == (4, ("vqav2",))
