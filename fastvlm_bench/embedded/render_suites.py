"""Write the embedded splits in the official formats: `python -m fastvlm_bench.embedded.render_suites suites/data`.

All scenes are held out from training (see `Scene.held_out`). The output is always the same.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fastvlm_bench.embedded import render_formats
from fastvlm_bench.embedded.render_formats import INFO, write
from fastvlm_bench.world import language
from fastvlm_bench.world.pictures import IMAGE_SIZE, render
from fastvlm_bench.world.questions import Question, human_answers, knowledge_questions, questions
from fastvlm_bench.world.scenes import Scene
from fastvlm_bench.world.splits import SEED, suite_scenes

LICENCE = {"id": 1, "name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"}
PALETTE = 256  # colours that an image keeps: fewer bytes without a visible difference


def _images(scenes: list[Scene], folder: Path, pattern: str) -> list[dict[str, Any]]:
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, scene in enumerate(scenes, 1):
        name = pattern % number
        render(scene).quantize(PALETTE, kmeans=1, dither=Image.Dither.NONE).save(folder / name, optimize=True)
        rows.append({"id": number, "file_name": name, "height": IMAGE_SIZE, "width": IMAGE_SIZE, "license": 1})
    return rows


def captions(out: Path, scenes: list[Scene], texts: list[list[str]]) -> None:
    """Write COCO's captions format: annotations/captions_embedded.json and images/000000000001.png."""
    images = _images(scenes, out / "images", "%012d.png")
    annotations: list[dict[str, Any]] = []
    for image, lines in zip(images, texts, strict=True):
        for line in lines:
            annotations.append({"image_id": image["id"], "id": len(annotations) + 1, "caption": line})
    whole = {"info": INFO, "licenses": [LICENCE], "images": images, "annotations": annotations}
    write(out / "annotations" / "captions_embedded.json", whole)


def _answered(asked: Sequence[Sequence[Question]], rng: np.random.Generator) -> tuple[list[Any], list[Any]]:
    """(questions, annotations) in VQAv2's form, ten answers to each question. asked: the questions of each image."""
    texts, annotations = list[dict[str, Any]](), list[dict[str, Any]]()
    for image_id, own in enumerate(asked, 1):
        for number, question in enumerate(own):
            key = {"image_id": image_id, "question_id": image_id * 1000 + number}
            kind = "yes/no" if question.answer in ("yes", "no") else "number" if question.answer.isdigit() else "other"
            answers = human_answers(question, rng)
            texts.append({**key, "question": question.text})
            annotations.append({
                **key, "question_type": question.category or question.kind, "answer_type": kind,
                "multiple_choice_answer": question.answer,
                "answers": [
                    {"answer": a, "answer_confidence": "yes", "answer_id": i} for i, a in enumerate(answers, 1)
                ],
            })  # fmt: skip
    return texts, annotations


def vqav2(out: Path, scenes: list[Scene], seed: int, each: int) -> None:
    """Write VQAv2's format with images/COCO_embedded_000000000001.png. Every question is answered by its picture."""
    _images(scenes, out / "images", "COCO_embedded_%012d.png")
    rng = np.random.default_rng(seed)
    shown = [[q for q in questions(scene, rng) if q.kind != "knowledge"][:each] for scene in scenes]
    texts, annotations = _answered(shown, rng)
    head = {"info": INFO, "license": LICENCE, "data_type": "embedded", "data_subtype": "embedded"}
    write(out / "v2_OpenEnded_embedded_questions.json", {**head, "task_type": "Open-Ended", "questions": texts})
    write(out / "v2_embedded_annotations.json", {**head, "annotations": annotations})


def okvqa(out: Path, scenes: list[Scene], seed: int, each: int) -> None:
    """Write questions of knowledge about the images of `vqav2` in the form of OK-VQA.

    It is VQAv2's form, with each answer also as it was first written, and without the most frequent answer. OK-VQA
    stems its answers; the answers here have no endings to cut off.
    """
    rng = np.random.default_rng(seed)
    texts, annotations = _answered([knowledge_questions(scene, rng)[:each] for scene in scenes], rng)
    for annotation in annotations:
        del annotation["multiple_choice_answer"]
        annotation["confidence"] = 5
        for answer in annotation["answers"]:
            answer["raw_answer"] = answer["answer"]
    head = {"info": INFO, "license": LICENCE, "data_type": "embedded", "data_subtype": "embedded"}
    write(out / "OpenEnded_embedded_questions.json", {**head, "task_type": "Open-Ended", "questions": texts})
    write(out / "embedded_annotations.json", {**head, "annotations": annotations})


def stories(out: Path, images: int) -> None:
    """Write open prompts about the first `images` pictures of coco-caption as JSON lines, one prompt each in turn."""
    folder = out / "stories"
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        {
            "id": f"{number}",
            "image": f"{number:012d}.png",
            "prompt": language.STORIES[(number - 1) % len(language.STORIES)],
        }
        for number in range(1, images + 1)
    ]
    (folder / "stories_embedded.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    scenes = suite_scenes("coco-caption")
    captions(args.out / "coco-caption", scenes, [[language.caption(s, v) for v in range(5)] for s in scenes])
    scenes = suite_scenes("vqav2")
    vqav2(args.out / "vqav2", scenes, SEED + 1, 5)
    okvqa(args.out / "okvqa", scenes, SEED + 8, 2)
    render_formats.gqa(args.out, scenes, SEED + 3, 3)
    render_formats.pope(args.out, scenes, SEED + 4, images=40, each=2)
    render_formats.visdial(args.out, scenes[:30], SEED + 7)
    scenes = suite_scenes("describe")
    captions(args.out / "describe", scenes, [[language.description(s, v) for v in range(3)] for s in scenes])
    render_formats.nocaps(args.out, scenes)
    stories(args.out, 120)


if __name__ == "__main__":
    main()
