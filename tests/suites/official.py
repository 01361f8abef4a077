"""Makers of tiny data sets in every official format and layout, with images that Pillow draws: MAKE, by suite."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from suites.conftest import coco_name, picture, vqa_answers, vqa_questions, write

from fastvlm_bench.suites.suite import Suite, check_images, load_suite

ODD = "a\rb\u2028c\vd\fe\nf"
POPE = ("random", "popular", "adversarial")


def lines(path: Path, rows: list[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def nocaps(root: Path) -> None:
    domains = ("in-domain", "near-domain", "out-domain")
    images = [{"id": n, "open_images_id": f"0013{n}", "file_name": f"0013{n}.jpg", "coco_url": "u", "domain": d,
               "height": 6, "width": 8} for n, d in enumerate(domains)]  # fmt: skip
    captions = [{"id": 10 * n + k, "image_id": n, "caption": f"C{k} of {n}."} for n in range(3) for k in range(10)]
    write(
        root / "nocaps_val_4500_captions.json", {"info": {}, "licenses": [], "images": images, "annotations": captions}
    )
    for image in images:
        picture(root / "val" / str(image["file_name"]))


def flickr30k(root: Path) -> None:
    names = ("1000092795.jpg", "10002456.jpg")
    rows = [{"sentids": [0, 1], "imgid": n, "filename": name, "split": "test" if n else "train",
             "sentences": [{"raw": ODD if k else "Two men.", "tokens": [], "imgid": n, "sentid": k} for k in (0, 1)]}
            for n, name in enumerate(names)]  # fmt: skip
    write(root / "dataset_flickr30k.json", {"dataset": "flickr30k", "images": rows})
    text = "".join(f"{name}#{k}\tCaption \u2028{k} \x0b. \n" for name in names for k in range(5))
    (root / "results_20130124.token").write_text(text, encoding="utf-8")
    for name in names:
        picture(root / "flickr30k-images" / name)


def okvqa(root: Path) -> None:
    answers = vqa_answers()
    for row in answers["annotations"]:
        row["answers"] = [{**a, "raw_answer": a["answer"] + "s"} for a in row["answers"]]
    write(root / "OpenEnded_mscoco_val2014_questions.json", vqa_questions())
    write(root / "mscoco_val2014_annotations.json", answers)
    for i in (42, 73, 139):
        picture(root / "val2014" / coco_name("2014", i))


def gqa(root: Path) -> None:
    row = {"question": "Is it red?", "imageId": "n161313", "answer": "no", "fullAnswer": "No.", "isBalanced": True,
           "types": {}, "groups": {}, "entailed": [], "equivalent": [], "semantic": []}  # fmt: skip
    write(root / "testdev_balanced_questions.json", {"201307251": row, "07": {**row, "answer": "yes"}})
    picture(root / "images" / "n161313.jpg")


def textvqa(root: Path) -> None:
    row = {"question_id": 34602, "question": "what Brand is it?", "image_id": "003a8ae2ef43b901", "image_classes": [],
           "answers": [f"a{n}" for n in range(10)], "image_width": 8, "image_height": 6, "set_name": "val"}  # fmt: skip
    data = {"dataset_type": "val", "dataset_name": "textvqa", "dataset_version": "0.5.1", "data": [row]}
    write(root / "TextVQA_0.5.1_val.json", data)
    picture(root / "train_images" / "003a8ae2ef43b901.jpg")


def visdial(root: Path) -> None:
    turns = [{"question": n, "answer": n, "answer_options": list(range(10)) * 10, "gt_index": n} for n in range(10)]
    data = {"dialogs": [{"image_id": 185565, "caption": "c", "dialog": turns}],
            "questions": [f"is it {n}" for n in range(10)], "answers": [f"yes {n}" for n in range(10)]}  # fmt: skip
    write(root / "visdial_1.0_val.json", {"split": "val", "version": "1.0", "data": data})
    picture(root / "VisualDialog_val2018" / "VisualDialog_val2018_000000185565.jpg")


def scienceqa(root: Path) -> None:
    row = {"question": "Which one?", "choices": ["a cell", "a rock"], "answer": 1, "hint": "Look.",
           "image": "image.png", "split": "test"}  # fmt: skip
    write(root / "problems.json", {"4": row, "5": {**row, "image": None}, "6": {**row, "hint": ""}})
    write(root / "pid_splits.json", {"train": [], "test": ["4", "5", "6"]})
    for name in ("4", "6"):
        picture(root / "images" / "test" / name / "image.png")


def chartqa(root: Path) -> None:
    for half, label in (("human", "14"), ("augmented", "0.57")):
        rows = [{"imgname": "41699051005347.png", "query": "How many?", "label": label}] * 2
        write(root / "ChartQA Dataset" / "test" / f"test_{half}.json", rows)
    picture(root / "ChartQA Dataset" / "test" / "png" / "41699051005347.png")


def docvqa(root: Path) -> None:
    row = {"questionId": 49153, "question": "What is it?", "question_types": [], "image": "documents/ffx_1.png",
           "docId": 1, "answers": ["0.28", ".28"], "data_split": "val"}  # fmt: skip
    write(root / "val_v1.0.json", {"dataset_name": "docvqa", "dataset_split": "val", "data": [row]})
    picture(root / "documents" / "ffx_1.png")


def pope(root: Path) -> None:
    name = coco_name("2014", 310196)
    for kind in POPE:
        rows = [{"question_id": n, "image": name, "text": f"Is there a {kind} {n}?", "label": ("yes", "no")[n % 2]}
                for n in (1, 2)]  # fmt: skip
        lines(root / f"coco_pope_{kind}.json", rows)
    picture(root / "val2014" / name)


def mm_vet(root: Path) -> None:
    row = {"imagename": "v1_0.png", "question": "What is x?", "answer": "-1<AND>-5", "capability": ["math"]}
    write(root / "mm-vet.json", {"v1_0": row})
    picture(root / "images" / "v1_0.png")


def llava_bench(root: Path) -> None:
    lines(root / "questions.jsonl", [{"question_id": 0, "image": "001.jpg", "text": "Who?", "category": "conv"}])
    picture(root / "images" / "001.jpg")


def own(root: Path) -> None:
    row = {"id": "a", "image": "photos/1.png", "prompt": "What {is} \u2028 it?", "references": ["a dog", "dog"]}
    lines(root / "mine.jsonl", [row, {**row, "id": "b"}])
    picture(root / "photos" / "1.png")


def lavis(root: Path) -> None:
    names = ("val2014/COCO_val2014_000000391895.jpg", "val2014/000000000042.jpg")
    write(root / "coco_karpathy_test.json", [{"image": name, "caption": ["One.", "Two."]} for name in names])
    for name in names:
        picture(root / name)


MAKE: dict[str, Callable[[Path], None]] = {
    "nocaps": nocaps, "flickr30k": flickr30k, "okvqa": okvqa, "gqa": gqa, "textvqa": textvqa, "visdial-gen": visdial,
    "scienceqa-img": scienceqa, "chartqa": chartqa, "docvqa": docvqa, "pope": pope, "mm-vet": mm_vet,
    "llava-bench": llava_bench, "jsonl": own, "coco-caption": lavis,
}  # fmt: skip


def made(name: str, root: Path, **options: Any) -> Suite:
    MAKE[name](root)
    suite = load_suite(name, data=root, **options)
    check_images(suite)
    return suite
