"""Samples that fail leave a run that ends with exit code 7; data that changed since are no data to go on with."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from fastvlm_bench.measuring import runner
from fastvlm_bench.records.record import read_run

METHODS = ("-m", "layerskip:exit_layer=1,gamma=2")


@pytest.fixture
def own_data(tmp_path: Path) -> Path:
    """Seven samples of one's own, the third with a prompt longer than the model's 1,024 positions."""
    image = Image.new("RGB", (96, 96), "white")
    lines = []
    for index in range(7):
        image.putpixel((index, 0), (255, 0, 0))
        image.save(tmp_path / f"{index}.bmp")
        prompt = "Describe this image in detail." if index != 2 else "Describe this image in detail. " * 400
        lines.append({"id": str(index), "image": f"{index}.bmp", "prompt": prompt, "references": ["a white image"]})
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def run(own_data: Path, call: Callable[..., Any], *more: str | Path) -> Any:
    out = own_data.parent / "results"
    return call("run", "--suite", "jsonl", "--data", own_data, "--threads", "1", "--max-new-tokens", "4", "--warmup",
                "1", "--out", out, *METHODS, *more)  # fmt: skip


def test_failed_samples_have_an_exit_code_of_their_own(own_data: Path, call: Callable[..., Any]) -> None:
    result = run(own_data, call)
    assert result.exit_code == 7, result.output
    assert "2 measurements failed" in result.stderr and "1/7" in result.stdout and "INVALID" in result.stdout
    (folder,) = (own_data.parent / "results").glob("*")
    whole = read_run(folder)
    assert whole.meta["status"] == "success" and len(whole.lines) == 14
    assert {line["sample_id"] for line in whole.lines if line["error"]} == {"2"}


def test_a_sweep_goes_on_after_failed_samples(own_data: Path, call: Callable[..., Any]) -> None:
    result = run(own_data, call, "--batch-size", "1,2")
    assert result.exit_code == 7, result.output
    assert len(list((own_data.parent / "results").glob("*/*/run.json"))) == 2


@pytest.mark.parametrize(("size", "lost"), [("1", {"4"}), ("2", {"4", "5"})])
def test_a_lost_device_ends_the_run_and_a_resumed_one_goes_on(
    own_data: Path, call: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, size: str, lost: set[str]
) -> None:
    """After a device-side assert every later call fails or lies: the group that met it is void, nothing follows it."""
    real, met = runner.measure, list[int]()

    def poisoned(*given: Any, **options: Any) -> Any:
        recorded = [path.read_text().count("\n") for path in own_data.parent.glob("results/*/samples.jsonl")]
        if met or recorded == [8]:  # four samples by two methods
            met.append(len(met))
            raise torch.AcceleratorError("CUDA error: device-side assert triggered")
        return real(*given, **options)

    monkeypatch.setattr(runner, "measure", poisoned)
    result = run(own_data, call, "--batch-size", size)
    assert result.exit_code == 1 and met == [0], "the device was used again"
    (folder,) = (own_data.parent / "results").glob("*")
    assert "device failed on sample 4 of jsonl" in result.stderr and f"--resume {folder}" in result.stderr
    first = read_run(folder)
    void = [line for line in first.lines if (line["error"] or "").startswith("device_lost: ")]
    assert {line["sample_id"] for line in void} == lost and len(void) == 2 * len(lost) and first.meta["error"]
    monkeypatch.setattr(runner, "measure", real)
    assert run(own_data, call, "--batch-size", size, "--resume", folder).exit_code == 7
    whole = read_run(folder)
    assert len(whole.lines) == 14 and whole.lines[: len(first.lines)] == first.lines
    assert {line["sample_id"] for line in whole.lines if line["error"]} == lost | ({"2"} if size == "1" else {"2", "3"})


@pytest.mark.parametrize("what", ["images", "annotations or names"])
def test_resume_refuses_changed_data(
    own_data: Path, call: Callable[..., Any], refused: Callable[..., str], what: str
) -> None:
    assert run(own_data, call).exit_code == 7
    (folder,) = (own_data.parent / "results").glob("*")
    assert run(own_data, call, "--resume", folder).exit_code == 7, "nothing has changed"
    if what == "images":  # one bit of one pixel: the file keeps its length, and decodes
        path = own_data.parent / "4.bmp"
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(bytes(content))
    else:
        own_data.write_text(own_data.read_text().replace("a white image", "a black image"))
    message = refused("run", "--suite", "jsonl", "--data", own_data, "--threads", "1", "--max-new-tokens", "4",
                      "--warmup", "1", "--out", own_data.parent / "results", *METHODS, "--resume", folder)  # fmt: skip
    assert f"the {what} of jsonl have changed" in message
