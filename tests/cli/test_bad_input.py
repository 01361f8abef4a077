"""Bad input: one line that names the culprit, what is allowed and the remedy; exit code 2, before the model loads."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

import fastvlm_bench.models.load
from fastvlm_bench.models.names import TINY, TINY_DRAFTS, layer_count
from fastvlm_bench.suites.catalogue import suites_folder

BELOW = f"1 .. {layer_count('tiny') - 1}"

Refused = Callable[..., str]


@pytest.fixture(autouse=True)
def no_model(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Whatever is refused here is refused before a model is loaded, unless the test is marked otherwise."""
    if "loads_model" not in request.keywords:

        def fail(*_: Any, **__: Any) -> None:
            raise AssertionError("the model was loaded before the input was checked")

        monkeypatch.setattr(fastvlm_bench.models.load, "load_target", fail)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--suite", "coco-captions"], ["unknown suite 'coco-captions'", "vqav2", "did you mean 'coco-caption'?"]),
        (["--method", "fastvml"], ["unknown method 'fastvml'", "layerskip", "did you mean 'fastvlm'?"]),
        (["--method", "fastvlm:gama=3"], ["no option 'gama'", "gamma, draft, exit_layer", "did you mean 'gamma'?"]),
        (["--method", "fastvlm:gamma=0"], ["'gamma'", "'0'", "at least 1"]),
        (["--method", "fastvlm:gamma=100000"], ["'gamma'", "100000", "at most 64"]),
        (["--method", "fastvlm:gamma=many"], ["'gamma'", "many", "whole number"]),
        (["--gamma", "0"], ["--gamma is 0", "1 .. 64"]),
        (["--gamma", "4096"], ["--gamma is 4096", "1 .. 64"]),
        (["--method", "layerskip", "--exit-layer", "12"], ["exit_layer=12", BELOW, "'tiny'"]),
        (["--method", "layerskip:exit_layer=0"], ["'exit_layer'", "at least 1"]),
        (["--method", "fastvlm:exit_layer=99"], ["exit_layer=99", BELOW]),
        (["--method", "fastvlm:head=mpl"], ["'head'", "one of linear, mlp, gated-mlp,", "did you mean 'mlp'?"]),
        (["--method", "fastvlm:head=mlp,exit_layer=11"], ["no draft with head=mlp,exit_layer=11", "there is"]),
        (["--method", "standard:gamma=2"], ["'standard'", "'gamma'", "takes none"]),
        (["--method", "eagle3"], ["'eagle3' needs draft=", "a folder, or a hub id"]),
        (["--method", "eagle:draft=/no/such/head"], ["no draft at /no/such/head"]),
        (["--method", f"eagle3:draft={TINY}"], ["is a model (LlavaForConditionalGeneration), which eagle3 does not run",
                                                "draft-model:model="]),
        (["--method", f"eagle3:draft={TINY_DRAFTS / 'attention-exit1'}"],
         ["that `fastvlm-bench train` made", "give it to fastvlm, by --draft"]),
        (["--method", "mtp"], ["the checkpoint of tiny has no mtp.* weights", "use another method"]),
        (["--model", "tinny"], ["unknown model 'tinny'", "'tiny'", "hub id"]),
        (["--model", "/no/such/folder"], ["unknown model '/no/such/folder'"]),
        (["--draft", "/no/such/draft"], ["no draft at /no/such/draft"]),
        (["--split", "val2015"], ["val2015", "val2014"]),
        (["--dtype", "float8"], ["unknown dtype 'float8'", "bfloat16"]),
        (["--device", "gpu"], ["unknown device 'gpu'", "cuda"]),
        (["--limit", "0"], ["--limit is 0", "at least 1"]),
        (["--repeats", "0"], ["--repeats is 0"]),
        (["--threads", "4096"], ["--threads is 4096"]),
        (["--data", "/no/such/data"], ["/no/such/data"]),
    ],
)  # fmt: skip
def test_options(refused: Refused, tmp_path: Path, arguments: list[str], says: list[str]) -> None:
    line = refused("run", "--out", tmp_path, *arguments)
    for piece in says:
        assert piece in line
    assert not list(tmp_path.iterdir()), "nothing may be left behind"


def test_unknown_flag_and_command(call: Callable[..., Any]) -> None:
    for arguments in (["run", "--gama", "3"], ["rum"]):
        result = call(*arguments)
        assert result.exit_code == 2 and "Traceback" not in result.output
        assert arguments[-1] in result.stderr or arguments[1] in result.stderr


def test_output_folder(refused: Refused, tmp_path: Path) -> None:
    taken = tmp_path / "file"
    taken.write_text("")
    assert "is not a folder" in refused("run", "--out", taken)
    assert "is not a folder" in refused("run", "--out", taken / "below")


