"""Tiny data sets in the official formats and layouts, with images that Pillow draws."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

VQA_QUESTIONS = "v2_OpenEnded_mscoco_val2014_questions.json"
VQA_ANSWERS = "v2_mscoco_val2014_annotations.json"
IDS = (42, 73, 139)


def picture(path: Path, size: tuple[int, int] = (8, 6), mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, 1 if mode == "1" else None).save(path)


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def coco_name(year: str, image_id: int) -> str:
    return f"COCO_val2014_{image_id:012d}.jpg" if year == "2014" else f"{image_id:012d}.jpg"


def coco_captions(year: str) -> dict[str, Any]:
    """COCO's captions file, annotations out of image order as in the real one."""
    images = [{"id": i, "file_name": coco_name(year, i), "height": 6, "width": 8, "license": 1} for i in IDS]
    pairs = [(k, i) for k in (1, 2) for i in IDS[::-1]]
    captions = [{"id": 10 * k + i, "image_id": i, "caption": f"Caption {k} of {i}.\n"} for k, i in pairs]
    return {"info": {}, "licenses": [], "images": images, "annotations": captions}


def karpathy() -> dict[str, Any]:
    rows = [
        {"filepath": "val2014", "filename": coco_name("2014", i), "cocoid": i, "imgid": n,
         "sentids": [2 * n, 2 * n + 1], "split": "test" if i != 73 else "restval",
         "sentences": [{"raw": f"Raw {k} of {i}.", "tokens": ["raw"], "imgid": n, "sentid": 2 * n + k} for k in (0, 1)]}
        for n, i in enumerate(IDS)
    ]  # fmt: skip
    return {"dataset": "coco", "images": rows}


def vqa_questions() -> dict[str, Any]:
    pairs = [(i, k) for i in IDS for k in (0, 1)]
    rows = [{"image_id": i, "question_id": 1000 * i + k, "question": f"What is {k} {{here}}?"} for i, k in pairs]
    return {"info": {}, "task_type": "Open-Ended", "data_type": "mscoco", "questions": rows}


def vqa_answers() -> dict[str, Any]:
    rows = [
        {"image_id": q["image_id"], "question_id": q["question_id"], "question_type": "what is", "answer_type": "other",
         "multiple_choice_answer": "red",
         "answers": [{"answer": f"a{n}", "answer_confidence": "yes", "answer_id": n} for n in range(1, 11)]}
        for q in reversed(vqa_questions()["questions"])
    ]  # fmt: skip
    return {"info": {}, "annotations": rows}


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """The developer's own settings must not reach the tests."""
    monkeypatch.delenv("FASTVLM_BENCH_DATA", raising=False)
    monkeypatch.delenv("FASTVLM_BENCH_SUITES", raising=False)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """One folder as a user has it: COCO 2014 and 2017, Karpathy's splits, VQAv2."""
    root = tmp_path / "data"
    for year in ("2014", "2017"):
        write(root / "annotations" / f"captions_val{year}.json", coco_captions(year))
        for image_id in IDS:
            picture(root / f"val{year}" / coco_name(year, image_id))
    write(root / "dataset_coco.json", karpathy())
    write(root / VQA_QUESTIONS, vqa_questions())
    write(root / VQA_ANSWERS, vqa_answers())
    return root


@pytest.fixture
def edit() -> Callable[[Path, Callable[[Any], Any]], None]:
    """Change a JSON file in place: the function gets its content and changes it, or returns another."""

    def apply(path: Path, change: Callable[[Any], Any]) -> None:
        content = json.loads(path.read_text())
        changed = change(content)
        write(path, content if changed is None else changed)

    return apply
