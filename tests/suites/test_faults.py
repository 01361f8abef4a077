"""Faulty annotation files and names: one line that names the file, the place and the remedy, exit code 2."""

import json
import os
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastvlm_bench.errors import UsageError
from fastvlm_bench.suites import annotations
from fastvlm_bench.suites.suite import load_suite

Edit = Callable[[Path, Callable[[Any], Any]], None]
COCO = "annotations/captions_val2014.json"
QUESTIONS, ANSWERS = "v2_OpenEnded_mscoco_val2014_questions.json", "v2_mscoco_val2014_annotations.json"
SPLITS = {COCO: ("coco-caption", "val2014"), "dataset_coco.json": ("coco-caption", "karpathy-test"),
          QUESTIONS: ("vqav2", "val2014"), ANSWERS: ("vqav2", "val2014")}  # fmt: skip


def refusal(data: Path | None, name: str = "coco-caption", split: str | None = "val2014") -> str:
    """The message with which loading is refused: one line."""
    with pytest.raises(UsageError) as caught:
        load_suite(name, split=split, data=data)
    message = str(caught.value)
    assert message and "\n" not in message and caught.value.exit_code == 2
    return message


def put(*path: str | int, value: Any = None) -> Callable[[Any], None]:
    """Sets (or with `...` removes) what lies at `path`."""

    def change(content: Any) -> None:
        for key in path[:-1]:
            content = content[key]
        if value is ...:
            del content[path[-1]]
        else:
            content[path[-1]] = value

    return change


@pytest.mark.parametrize(("file", "change", "place", "problem"), [
    (COCO, lambda c: [], "the file", "holds a list, not an object"),
    (COCO, put("images", value=...), "the top level", "has no 'images' (it has info, licenses, annotations)"),
    (COCO, put("images", value=[]), "'images'", "is an empty list"),
    (COCO, put("annotations", value=[]), "'annotations'", "is an empty list"),
    (COCO, put("images", value={"a": 1}), "the top level", "is an object, not a list"),
    (COCO, put("images", 1, value="x.jpg"), "images[1]", "is a string, not an object"),
    (COCO, put("images", 1, "id", value=None), "images[1].id", "is null, not a whole number"),
    (COCO, put("images", 1, "id", value=True), "images[1].id", "is true, not a whole number"),
    (COCO, put("images", 1, "id", value=1.5), "images[1].id", "is a decimal number, not a whole number"),
    (COCO, put("images", 1, "id", value="a\nb"), "images[1].id", "which cannot be an id"),
    (COCO, put("images", 1, "id", value=" "), "images[1].id", "which cannot be an id"),
    (COCO, put("images", 2, "file_name", value=...), "images[2]", "has no 'file_name'"),
    (COCO, put("images", 2, "file_name", value=7), "images[2].file_name", "is a whole number, not a string"),
    (COCO, put("images", 2, "id", value=42), "images[2].id", "is 42, a duplicate id: images[0] has it too"),
    (COCO, put("annotations", 4, "caption", value=None), "annotations[4].caption", "is null, not a string"),
    (COCO, put("annotations", 4, "caption", value=["x"]), "annotations[4].caption", "is a list, not a string"),
    (COCO, put("annotations", 4, "caption", value=...), "annotations[4]", "has no 'caption'"),
    (COCO, put("annotations", 4, "image_id", value=9), "annotations[4].image_id", "is 9, which is not among the"),
    (COCO, lambda c: c["annotations"].append(c["annotations"][1]), "annotations[6].id", "annotations[1] has it too"),
    (COCO, lambda c: c["images"].append({"id": 9, "file_name": "9.jpg"}), "images[3] (id 9)", "has no reference"),
    (COCO, lambda c: c["annotations"].__setitem__(slice(None), [{**a, "caption": " \n"} for a in c["annotations"]]),
     "images[0] (id 42)", "has no reference caption"),
    ("dataset_coco.json", put("images", value=[]), "'images'", "is an empty list"),
    ("dataset_coco.json", put("images", 0, "cocoid", value=...), "images[0]", "has no 'cocoid'"),
    ("dataset_coco.json", put("images", 2, "cocoid", value=42), "images[2].cocoid", "a duplicate id"),
    ("dataset_coco.json", put("images", 0, "filepath", value="../x"), "images[0].filepath", "is '../x', not 'val2014'"),
    ("dataset_coco.json", put("images", 0, "sentences", value=[]), "images[0] (cocoid 42)", "has no reference caption"),
    ("dataset_coco.json", put("images", 0, "sentences", 1, "raw", value=None), "images[0].sentences[1].raw", "is null"),
    ("dataset_coco.json", lambda c: [i.update(split="val") for i in c["images"]] and None,
     "'images'", "has none with split 'test', only 'val'"),
    (QUESTIONS, put("questions", value=[]), "'questions'", "is an empty list"),
    (QUESTIONS, put("questions", 3, "question", value=None), "questions[3].question", "is null, not a string"),
    (QUESTIONS, put("questions", 3, "question", value=" "), "questions[3].question", "is empty"),
    (QUESTIONS, put("questions", 3, "question_id", value=42000), "questions[3].question_id", "questions[0] has it too"),
    (QUESTIONS, put("questions", 3, "question_id", value=5), "questions[3].question_id", "is 5, which has no answers"),
    (QUESTIONS, put("questions", 3, "image_id", value=42), "questions[3].image_id", "is 42, but 73 in"),
    (QUESTIONS, put("questions", 3, "image_id", value="73"), "questions[3].image_id", "a string, not a whole number"),
    (ANSWERS, put("annotations", 1, "answers", 9, value=...), "annotations[1].answers", "has 9 answers, not 10"),
    (ANSWERS, lambda c: c["annotations"][1]["answers"].append({"answer": "x"}), "annotations[1].answers", "has 11"),
    (ANSWERS, put("annotations", 1, "answers", value=[]), "annotations[1].answers", "has 0 answers, not 10"),
    (ANSWERS, put("annotations", 1, "answers", value=None), "annotations[1].answers", "is null, not a list"),
    (ANSWERS, put("annotations", 1, "answers", 4, value="red"), "annotations[1].answers[4]", "is a string, not an"),
    (ANSWERS, put("annotations", 1, "answers", 4, "answer", value=3), "annotations[1].answers[4].answer", "not a"),
    (ANSWERS, put("annotations", 1, "question_id", value=42000), "annotations[5].question_id", "annotations[1] has it"),
])  # fmt: skip
def test_faulty_content(
    data: Path, edit: Edit, file: str, change: Callable[[Any], Any], place: str, problem: str
) -> None:
    edit(data / file, change)
    message = refusal(data, *SPLITS[file])
    assert message.startswith(f"{data / file}: {place} ")
    assert problem in message
    assert re.search(r"; (COCO|Karpathy|VQAv2)'s layout is \{", message)


