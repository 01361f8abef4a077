"""Faulty tables: one line that names the file, the place and what is wrong; nothing is guessed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from suites.as_tables import Rows, png, write_table
from suites.test_table_suites import cache

from fastvlm_bench.errors import UsageError
from fastvlm_bench.suites.check import check_data
from fastvlm_bench.suites.suite import check_images, load_suite
from suites import as_tables

__all__ = ["cache"]  # a fixture
FILE = "data/validation-00000-of-00001.parquet"


def each(**changes: Any) -> Callable[[Rows], Rows]:
    """Changes keys of every row; None leaves the column out."""
    return lambda rows: [{k: v for k, v in {**row, **changes}.items() if v is not None} for row in rows]


def last(key: str, value: Any) -> Callable[[Rows], Rows]:
    return lambda rows: [*rows[:-1], {**rows[-1], key: value}]


@pytest.mark.parametrize(("change", "words"), [
    (each(answers=None), "has no column 'answers' (it has question_id, image_id, question, answer_type, image)"),
    (each(answers=None, question=None), "has no column 'question', 'answers'"),
    (each(image=None), "has no column 'image'"),
    (last("image", None), "row 5.image is null: the sample has no image"),
    (last("image", {"bytes": None, "path": None}), "row 5.image is null: the sample has no image"),
    (last("image", {"bytes": b"", "path": "a.png"}), "row 5.image is an empty image"),
    (last("image", {"bytes": None, "path": "../a.png"}), "'../a.png', which is not a path below the image folder"),
    (last("image", {"bytes": None, "path": "a.png"}), "has no bytes, only the path 'a.png', and no such file"),
    (last("question", " "), "row 5.question is empty"),
    (last("question", None), "row 5.question is empty"),
    (last("answers", [{"answer": "a"}] * 9), "row 5.answers has 9 answers, not 10"),
    (last("answers", []), "row 5.answers holds no text"),
    (lambda rows: [*rows, rows[0]], "row 6.id is 42000, a duplicate id"),
    (lambda rows: [{**row, "image": [row["image"]] * 2} for row in rows], "holds 2 images; a prompt here holds one"),
])  # fmt: skip
def test_a_faulty_row_is_told_with_file_and_place(
    data: Path, tmp_path: Path, change: Callable[[Rows], Rows], words: str
) -> None:
    plain = [{**row, "answers": [{"answer": a["answer"]} for a in row["answers"]]} for row in as_tables.vqa()(data)]
    write_table(tmp_path / "hub" / FILE, change(plain))
    with pytest.raises(UsageError) as error:
        load_suite("vqav2", split="val2014", data=tmp_path / "hub")
    told = str(error.value)
    assert words in told and FILE in told and "\n" not in told, told
    assert told in check_data("vqav2", tmp_path / "hub", "val2014").problems


@pytest.mark.parametrize("form", ["path", "list", "bytes"])
def test_other_forms_of_an_image_column(data: Path, tmp_path: Path, form: str) -> None:
    forms: dict[str, Callable[[Any], Any]] = {
        "path": lambda image: image["path"], "list": lambda image: [image], "bytes": lambda image: image["bytes"],
    }  # fmt: skip
    rows = [{**row, "image": forms[form](row["image"])} for row in as_tables.vqa()(data)]
    official = load_suite("vqav2", split="val2014", data=data)
    for name in ("v2_OpenEnded_mscoco_val2014_questions.json", "v2_mscoco_val2014_annotations.json"):
        (data / name).unlink()
    write_table(data / FILE, rows)
    found = load_suite("vqav2", split="val2014", data=data)
    assert [s.image_path.read_bytes() for s in found.samples] == [s.image_path.read_bytes() for s in official.samples]


def test_torn_files(data: Path, tmp_path: Path) -> None:
    whole = write_table(tmp_path / "whole.parquet", as_tables.vqa()(data)).read_bytes()
    path = tmp_path / "hub" / FILE
    path.parent.mkdir(parents=True)
    for content in (
        b"",
        whole[: len(whole) // 2],
        b"<html>" + whole[6:-8] + b"not found",
        whole[:40] + b"\0" * 400 + whole[440:],
    ):
        path.write_bytes(content)
        with pytest.raises(
            UsageError, match=r"validation-00000-of-00001.parquet: not readable parquet \(.*fetch it again"
        ):
            load_suite("vqav2", split="val2014", data=tmp_path / "hub")


def test_a_shard_that_is_missing(data: Path, tmp_path: Path) -> None:
    path = tmp_path / "hub" / "data" / "validation-00000-of-00002.parquet"
    write_table(path, as_tables.vqa()(data))
    with pytest.raises(UsageError, match=r"data/validation-00001-of-00002.parquet is missing; .*--limit"):
        load_suite("vqav2", split="val2014", data=tmp_path / "hub")
    assert len(load_suite("vqav2", split="val2014", data=tmp_path / "hub", limit=6).samples) == 6


def test_an_image_that_does_not_decode_is_told_with_its_row(data: Path, tmp_path: Path) -> None:
    rows = as_tables.vqa()(data)
    rows[3] = {**rows[3], "image": {"bytes": png()[:-30], "path": "x.png"}}
    write_table(tmp_path / "hub" / FILE, rows)
    with pytest.raises(UsageError, match=r"1 of 2 images of vqav2/val2014 cannot be read: .*parquet: row 3; replace"):
        check_images(load_suite("vqav2", split="val2014", data=tmp_path / "hub"))
    findings = check_data("vqav2", tmp_path / "hub")
    assert len(findings.problems) == 1 and "row 3" in next(iter(findings.problems))


def test_a_good_table_passes_the_check(data: Path, tmp_path: Path) -> None:
    write_table(tmp_path / "hub" / FILE, as_tables.vqa()(data))
    findings = check_data("vqav2", tmp_path / "hub")
    assert not findings.problems and findings.checked == ["vqav2/val2014: 6 samples, 1 images decoded"]
    assert findings.warnings == ["vqav2/val2014 has 6 samples; officially it has 214354"]
