"""A checkpoint that lacks weights is refused by every command that loads it, in a line, before it measures anything."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from covering import covering
from safetensors.torch import load_file, save_file

from fastvlm_bench.drafts.imitation_head import WEIGHTS
from fastvlm_bench.models import source
from fastvlm_bench.models.names import TINY, TINY_DRAFTS

Refused = Callable[..., str]
WEIGHTS_FILE = "model.safetensors"


@pytest.fixture
def without_projector(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    shutil.copytree(TINY, folder)
    weights = load_file(folder / WEIGHTS_FILE)
    kept = {key: value for key, value in weights.items() if "multi_modal_projector" not in key}
    assert len(kept) < len(weights)
    save_file(kept, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    return folder


FEW = ("--samples", "2", "--held-out", "1", "--threads", "1")


LOADING: list[tuple[str, ...]] = [
    ("run", "--suite", "describe", "--limit", "1", "--threads", "1"),
    ("run", "--suite", "describe", "--limit", "1", "--threads", "1", "--dtype", "bfloat16"),
    ("models", "--check", "tiny"),
    ("train", "--suite", "describe", *FEW),
    ("ablate", "--suite", "describe", *FEW),
]


@pytest.mark.parametrize("command", [pytest.param(command, marks=() if place == 0 else pytest.mark.slow)
                                     for place, command in enumerate(LOADING)])  # fmt: skip
def test_missing_weights(
    command: tuple[str, ...], without_projector: Path, refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "TINY", without_projector)  # the one model for which scenes are rendered
    out = tmp_path / "out"
    said = refused(*command, "--device", "cpu", *(() if "--check" in command else ("--out", out)))
    assert "weights missing in its files, which would stay random (model.multi_modal_projector." in said
    assert "take a complete checkpoint with its own config.json" in said
    assert not list(out.rglob("run.json")) and not list(out.rglob("*.safetensors"))


def test_missing_weights_of_a_folder(without_projector: Path, refused: Refused, tmp_path: Path) -> None:
    said = refused("run", "--model", without_projector, "--method", "standard", "--limit", "1", "--threads", "1",
                   "--out", tmp_path / "out")  # fmt: skip
    assert f"the checkpoint of model '{without_projector}'" in said
    assert not list((tmp_path / "out").rglob("run.json"))


CHANGES = [("missing", "1 missing: "), ("renamed", "1 missing: "), ("of another head", "1 of another head: extra"),
           ("of another shape", "1 of another shape: ")]  # fmt: skip


@pytest.mark.parametrize(("change", "said"), covering(CHANGES, CHANGES[1:2]))
def test_a_draft_that_is_not_its_manifests(change: str, said: str, refused: Refused, tmp_path: Path) -> None:
    folder = tmp_path / "draft"
    shutil.copytree(TINY_DRAFTS / "attention-exit1", folder)
    weights = load_file(folder / WEIGHTS)
    name = sorted(weights)[0]
    if change == "of another head":
        weights["extra"] = torch.zeros(2)
    elif change == "of another shape":
        weights[name] = torch.zeros(3, *weights[name].shape)
    else:
        value = weights.pop(name)
        weights |= {"other": value} if change == "renamed" else {}
    save_file(weights, folder / WEIGHTS)
    text = refused(
        "run", "--suite", "describe", "--limit", "1", "--threads", "1", "--draft", folder, "--out", tmp_path / "out"
    )
    assert said in text and "train it again" in text


def test_a_draft_without_its_vocabulary(refused: Refused, tmp_path: Path) -> None:
    folder = tmp_path / "draft"
    shutil.copytree(TINY_DRAFTS / "attention-exit1", folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "draft_vocabulary": 64}))
    text = refused(
        "run", "--suite", "describe", "--limit", "1", "--threads", "1", "--draft", folder, "--out", tmp_path / "out"
    )
    assert "0 token ids that it may draft, 64 by manifest.json" in text
