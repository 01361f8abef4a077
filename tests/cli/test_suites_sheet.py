"""`suites sheet` and what `suites show` tells of a sample."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from suites.conftest import write
from suites.official import MAKE

ROOT = Path(__file__).parents[2]


def test_a_sheet_of_embedded_suites(call: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "sheet.png"
    result = call("suites", "sheet", "coco-caption", "gqa", "--limit", "3", "--out", path)
    assert result.exit_code == 0 and f"{path}: {path.stat().st_size} bytes" in result.stdout
    with Image.open(path) as image:
        image.load()
        assert image.size == (920, 2 * (31 + 2 * 128))


def test_a_sheet_of_ones_own_data_with_hostile_texts(call: Callable[..., Any], tmp_path: Path) -> None:
    MAKE["flickr30k"](tmp_path)  # its captions hold CR, U+2028, VT and FF
    result = call("suites", "sheet", "flickr30k", "--data", tmp_path, "--out", tmp_path / "sheet.png")
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(("arguments", "says"), [
    (["sheet", "gqa", "--out", "/no/such/folder/x.png"], "/no/such/folder is not a folder; make it"),
    (["sheet", "gqa", "--limit", "0", "--out", "x.png"], "limit is 0"),
    (["sheet", "textvqa", "--out", "x.png"], "is not embedded: say where it lies"),
    (["show", "gqa", "--model", "/no/such/model"], "unknown model '/no/such/model'"),
])  # fmt: skip
def test_refusals(refused: Callable[..., str], arguments: list[str], says: str) -> None:
    assert says in refused("suites", *arguments)


def test_the_sheet_in_the_docs_is_small() -> None:
    assert (ROOT / "docs" / "embedded.png").stat().st_size < 200_000


def test_show_gives_the_text_that_the_model_reads(call: Callable[..., Any]) -> None:
    result = call("suites", "show", "pope", "--model", "tiny")
    assert "'<s>USER: <image>\\nIs there " in result.stdout and "ASSISTANT:'" in result.stdout


def test_show_a_sample_of_ones_own_files(call: Callable[..., Any], tmp_path: Path) -> None:
    MAKE["docvqa"](tmp_path)
    result = call("suites", "show", "docvqa", "--data", tmp_path)
    assert "sample 49153 of the val split" in result.stdout and "reference: .28" in result.stdout
    write(tmp_path / "val_v1.0.json", {"data": []})
    assert call("suites", "show", "docvqa", "--data", tmp_path).exit_code == 2
