"""A skip set that is missing, damaged or of another model: one line before the model loads, exit code 2."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import fastvlm_bench.models.load
from fastvlm_bench.drafts.skip_set import SKIP, SkipManifest
from fastvlm_bench.models.names import layer_count

Refused = Callable[..., str]


@pytest.fixture(autouse=True)
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("the model was loaded before the input was checked")

    monkeypatch.setattr(fastvlm_bench.models.load, "load_target", fail)


def written(folder: Path, **changes: Any) -> Path:
    layers = layer_count("tiny")
    assert layers is not None
    told = SkipManifest([1], [2], "Any", layers, 1, 1, "0" * 64)
    folder.mkdir()
    (folder / SKIP).write_text(json.dumps({**vars(told), **changes}))
    return folder


def test_no_set(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "drafts").mkdir()
    line = refused("run", "--out", tmp_path, "--draft", tmp_path / "drafts", "-m", "draft-verify")
    assert "without a skip set" in line and "skip-search --model tiny" in line
    line = refused("run", "--out", tmp_path, "-m", f"draft-verify:draft={tmp_path / 'nowhere'}")
    assert "no skip set at" in line and "skip-search" in line


def test_sets_that_do_not_fit(refused: Refused, tmp_path: Path) -> None:
    def line(folder: Path) -> str:
        return refused("run", "--out", tmp_path, "-m", f"draft-verify:draft={folder}")

    layers = layer_count("tiny")
    assert layers is not None
    said = line(written(tmp_path / "other", target_layers=layers + 1))
    assert "another model" in said and f"has {layers}" in said
    assert "layer 0 may not be skipped" in line(written(tmp_path / "first", attention=[0]))
    assert "not a skip set" in line(written(tmp_path / "damaged", unknown=1))


def test_the_set_among_the_drafts_is_found(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "drafts").mkdir()
    written(tmp_path / "drafts" / "skip-mine", attention=[0])
    for option in ("", ":draft=skip-mine"):
        line = refused("run", "--out", tmp_path, "--draft", tmp_path / "drafts", "-m", f"draft-verify{option}")
        assert "skip-mine" in line and "layer 0" in line


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["swift:skip=1"], "below 1"), (["swift:share=-1"], "share"), (["clasp:every=0"], "at least 1"),
        (["clasp:skip=0"], "skip"),
    ],
)  # fmt: skip
def test_options(refused: Refused, tmp_path: Path, arguments: list[str], says: str) -> None:
    assert says in refused("run", "--out", tmp_path, "-m", *arguments)


def test_search(refused: Refused, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "set")
    assert "nothing to train on" in refused("skip-search", *out)
    assert "unknown suite" in refused("skip-search", *out, "--suite", "nothing")
    assert "--budget is 0" in refused("skip-search", *out, "--suite", "describe", "--budget", "0")
    assert "evaluations is 0" in refused("skip-search", *out, "--suite", "describe", "--evaluations", "0")
