"""The embedded splits of nocaps, gqa, pope and visdial-gen: annotation files over images that other splits have.

Called by `render_suites`, with its held-out scenes. OK-VQA has no embedded split: it asks for knowledge from outside
the image, of which this world has none.
"""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from fastvlm_bench.models.tiny import language
from fastvlm_bench.models.tiny.scenes import COLORS, SHAPES, Scene

GEOMETRIC = ("circle", "square", "triangle", "star", "cross")
"""Shapes that are figures. The others depict things; the domains of the embedded nocaps part the two."""
STRUCTURE = {
    "color": ("query", "attr"), "size": ("choose", "attr"), "pattern": ("query", "attr"), "where": ("query", "rel"),
    "what-at": ("query", "obj"), "shape": ("query", "cat"), "background": ("query", "global"),
    "exists": ("verify", "obj"), "relation": ("verify", "rel"),
}  # fmt: skip
"""Kind of question -> GQA's structural and semantic type. GQA does not count, so questions of number are left out."""
INFO = {"description": "Rendered scenes of fastvlm-bench's embedded world; not the real data set", "version": "1"}
ROUNDS = 10
Named = tuple[str, str]


def _write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, separators=(",", ":")) + "\n", encoding="utf-8")


def nocaps(out: Path, scenes: list[Scene]) -> None:
    """COCO's form with a domain each, over the images of `describe`: figures alone, both, depicted things alone."""
    images, annotations = list[dict[str, Any]](), list[dict[str, Any]]()
    for number, scene in enumerate(scenes, 1):
        figures = sum(o.shape in GEOMETRIC for o in scene.objects)
        domain = "in" if figures == len(scene.objects) else "near" if figures else "out"
        images.append({"id": number, "open_images_id": f"{number:012d}", "file_name": f"{number:012d}.png",
                       "height": 96, "width": 96, "domain": f"{domain}-domain"})  # fmt: skip
        for variant in range(language.CAPTION_VARIANTS):
            text = language.caption(scene, variant)
            annotations.append({"id": len(annotations) + 1, "image_id": number, "caption": text})
    whole = {"info": INFO, "licenses": [], "images": images, "annotations": annotations}
    _write(out / "nocaps" / "nocaps_embedded_captions.json", whole)


def gqa(out: Path, scenes: list[Scene], seed: int, each: int) -> None:
    """GQA's form over the images of `vqav2`: one answer a question, no counting."""
    rng, asked = np.random.default_rng(seed), dict[str, Any]()
    for number, scene in enumerate(scenes, 1):
        own = [q for q in language.questions(scene, rng) if q.kind in STRUCTURE][:each]
        for index, question in enumerate(own):
            structural, semantic = STRUCTURE[question.kind]
            asked[f"{number:04d}{index:02d}"] = {
                "question": question.text, "imageId": f"COCO_embedded_{number:012d}", "answer": question.answer,
                "isBalanced": False, "types": {"structural": structural, "semantic": semantic},
            }  # fmt: skip
    _write(out / "gqa" / "embedded_questions.json", asked)


def pope(out: Path, scenes: list[Scene], seed: int, each: int) -> None:
    """POPE's three files over the images of `vqav2`: `each` objects that are there and as many that are not.

    An object is a colour and a shape. Those that are not there are drawn from all (random), from the most frequent
    ones (popular), or from the colours and shapes of the image's own objects, wrongly paired (adversarial). POPE's own
    questions end with "in the image", words that the embedded model was never taught: with them it says yes too often.
    """
    everything = [(color, shape) for color in COLORS for shape in SHAPES]
    frequent = Counter((o.color, o.shape) for scene in scenes for o in scene.objects)
    for place, sampling in enumerate(("random", "popular", "adversarial")):
        rng, lines = np.random.default_rng(seed + place), list[str]()
        for number, scene in enumerate(scenes, 1):
            there = sorted({(o.color, o.shape) for o in scene.objects})
            mixed = sorted({(a.color, b.shape) for a in scene.objects for b in scene.objects} - set(there))
            drawn: list[Named] = [everything[i] for i in rng.permutation(len(everything))]
            first = {"random": [], "popular": [name for name, _ in frequent.most_common(20)], "adversarial": mixed}
            absent = [name for name in dict.fromkeys([*first[sampling], *drawn]) if name not in there]
            present = [there[i] for i in rng.permutation(len(there))][:each]
            for yes, no in zip(present, absent, strict=False):
                for (color, shape), label in ((yes, "yes"), (no, "no")):
                    article = "an" if color[0] in "aeiou" else "a"
                    lines.append(json.dumps({
                        "question_id": len(lines) + 1, "image": f"COCO_embedded_{number:012d}.png",
                        "text": f"Is there {article} {color} {shape}?", "label": label,
                    }, separators=(",", ":")))  # fmt: skip
        path = out / "pope" / f"embedded_pope_{sampling}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def visdial(out: Path, scenes: list[Scene], seed: int) -> None:
    """VisDial 1.0's form over the images of `vqav2`, ten rounds a dialog, without the options that it ranks."""
    rng, questions, answers, dialogs = np.random.default_rng(seed), dict[str, int](), dict[str, int](), []
    for number, scene in enumerate(scenes, 1):
        texts = {q.text: q.answer for _ in range(3) for q in language.questions(scene, rng)}
        turns = [
            {"question": questions.setdefault(text.removesuffix("?").lower(), len(questions)),
             "answer": answers.setdefault(answer, len(answers))}
            for text, answer in list(texts.items())[:ROUNDS]
        ]  # fmt: skip
        dialogs.append({"image_id": number, "caption": language.caption(scene, 0), "dialog": turns})
    data = {"dialogs": dialogs, "questions": list(questions), "answers": list(answers)}
    _write(out / "visdial" / "visdial_1.0_embedded.json", {"split": "embedded", "version": "1.0", "data": data})
