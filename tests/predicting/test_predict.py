"""The command: a page for a published configuration, its JSON, drafts, and every kind of bad input in one line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers

from fastvlm_bench.drafts.speculation_profile import PROFILE
from fastvlm_bench.models.names import TINY_DRAFTS, layer_count
from fastvlm_bench.predicting.devices import DEVICES, find_device

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """config.json of llava-1.5-7b, from transformers' own defaults, which are its: Vicuna 7B and CLIP ViT-L/14-336."""
    vision = transformers.CLIPVisionConfig(
        hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, image_size=336,
        patch_size=14, projection_dim=768,
    )  # fmt: skip
    config = transformers.LlavaConfig(
        vision_config=vision, text_config=transformers.LlamaConfig(vocab_size=32064), dtype="float16"
    )
    folder = tmp_path_factory.mktemp("llava-1.5-7b-hf")
    config.save_pretrained(folder)
    return folder / "config.json"


@pytest.fixture(scope="module")
def tiny_json() -> dict[str, Any]:
    from typer.testing import CliRunner

    from fastvlm_bench.cli.app import app

    result = CliRunner().invoke(app, ["predict", "--json"], catch_exceptions=False)
    assert result.exit_code == 0
    return dict(json.loads(result.stdout))


def test_a_page_for_llava_on_an_h100(call: Callable[..., Any], published: Path) -> None:
    result = call("predict", "--model", published, "--device", "h100")
    assert result.exit_code == 0 and result.stderr == ""
    lines = result.stdout.splitlines()
    assert len(lines) < 60 and max(map(len, lines)) <= 100
    told = " ".join(result.stdout.split())  # the name of the file is long, so its line is wrapped
    assert "(7.06 billion parameters, 32 layers) on NVIDIA H100 SXM" in told
    standard = next(line for line in lines if line.startswith("standard: 1 token")).split()
    # 6.607 billion parameters are read at each token, in two bytes, and half a GB of KV: 4.1 ms at 3.35 TB/s.
    assert [float(cell) for cell in standard[3:6]] == [13.8, 13.8, 4.11]
    for piece in ("α for", "gain ends", "Left out", "Memory: weights 14.13 GB", "KV of 1024 positions 0.54 GB"):
        assert piece in result.stdout


def test_json_has_the_same_and_is_consistent(tiny_json: dict[str, Any]) -> None:
    own = tiny_json["passes"]
    for alpha, row in tiny_json["surface"].items():
        for gamma in (key for key in row if key != "best" and key in own["verify"]):
            expected = sum(float(alpha) ** i for i in range(int(gamma) + 1))
            seconds = (int(gamma) + 1) * own["draft"]["seconds"] + own["verify"][gamma]["seconds"]
            assert row[gamma] == pytest.approx(expected * own["standard"]["seconds"] / seconds)
            assert row[gamma] <= row["best"]["speedup"] + 1e-12
    needs = [row["least_alpha"]["1.25"] for row in tiny_json["exits"]]
    assert needs == sorted(needs) and tiny_json["layers"] == layer_count("tiny")


def test_a_draft_brings_its_exit_head_and_rates(call: Callable[..., Any], tmp_path: Path) -> None:
    import shutil

    folder = shutil.copytree(TINY_DRAFTS / "attention-exit2", tmp_path / "draft")
    plain = json.loads(call("predict", "--draft", folder, "--json", "--batch-size", "1").stdout)
    assert (plain["exit_layer"], plain["head"]) == (2, "attention") and plain["memory"]["draft"] > 0
    (folder / PROFILE).write_text(json.dumps({"version": 1, "conditional_acceptance_rates": [0.5, 0.25]}))
    with_rates = json.loads(call("predict", "--draft", folder, "--json", "--batch-size", "1").stdout)
    assert with_rates["acceptance"]["by_place"] == [0.5, 0.25]
    assert with_rates["best"]["speedup"] < plain["best"]["speedup"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--device", "h10"], ["unknown device 'h10'", "h100", "rtx4090", "--bandwidth", "doctor --roofline"]),
        (["--device", "mine", "--bandwidth", "0", "--tflops", "1"], ["--bandwidth is 0", "above 0"]),
        (["--device", "measured:none.json"], ["none.json", "doctor --roofline --json"]),
        (["--device", "t4", "--dtype", "bf16"], ["t4", "bfloat16", "float16, float32", "--tflops"]),
        (["--exit-layer", "99"], ["99", f"1 .. {layer_count('tiny') - 1}"]),
        (["--exit-layer", "0"], ["--exit-layer", "'0'"]),
        (["--exit-layer", "2,2"], ["once"]),
        (["--exit-layer", "1:4"], ["--exit-layer", "commas"]),
        (["--gamma", "17"], ["--gamma", "1 .. 16"]),
        (["--alpha", "1.2"], ["--alpha", "0 to 1"]),
        (["--alpha", "nan"], ["--alpha", "0 to 1"]),
        (["--head", "mpl"], ["'mpl'", "attention", "did you mean 'mlp'"]),
        (["--head", "medusa"], ["medusa", "no early layers"]),
        (["--model", "nowhere.json"], ["no file nowhere.json"]),
        (["--draft", "nowhere"], ["nowhere", "manifest.json"]),
        (["--draft", str(TINY_DRAFTS / "mlp-exit4"), "--exit-layer", "2"], ["contradicts", "exit 4"]),
        (["--quantize", "3bit"], ["3bit", "4bit"]),
    ],
)
def test_bad_input(refused: Callable[..., str], options: list[str], says: list[str]) -> None:
    line = refused("predict", *options)
    assert all(piece in line for piece in says), line


def test_configurations_of_other_models(refused: Callable[..., str], published: Path, tmp_path: Path) -> None:
    transformers.LlamaConfig().save_pretrained(tmp_path)
    assert "is a text model (llama)" in refused("predict", "--model", tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llava_of_the_future"}')
    assert "llava_of_the_future" in refused("predict", "--model", tmp_path / "config.json")
    (tmp_path / "config.json").write_text("not json")
    assert "config.json" in refused("predict", "--model", tmp_path)
    draft = TINY_DRAFTS / "mlp-exit4"
    assert f"layers {layer_count('tiny')}" in refused("predict", "--model", published, "--draft", draft)
    assert "is not in the cache" in refused("predict", "--model", "nobody/nothing", "--offline")


def test_own_numbers_replace_those_of_the_table() -> None:
    mine = find_device("mine", bandwidth_gbs=100, tflops=2)
    assert (mine.bandwidth, mine.flops["float32"], mine.memory_bytes) == (100e9, 2e12, None)
    changed = find_device("H100", memory_gb=94)
    assert changed.memory_bytes == 94e9 and changed.bandwidth == DEVICES["h100"].bandwidth
    assert "--memory as given" in changed.source


def test_the_page_of_docs_has_the_table() -> None:
    page = (ROOT / "docs" / "predict.md").read_text(encoding="utf-8")
    for device in DEVICES.values():
        half, single = device.flops["float16"] / 1e12, device.flops["float32"] / 1e12
        row = (f"| `{device.name}` | {device.bandwidth / 1e12:g} | {half:g} | {single:g} | "
               f"{(device.memory_bytes or 0) / 1e9:g} | {device.source} |")  # fmt: skip
        assert row in page