@pytest.mark.parametrize("file", list(SPLITS))
@pytest.mark.parametrize(("raw", "problem"), [
    (b"", "not JSON"),
    (b"<!DOCTYPE html>\n<html>", "it starts with '<!DOCTYPE html>'"),
    (b'{"images": [', "not JSON"),
    (b'{"images": "\xff\xfe\xff"}', "not JSON"),
    (b"[" * 100_000, "nested too deeply"),
])  # fmt: skip
def test_not_json(data: Path, file: str, raw: bytes, problem: str) -> None:
    (data / file).write_bytes(raw)
    message = refusal(data, *SPLITS[file])
    assert message.startswith(f"{data / file}: ") and problem in message
    assert message.endswith("download the official file again")


def test_a_file_too_large_to_be_official(data: Path) -> None:
    os.truncate(data / COCO, annotations.MAX_BYTES + 1)  # a hole: it takes no room on the disk
    assert "larger than 1024 MiB, so not an official file" in refusal(data)


@pytest.mark.parametrize("file", list(SPLITS))
def test_a_missing_annotation_file_is_named_with_where_it_was_looked_for(data: Path, file: str) -> None:
    (data / file).unlink()
    message = refusal(data, *SPLITS[file])
    assert f"missing {Path(file).name} in {data} and {data / 'annotations'}" in message


# ------------------------------------------------------------------------------------------ names and folders


def test_unknown_names_are_answered_with_the_known_ones(data: Path) -> None:
    message = refusal(None, "coco-captions")
    assert message.startswith("unknown suite 'coco-captions': one of chartqa, coco-caption, ")
    assert message.endswith("; did you mean 'coco-caption'?")
    assert "unknown suite '../suites/vqav2'" in refusal(None, "../suites/vqav2")
    assert refusal(data, split="val2104") == (
        "unknown split 'val2104' of suite 'coco-caption': one of embedded, val2014, val2017, karpathy-test, "
        "karpathy-test-lavis, train"
        "; did you mean 'val2014'?"
    )


def test_a_real_split_without_data_says_what_to_give() -> None:
    message = refusal(None)
    assert "--data DIR or FASTVLM_BENCH_DATA" in message and "annotations/captions_val2014.json and val2014/" in message


def test_data_with_the_embedded_split_is_a_contradiction(data: Path) -> None:
    assert "is embedded and reads no --data" in refusal(data, split="embedded")


