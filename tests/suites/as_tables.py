"""The official data sets of `official`, as people have them from the hub: parquet files with images in them."""

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
from PIL import Image
from suites.conftest import coco_captions, coco_name, vqa_answers, vqa_questions

Rows = list[dict[str, Any]]


def png(colour: int = 0) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (4, 4), (colour, 0, 0)).save(out, "PNG")
    return out.getvalue()


def image(path: Path) -> dict[str, Any]:
    """An image column's value, as `datasets` stores it."""
    return {"bytes": path.read_bytes(), "path": path.name}


def write_table(path: Path, rows: Sequence[dict[str, Any]], **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path, **options)
    return path


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def coco(year: str) -> Callable[[Path], Rows]:
    def rows(root: Path) -> Rows:
        content = coco_captions(year)
        return [{"question_id": i["file_name"], "image": image(root / f"val{year}" / i["file_name"]), "id": i["id"],
                 "answer": [a["caption"] for a in content["annotations"] if a["image_id"] == i["id"]]}
                for i in content["images"]]  # fmt: skip

    return rows


def nocaps(root: Path) -> Rows:
    content = read(root / "nocaps_val_4500_captions.json")
    return [{"image": image(root / "val" / i["file_name"]), "image_id": i["id"], "image_domain": i["domain"],
             "annotations_captions": [a["caption"] for a in content["annotations"] if a["image_id"] == i["id"]]}
            for i in content["images"]]  # fmt: skip


def flickr30k(root: Path) -> Rows:
    return [{"image": image(root / "flickr30k-images" / i["filename"]), "filename": i["filename"], "split": i["split"],
             "caption": [s["raw"] for s in i["sentences"]], "img_id": str(i["imgid"])}
            for i in read(root / "dataset_flickr30k.json")["images"]]  # fmt: skip


def vqa(folder: str = "val2014", plain: bool = False) -> Callable[[Path], Rows]:
    def rows(root: Path) -> Rows:
        answers = {a["question_id"]: a for a in vqa_answers()["annotations"]}
        return [{"question_id": q["question_id"], "image_id": q["image_id"], "question": q["question"],
                 "answers": [a["answer"] if plain else a for a in answers[q["question_id"]]["answers"]],
                 "answer_type": "other", "image": image(root / folder / coco_name("2014", q["image_id"]))}
                for q in vqa_questions()["questions"]]  # fmt: skip

    return rows


def textvqa(root: Path) -> Rows:
    return [{**{key: row[key] for key in ("question_id", "image_id", "question", "answers")}, "ocr_tokens": ["x"],
             "image": image(root / "train_images" / f"{row['image_id']}.jpg")}
            for row in read(root / "TextVQA_0.5.1_val.json")["data"]]  # fmt: skip


def docvqa(root: Path) -> Rows:
    return [{"questionId": str(row["questionId"]), "question": row["question"], "answers": row["answers"],
             "ucsf_document_id": "ffx", "ucsf_document_page_no": "1", "image": image(root / "documents" / "ffx_1.png")}
            for row in read(root / "val_v1.0.json")["data"]]  # fmt: skip


def chartqa(root: Path) -> Rows:
    base = root / "ChartQA Dataset" / "test"
    return [{"type": f"{half}_test", "question": row["query"], "answer": row["label"],
             "image": image(base / "png" / row["imgname"])}
            for half in ("human", "augmented") for row in read(base / f"test_{half}.json")]  # fmt: skip


def pope(root: Path) -> Rows:
    rows = [(kind, json.loads(line)) for kind in ("random", "popular", "adversarial")
            for line in (root / f"coco_pope_{kind}.json").read_text().splitlines()]  # fmt: skip
    return [{"question_id": str(row["question_id"]), "question": row["text"], "answer": row["label"], "category": kind,
             "image_source": row["image"].removesuffix(".jpg"), "image": image(root / "val2014" / row["image"])}
            for kind, row in rows]  # fmt: skip


def scienceqa(root: Path) -> Rows:
    return [{**{key: row[key] for key in ("question", "choices", "answer", "hint")}, "subject": "", "pid": key,
             "image": image(root / "images" / "test" / key / "image.png") if row["image"] else None}
            for key, row in read(root / "problems.json").items()]  # fmt: skip


def mm_vet(root: Path) -> Rows:
    return [{"question_id": key, "question": row["question"], "answer": row["answer"], "capability": "math",
             "image": image(root / "images" / row["imagename"])}
            for key, row in read(root / "mm-vet.json").items()]  # fmt: skip


def llava_bench(root: Path) -> Rows:
    row = json.loads((root / "questions.jsonl").read_text())
    return [{"question_id": row["question_id"], "question": row["text"], "image": image(root / "images" / "001.jpg")}]


def gqa_questions(root: Path) -> Rows:
    return [{"id": key, **{k: row[k] for k in ("imageId", "question", "answer", "fullAnswer")}}
            for key, row in read(root / "testdev_balanced_questions.json").items()]  # fmt: skip
