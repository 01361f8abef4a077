"""Samples that fail leave a run that ends with exit code 7; data that changed since are no data to go on with."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from fastvlm_bench.cli.app import app
from fastvlm_bench.measuring import bench
from fastvlm_bench.models.names import TINY
from fastvlm_bench.records.record import read_run
from fastvlm_bench.training import costs

METHODS = ("-m", "layerskip:exit_layer=1,gamma=2")
POSITIONS = 128


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model with so few positions that a prompt which is too long for it costs little."""
    folder = tmp_path_factory.mktemp("short") / "model"
    shutil.copytree(TINY, folder)
    config = json.loads((folder / "config.json").read_text())
    assert config["text_config"]["max_position_embeddings"] > POSITIONS
    config["text_config"]["max_position_embeddings"] = POSITIONS
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def own_data(model: Path, tmp_path: Path) -> Path:
    return seven_samples(tmp_path, model)


@pytest.fixture(scope="module")
def measured(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A run that is over: its data, and what the command said."""
    own_data = seven_samples(tmp_path_factory.mktemp("own"), model)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(costs, "ATTEMPTS", 1)  # that passes are timed is enough here
        return own_data, CliRunner().invoke(app, [str(a) for a in arguments(own_data)], env={"COLUMNS": "100"})


def seven_samples(folder: Path, model: Path) -> Path:
    """Samples of one's own, the third with a prompt longer than the positions of the model beside them."""
    (folder / "model").symlink_to(model)
    image = Image.new("RGB", (96, 96), "white")
    lines = []
    for index in range(7):
        image.putpixel((index, 0), (255, 0, 0))
        image.save(folder / f"{index}.bmp")
        prompt = "Describe this image in detail." if index != 2 else "Describe this image in detail. " * 20
        lines.append({"id": str(index), "image": f"{index}.bmp", "prompt": prompt, "references": ["a white image"]})
    path = folder / "mine.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def arguments(own_data: Path, *more: str | Path) -> list[str | Path]:
    folder = own_data.parent
    return ["run", "--model", folder / "model", "--suite", "jsonl", "--data", own_data, "--threads", "1", "--device",
            "cpu", "--engine", "eager", "--max-new-tokens", "4", "--warmup", "1", "--out", folder / "results", *METHODS,
            *more]  # fmt: skip


def run(own_data: Path, call: Callable[..., Any], *more: str | Path) -> Any:
    return call(*arguments(own_data, *more))


def test_failed_samples_have_an_exit_code_of_their_own(measured: tuple[Path, Any]) -> None:
    own_data, result = measured
    assert result.exit_code == 7, result.output
    assert "2 measurements failed" in result.stderr and "1/7" in result.stdout and "INVALID" in result.stdout
    (folder,) = (own_data.parent / "results").glob("*")
    whole = read_run(folder)
    assert whole.meta["status"] == "success" and len(whole.lines) == 14
    assert {line["sample_id"] for line in whole.lines if line["error"]} == {"2"}


@pytest.mark.slow
def test_a_sweep_goes_on_after_failed_samples(own_data: Path, call: Callable[..., Any]) -> None:
    result = run(own_data, call, "--batch-size", "1,2")
    assert result.exit_code == 7, result.output
    assert len(list((own_data.parent / "results").glob("*/*/run.json"))) == 2


@pytest.mark.slow
@pytest.mark.parametrize(("size", "lost"), [("1", {"4"}), ("2", {"4", "5"})])
def test_a_lost_device_ends_the_run_and_a_resumed_one_goes_on(
    own_data: Path, call: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, size: str, lost: set[str]
) -> None:
    """After a device-side assert every later call fails or lies: the group that met it is void, nothing follows it."""
    real, met = bench.measure, list[int]()

    def poisoned(*given: Any, **options: Any) -> Any:
        recorded = [path.read_text().count("\n") for path in own_data.parent.glob("results/*/samples.jsonl")]
        if met or recorded == [8]:  # four samples by two methods
            met.append(len(met))
            raise torch.AcceleratorError("CUDA error: device-side assert triggered")
        return real(*given, **options)

    monkeypatch.setattr(bench, "measure", poisoned)
    result = run(own_data, call, "--batch-size", size)
    assert result.exit_code == 1 and met == [0], "the device was used again"
    (folder,) = (own_data.parent / "results").glob("*")
    assert "device failed on sample 4 of jsonl" in result.stderr and f"--resume {folder}" in result.stderr
    first = read_run(folder)
    void = [line for line in first.lines if (line["error"] or "").startswith("device_lost: ")]
    assert {line["sample_id"] for line in void} == lost and len(void) == 2 * len(lost) and first.meta["error"]
    monkeypatch.setattr(bench, "measure", real)
    assert run(own_data, call, "--batch-size", size, "--resume", folder).exit_code == 7
    whole = read_run(folder)
    assert len(whole.lines) == 14 and whole.lines[: len(first.lines)] == first.lines
    assert {line["sample_id"] for line in whole.lines if line["error"]} == lost | ({"2"} if size == "1" else {"2", "3"})


def test_resume_refuses_changed_data(
    measured: tuple[Path, Any], call: Callable[..., Any], refused: Callable[..., str]
) -> None:
    own_data, _ = measured
    (folder,) = (own_data.parent / "results").glob("*")
    assert run(own_data, call, "--resume", folder).exit_code == 7, "nothing has changed"
    image, content = own_data.parent / "4.bmp", (own_data.parent / "4.bmp").read_bytes()
    image.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))  # one bit: it keeps its length, and decodes
    message = refused(*arguments(own_data, "--resume", folder))
    assert "the images of jsonl have changed" in message
    image.write_bytes(content)
    own_data.write_text(own_data.read_text().replace("a white image", "a black image"))
    message = refused(*arguments(own_data, "--resume", folder))
    assert "the annotations, or names or sizes of images, of jsonl have changed" in message