def test_a_folder_with_nothing_lists_all_that_was_looked_for(tmp_path: Path) -> None:
    message = refusal(tmp_path, split=None)
    for name in ("captions_val2014.json", "captions_val2017.json", "dataset_coco.json"):
        assert name in message
    assert str(tmp_path) in message and "embedded.json" not in message


def test_a_data_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    assert "is not a folder" in refusal(tmp_path / "x")


# ------------------------------------------------------------------------------------------ image files


def test_missing_images_are_counted_and_the_first_five_named(data: Path, edit: Edit) -> None:
    def add(content: Any) -> None:
        content["images"] += [{"id": i, "file_name": f"x{i}.jpg"} for i in range(1, 8)]
        content["annotations"] += [{"image_id": i, "caption": "c"} for i in range(1, 8)]

    edit(data / COCO, add)
    message = refusal(data)
    assert "7 of 10 images of coco-caption/val2014 are missing" in message
    assert "x1.jpg, x2.jpg, x3.jpg, x4.jpg, x5.jpg, …" in message and "x6" not in message


def test_a_missing_image_of_several_questions_counts_once(data: Path) -> None:
    (data / "val2014" / "COCO_val2014_000000000073.jpg").unlink()
    assert "1 of 3 images of vqav2/val2014 are missing" in refusal(data, "vqav2")


def test_a_folder_in_an_images_place_is_a_missing_image(data: Path) -> None:
    path = data / "val2014" / "COCO_val2014_000000000073.jpg"
    path.unlink()
    path.mkdir()
    assert "1 of 3 images" in refusal(data)


def test_no_image_folder(data: Path) -> None:
    (data / "val2014").rename(data / "train2014")
    message = refusal(data)
    assert f"looked for {data / 'val2014'} and {data / 'images' / 'val2014'}" in message


@pytest.mark.parametrize("name", ["../secret.jpg", "a/../../secret.jpg", "..", "..\\secret.jpg", "C:\\secret.jpg",
                                  "/etc/passwd", "a\0b.jpg", "a\nb.jpg", "\ud800.jpg", "", " "])  # fmt: skip
def test_an_image_name_that_leaves_the_folder(data: Path, edit: Edit, name: str) -> None:
    (data / "secret.jpg").write_bytes(b"x")
    edit(data / COCO, put("images", 1, "file_name", value=name))
    message = refusal(data)
    assert "images[1] has image" in message and "not a path below the image folder" in message


def test_a_link_is_followed_wherever_it_leads(data: Path, tmp_path: Path) -> None:
    """Whoever laid it meant it: people keep images on another disk, and the hub's cache is made of links."""
    path = data / "val2014" / "COCO_val2014_000000000073.jpg"
    path.rename(tmp_path / "elsewhere.jpg")
    path.symlink_to(tmp_path / "elsewhere.jpg")
    samples = load_suite("coco-caption", split="val2014", data=data).samples
    assert len(samples) == 3 and samples[1].image_path == path
    (tmp_path / "elsewhere.jpg").unlink()
    assert "1 of 3 images" in (message := refusal(data)) and "are missing" in message


def test_an_image_below_a_linked_subfolder(data: Path, tmp_path: Path, edit: Edit) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "x.jpg").write_bytes(b"x")
    (data / "val2014" / "sub").symlink_to(tmp_path / "outside")
    edit(data / COCO, put("images", 1, "file_name", value="sub/x.jpg"))
    assert len(load_suite("coco-caption", split="val2014", data=data).samples) == 3


@pytest.mark.parametrize(("written", "there"), [("NFC", "NFD"), ("NFD", "NFC"), ("NFC", "NFC")])
def test_accents_may_be_spelled_otherwise_on_disk(data: Path, edit: Edit, written: str, there: str) -> None:
    name = "bébé.jpg"
    path = data / "val2014" / "COCO_val2014_000000000073.jpg"
    path.rename(path.with_name(unicodedata.normalize(there, name)))
    edit(data / COCO, put("images", 1, "file_name", value=unicodedata.normalize(written, name)))
    samples = load_suite("coco-caption", split="val2014", data=data).samples
    assert samples[1].image_path.name == unicodedata.normalize(there, name)


def test_ones_own_file_may_name_images_by_their_whole_path(data: Path, tmp_path: Path) -> None:
    image = data / "val2014" / "COCO_val2014_000000000073.jpg"
    own = tmp_path / "own.jsonl"
    own.write_text(json.dumps({"id": 1, "image": str(image), "prompt": "What?"}) + "\n")
    assert load_suite("jsonl", data=own).samples[0].image_path == image
    own.write_text(json.dumps({"id": 1, "image": "../x.jpg", "prompt": "What?"}) + "\n")
    with pytest.raises(UsageError, match="not a path below the image folder"):
        load_suite("jsonl", data=own)
