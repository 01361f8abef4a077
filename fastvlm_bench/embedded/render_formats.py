"""The embedded splits of nocaps, gqa, pope and visdial-gen: annotation files for images that other splits hold.

`render_suites` calls the functions with its held-out scenes.
"""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from fastvlm_bench.world import language
from fastvlm_bench.world.pictures import IMAGE_SIZE
from fastvlm_bench.world.questions import dialog, questions
from fastvlm_bench.world.scenes import KINDS, Scene

IN_COCO = ("ball", "bird", "boat", "car", "cat", "dog", "kite", "umbrella")
"""Kinds that are among COCO's eighty. As in nocaps, an image's domain says whether it shows such kinds, or others."""
STRUCTURE = {
    "color": ("query", "attr"), "size": ("choose", "attr"), "where": ("query", "rel"), "what-at": ("query", "obj"),
    "which": ("query", "cat"), "place": ("query", "global"), "time": ("query", "global"), "exists": ("verify", "obj"),
    "relation": ("verify", "rel"), "side": ("choose", "rel"),
}  # fmt: skip
"""Kind of question -> GQA's structural and semantic type. GQA does not count, so questions of number are left out."""
INFO = {"description": "Rendered scenes of fastvlm-bench's embedded world; not the real data set", "version": "2"}
ROUNDS = 10


def write(path: Path, value: Any) -> None:
    """Write `value` as compact JSON in one line. Missing folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, separators=(",", ":")) + "\n", encoding="utf-8")


def nocaps(out: Path, scenes: list[Scene]) -> None:
    """Write the images of `describe` in the form of nocaps, which is COCO's with a domain for each image.

    The domain is "in" if all kinds in the image are COCO's, "out" if none is, else "near".
    """
    images, annotations = list[dict[str, Any]](), list[dict[str, Any]]()
    for number, scene in enumerate(scenes, 1):
        known = sum(o.kind in IN_COCO for o in scene.objects)
        domain = "in" if known == len(scene.objects) else "near" if known else "out"
        images.append({"id": number, "open_images_id": f"{number:012d}", "file_name": f"{number:012d}.png",
                       "height": IMAGE_SIZE, "width": IMAGE_SIZE, "domain": f"{domain}-domain"})  # fmt: skip
        for variant in range(language.CAPTION_VARIANTS):
            text = language.caption(scene, variant)
            annotations.append({"id": len(annotations) + 1, "image_id": number, "caption": text})
    whole = {"info": INFO, "licenses": [], "images": images, "annotations": annotations}
    write(out / "nocaps" / "nocaps_embedded_captions.json", whole)


def gqa(out: Path, scenes: list[Scene], seed: int, each: int) -> None:
    """Write questions about the images of `vqav2` in the form of GQA: one answer to each, no counting.

    each: how many questions an image has at most.
    """
    rng, asked = np.random.default_rng(seed), dict[str, Any]()
    for number, scene in enumerate(scenes, 1):
        own = [q for q in questions(scene, rng) if q.kind in STRUCTURE][:each]
        for index, question in enumerate(own):
            structural, semantic = STRUCTURE[question.kind]
            structural = "verify" if question.answer in ("yes", "no") else structural
            asked[f"{number:04d}{index:02d}"] = {
                "question": question.text, "imageId": f"COCO_embedded_{number:012d}", "answer": question.answer,
                "isBalanced": False, "types": {"structural": structural, "semantic": semantic},
            }  # fmt: skip
    write(out / "gqa" / "embedded_questions.json", asked)


def pope(out: Path, scenes: list[Scene], seed: int, *, images: int, each: int) -> None:
    """Write POPE's three files about images of `vqav2`, in POPE's words.

    Each image is asked about `each` kinds that it shows, and about as many that it does not show. The latter are drawn
    from all kinds (random), from the most frequent kinds (popular), or from those most often seen together with the
    image's own (adversarial), as POPE draws them.
    """
    held = [sorted({o.kind for o in scene.objects}) for scene in scenes]
    frequent = Counter(kind for kinds in held for kind in kinds)
    chosen = [number for number, kinds in enumerate(held) if len(kinds) >= each][:images]
    for place, sampling in enumerate(("random", "popular", "adversarial")):
        rng, lines = np.random.default_rng(seed + place), list[str]()
        for number in chosen:
            there = held[number]
            near = Counter(other for kinds in held for kind in there if kind in kinds for other in kinds)
            drawn = [list(KINDS)[i] for i in rng.permutation(len(KINDS))]
            first = {"random": [], "popular": [kind for kind, _ in frequent.most_common(8)],
                     "adversarial": [kind for kind, _ in near.most_common()]}  # fmt: skip
            absent = [kind for kind in dict.fromkeys([*first[sampling], *drawn]) if kind not in there][:each]
            present = [there[i] for i in rng.permutation(len(there))][:each]
            for yes, no in zip(present, absent, strict=True):
                for kind, label in ((yes, "yes"), (no, "no")):
                    lines.append(json.dumps({
                        "question_id": len(lines) + 1, "image": f"COCO_embedded_{number + 1:012d}.png",
                        "text": f"Is there {language.article(kind)} in the image?", "label": label,
                    }, separators=(",", ":")))  # fmt: skip
        path = out / "pope" / f"embedded_pope_{sampling}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def visdial(out: Path, scenes: list[Scene], seed: int) -> None:
    """Write dialogs of ten rounds about images of `vqav2` in the form of VisDial 1.0, without its options to rank."""
    rng, texts, answers, dialogs = np.random.default_rng(seed), dict[str, int](), dict[str, int](), []
    for number, scene in enumerate(scenes, 1):
        turns = [
            {
                "question": texts.setdefault(turn.text, len(texts)),
                "answer": answers.setdefault(turn.answer, len(answers)),
            }
            for turn in dialog(scene, rng, ROUNDS)
        ]
        dialogs.append({"image_id": number, "caption": language.caption(scene, 0), "dialog": turns})
    data = {"dialogs": dialogs, "questions": list(texts), "answers": list(answers)}
    write(out / "visdial" / "visdial_1.0_embedded.json", {"split": "embedded", "version": "1.0", "data": data})