def test_files_to_be_written_are_looked_at_first(refused: Refused, tmp_path: Path) -> None:
    for option in ("--csv", "--predictions-out"):
        assert f"{option} {tmp_path} is a folder" in refused("run", option, tmp_path)
        assert "is not a folder; make it" in refused("run", option, tmp_path / "none" / "table.csv")
    assert "is not a folder; make it" in refused("run", "--batch-size", "1,2", "--csv", tmp_path / "none" / "x.csv")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A copy of the embedded captions, as a folder in the official layout of val2017."""
    source, root = suites_folder() / "data" / "coco-caption", tmp_path / "coco"
    (root / "annotations").mkdir(parents=True)
    (root / "val2017").mkdir()
    whole = json.loads((source / "annotations" / "captions_embedded.json").read_text())
    whole["images"] = whole["images"][:3]
    kept = {image["id"] for image in whole["images"]}
    whole["annotations"] = [a for a in whole["annotations"] if a["image_id"] in kept]
    for image in whole["images"]:
        shutil.copy(source / "images" / image["file_name"], root / "val2017" / image["file_name"])
    (root / "annotations" / "captions_val2017.json").write_text(json.dumps(whole))
    return root


def spoil(data: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = data / "annotations" / "captions_val2017.json"
    whole = json.loads(path.read_text())
    change(whole)
    path.write_text(json.dumps(whole))


def test_missing_image(refused: Refused, data: Path) -> None:
    (data / "val2017" / "000000000002.png").unlink()
    line = refused("run", "--data", data, "--split", "val2017", "--out", data)
    assert "000000000002.png" in line and "missing" in line


@pytest.mark.parametrize("content", [b"", b"<html>404</html>", b"half"])
def test_unreadable_image(refused: Refused, data: Path, content: bytes) -> None:
    path = data / "val2017" / "000000000003.png"
    path.write_bytes(path.read_bytes()[:200] if content == b"half" else content)
    assert "000000000003.png" in refused("run", "--data", data, "--split", "val2017", "--out", data)


def test_annotations(refused: Refused, data: Path) -> None:
    def run() -> str:
        line = refused("run", "--data", data, "--split", "val2017", "--out", data)
        assert "captions_val2017.json" in line
        return line

    good = (data / "annotations" / "captions_val2017.json").read_text()
    for change, says in (
        (lambda w: w["images"].append(w["images"][0]), "id"),
        (lambda w: w.update(images=[]), "images"),
        (lambda w: w.pop("annotations"), "annotations"),
        (lambda w: w["annotations"][1].update(caption=None), "caption"),
        (lambda w: w["annotations"][1].pop("image_id"), "image_id"),
    ):
        (data / "annotations" / "captions_val2017.json").write_text(good)
        spoil(data, change)
        assert says in run()
    for text in ("", "{", "[]", "null"):
        (data / "annotations" / "captions_val2017.json").write_text(text)
        run()


def test_damaged_drafts(refused: Refused, tmp_path: Path) -> None:
    draft = shutil.copytree(next(p.parent for p in TINY_DRAFTS.glob("*/manifest.json")), tmp_path / "draft")
    (draft / "manifest.json").write_text("{")
    assert "not a draft's manifest" in refused("run", "--draft", draft, "--out", tmp_path)
    (draft / "manifest.json").unlink()
    assert "manifest.json is missing" in refused("run", "--draft", draft, "--out", tmp_path)


@pytest.mark.loads_model
def test_draft_of_another_model(refused: Refused, tmp_path: Path) -> None:
    draft = shutil.copytree(next(p.parent for p in TINY_DRAFTS.glob("*/manifest.json")), tmp_path / "draft")
    manifest = json.loads((draft / "manifest.json").read_text())
    (draft / "manifest.json").write_text(json.dumps({**manifest, "target_weights_sha256": "0" * 64}))
    line = refused("run", "--draft", draft, "--limit", "2", "--threads", "1", "--out", tmp_path / "out")
    assert "made for another model" in line and "weights_sha256" in line and "train one" in line
    assert not list((tmp_path / "out").iterdir()), "a run that measured nothing leaves nothing behind"


@pytest.mark.loads_model
def test_truncated_head(refused: Refused, tmp_path: Path) -> None:
    draft = shutil.copytree(next(p.parent for p in TINY_DRAFTS.glob("*/manifest.json")), tmp_path / "draft")
    weights = draft / "head.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    line = refused("run", "--draft", draft, "--limit", "2", "--threads", "1", "--out", tmp_path / "out")
    assert "head.safetensors" in line


def test_model_folder_without_config(refused: Refused, tmp_path: Path) -> None:
    assert "has no config.json" in refused("run", "--model", tmp_path, "--out", tmp_path / "out")


def test_reading_runs(refused: Refused, tmp_path: Path) -> None:
    assert "no run under" in refused("report", "--results", tmp_path)
    assert "no run in" in refused("report", tmp_path)
    assert refused("compare", "--results", tmp_path)
    assert "not a run folder" in refused("run", "--resume", tmp_path, "--out", tmp_path)


def test_embedded_model_is_there() -> None:
    assert (TINY / "model.safetensors").is_file()


@pytest.mark.loads_model
def test_weights_that_are_no_numbers(refused: Refused, tmp_path: Path) -> None:
    shutil.copytree(TINY, tmp_path / "model")
    path = tmp_path / "model" / "model.safetensors"
    weights = load_file(path)
    name = next(name for name in weights if name.endswith("layers.5.mlp.down_proj.weight") and "language" in name)
    weights[name][3, 3] = float("nan")
    save_file(weights, path, metadata={"format": "pt"})
    message = refused("run", "--model", tmp_path / "model", "--limit", "2", "-m", "layerskip:exit_layer=1", "--out",
                      tmp_path / "results")  # fmt: skip
    assert "gives logits that are not finite on the first sample: its weights are damaged" in message
