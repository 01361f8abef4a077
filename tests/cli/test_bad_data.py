"""Bad data of one's own, as a stranger meets it: `suites check` and `run` name file, key and index; no model loads."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from covering import covering
from PIL import Image
from suites.official import MAKE

from fastvlm_bench.measuring import benchmark
from suites import conftest as official

Change = Callable[[str], str]
CAPTIONS = "annotations/captions_val2014.json"


def coco(root: Path) -> None:
    official.write(root / CAPTIONS, official.coco_captions("2014"))
    official.write(root / official.VQA_QUESTIONS, official.vqa_questions())
    official.write(root / official.VQA_ANSWERS, official.vqa_answers())
    for image_id in official.IDS:
        official.picture(root / "val2014" / official.coco_name("2014", image_id))


MAKERS = {**MAKE, "coco-caption": coco, "vqav2": coco, "visdial": MAKE["visdial-gen"]}


def at(*path: str | int, value: Any = ...) -> Change:
    """Sets what lies at the path of a JSON file; without a value it is removed."""

    def change(text: str) -> str:
        whole = content = json.loads(text)
        for key in path[:-1]:
            content = content[key]
        if value is ...:
            del content[path[-1]]
        else:
            content[path[-1]] = value
        return json.dumps(whole)

    return change


def twice(key: str) -> Change:
    """The key's entry stands in the file's object a second time."""
    return lambda text: f'{text.rstrip()[:-1]}, "{key}": {json.dumps(json.loads(text)[key])}}}'


@pytest.fixture(autouse=True)
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def loads(*_: Any, **__: Any) -> None:
        raise SystemExit(99)

    monkeypatch.setattr(benchmark, "measure_suites", loads)
    monkeypatch.delenv("FASTVLM_BENCH_DATA", raising=False)


@pytest.mark.parametrize(("suite", "file", "change", "told"), [
    ("coco-caption", CAPTIONS, at("annotations", 2, "caption"), "annotations[2] has no 'caption'"),
    ("coco-caption", CAPTIONS, at("images", 1, "id", value=42), "images[1].id is 42, a duplicate id: images[0]"),
    ("coco-caption", CAPTIONS, at("images", 1, "file_name", value="../x.jpg"), "images[1] has image '../x.jpg', which"),
    ("vqav2", official.VQA_ANSWERS, at("annotations", 3, "answers", 0), "annotations[3].answers has 9 answers, not 10"),
    ("vqav2", official.VQA_QUESTIONS, at("questions", 1, "question_id", value=42000), "questions[1].question_id is 42"),
    ("okvqa", "mscoco_val2014_annotations.json", at("annotations", 3, "answers", 0), "annotations[3].answers has 9"),
    ("textvqa", "TextVQA_0.5.1_val.json", at("data", 0, "answers", 0), "data[0].answers has 9 answers, not 10"),
    ("textvqa", "TextVQA_0.5.1_val.json", at("data", 0, "image_id", value="../x"), "data[0] has image '../x.jpg'"),
    ("gqa", "testdev_balanced_questions.json", at("07", "imageId"), "['07'] has no 'imageId'"),
    ("gqa", "testdev_balanced_questions.json", twice("07"), "['07'] is a duplicate id"),
    ("mm-vet", "mm-vet.json", twice("v1_0"), "['v1_0'] is a duplicate id"),
    ("scienceqa-img", "problems.json", twice("4"), "['4'] is a duplicate id"),
    ("scienceqa-img", "problems.json", at("6", "image", value="../../x.png"), "['6'] has image '6/../../x.png'"),
    ("chartqa", "ChartQA Dataset/test/test_augmented.json", at(1, "imgname", value="..\\x.png"), "[1] has image '..\\"),
    ("docvqa", "val_v1.0.json", at("data", 0, "image", value="/etc/passwd"), "data[0] has image '/etc/passwd', which"),
    ("visdial", "visdial_1.0_val.json", at("data", "dialogs", 0, "dialog", 3, "gt_index"), "[3].gt_index is None"),
])  # fmt: skip
def test_a_faulty_file_is_told_with_key_and_index(
    call: Callable[..., Any],
    refused: Callable[..., str],
    tmp_path: Path,
    suite: str,
    file: str,
    change: Change,
    told: str,
) -> None:
    data, path = tmp_path / "data", tmp_path / "data" / file
    MAKERS[suite](data)
    path.write_text(change(path.read_text()))
    message = refused("run", "--suite", suite, "--data", data, "--out", tmp_path / "out")
    assert message.startswith(f"fastvlm-bench: {path}: ") and told in message
    result = call("suites", "check", suite, "--data", data)
    assert result.exit_code == 2 and f"problem: {path}: " in result.stdout and told in result.stdout
    assert not (tmp_path / "out").exists()


def spoil(path: Path, fault: str) -> None:
    if fault == "missing":
        path.unlink()
    else:
        Image.effect_noise((64, 64), 100).convert("RGB").save(path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("fault", covering(["missing", "truncated"], ["truncated"]))
@pytest.mark.parametrize(("suite", "image", "place"), [
    ("coco-caption", "val2014/COCO_val2014_000000000073.jpg", f"{CAPTIONS}: images[1]"),
    ("vqav2", "val2014/COCO_val2014_000000000073.jpg", f"{official.VQA_QUESTIONS}: questions[2]"),
    ("gqa", "images/n161313.jpg", "testdev_balanced_questions.json: ['201307251']"),
    ("pope", "val2014/COCO_val2014_000000310196.jpg", "coco_pope_random.json: line 1"),
    ("scienceqa-img", "images/test/6/image.png", "problems.json: ['6']"),
    ("chartqa", "ChartQA Dataset/test/png/41699051005347.png", "ChartQA Dataset/test/test_human.json: [0]"),
    ("docvqa", "documents/ffx_1.png", "val_v1.0.json: data[0]"),
    ("visdial", "VisualDialog_val2018/VisualDialog_val2018_000000185565.jpg",
     "visdial_1.0_val.json: data.dialogs[0].dialog[0]"),
])  # fmt: skip
def test_a_bad_image_is_told_with_the_place_that_names_it(
    call: Callable[..., Any],
    refused: Callable[..., str],
    tmp_path: Path,
    suite: str,
    image: str,
    place: str,
    fault: str,
) -> None:
    data = tmp_path / "data"
    MAKERS[suite](data)
    spoil(data / image, fault)
    message = refused("run", "--suite", suite, "--data", data, "--out", tmp_path / "out")
    assert Path(image).name in message and f"that of {data / place};" in message
    assert ("missing in" if fault == "missing" else "damaged") in message
    result = call("suites", "check", suite, "--data", data)
    problems = [line for line in result.stdout.splitlines() if line.startswith("problem: ")]
    assert result.exit_code == 2 and len(problems) == 1
    assert str(data / image) in problems[0] and str(data / place) in problems[0]


@pytest.mark.parametrize(("mark", "name"), [("\r", "CR"), ("\v", "VT"), ("\f", "FF"), ("\x85", "NEL"),
                                            ("\u2028", "U+2028"), ("\u2029", "U+2029")])  # fmt: skip
def test_a_line_break_within_a_caption_is_told_before_the_model_loads(
    call: Callable[..., Any], tmp_path: Path, mark: str, name: str
) -> None:
    """A note, not an error: files in use have such captions, and here they move no other caption."""
    coco(tmp_path)
    content = official.coco_captions("2014")
    content["annotations"][2]["caption"] = content["annotations"][4]["caption"] = f"a{mark}cat"
    official.write(tmp_path / CAPTIONS, content)
    told = (
        f"{tmp_path / CAPTIONS}: annotations[2].caption (id 42) holds {name}, so does 1 other; it is scored as a space"
    )
    result = call("run", "--suite", "coco-caption", "--data", tmp_path, "--split", "val2014", "--out", tmp_path / "out")
    assert result.exit_code == 99 and f"fastvlm-bench: note: {told}" in result.stderr
    result = call("suites", "check", "coco-caption", "--data", tmp_path, "--split", "val2014")
    assert result.exit_code == 0 and f"warning: {told}" in result.stdout


def test_an_answer_may_hold_any_of_them(call: Callable[..., Any], tmp_path: Path) -> None:
    """VQA's evaluation reads no lines: nothing to tell."""
    coco(tmp_path)
    content = official.vqa_answers()
    content["annotations"][2]["answers"][0]["answer"] = "a\u2028cat"
    official.write(tmp_path / official.VQA_ANSWERS, content)
    assert "holds" not in call("suites", "check", "vqav2", "--data", tmp_path).stdout
