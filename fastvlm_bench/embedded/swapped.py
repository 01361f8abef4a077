"""Do a target's answers depend on the picture? `python -m fastvlm_bench.embedded.swapped --model smol [--json FILE]`.

With `--exact-words` the image's places hold the embeddings of the right words instead of what smol's tower makes of the
picture. What its answers still do not tell, its language model cannot tell, however well it were shown the picture.

Every question is asked twice: with its own held-out picture, and with another one to which another answer is right. The
answers compete by the log-probability of their first token, so that no word has to be found in free text.

accuracy: how often the right answer is the likeliest of all candidates, with its own picture and with the other.
prefers: how often the own picture moves the balance between both pictures' answers towards its own; 0.5 is chance.
mentions: of the kinds of things in a free description, how many are in the picture, and how many in another one.
"""

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastvlm_bench.embedded.depth import loss
from fastvlm_bench.models.load import Target, load_target
from fastvlm_bench.training.answers import greedy_answers
from fastvlm_bench.training.samples import TrainingSample
from fastvlm_bench.world.pictures import render
from fastvlm_bench.world.scenes import COLORS, KINDS, Scene, sample_scene

SEED, DESCRIBED, MOST = 11, 30, 60
PROMPT = "Describe this picture."
NUMBERS = ("1", "2", "3", "4", "5")


@dataclass(frozen=True)
class Asked:
    """A question with two different right answers: of its own picture and of the other. candidates: all answers."""

    kind: str
    text: str
    own: str
    other: str
    candidates: tuple[str, ...]


def asked(scene: Scene, other: Scene) -> Iterator[Asked]:
    """What can be asked of both pictures and has another answer in each."""
    here, there = ([item.kind for item in s.objects] for s in (scene, other))
    for kind in KINDS:
        counts = here.count(kind), there.count(kind)
        if (counts[0] > 0) != (counts[1] > 0):
            own, wrong = ("Yes", "No") if counts[0] else ("No", "Yes")
            yield Asked("yes/no", f"Is there a {kind} in this picture? Answer yes or no.", own, wrong, ("Yes", "No"))
    total = len(here), len(there)
    if total[0] != total[1]:
        yield Asked("number", "How many things are in this picture? Answer with a number.", str(total[0]),
                    str(total[1]), NUMBERS)  # fmt: skip
    for kind in sorted({*here} & {*there}):
        colors = [{item.color for item in s.objects if item.kind == kind} for s in (scene, other)]
        if len(colors[0]) == len(colors[1]) == 1 and colors[0] != colors[1]:
            yield Asked("colour", f"What color is the {kind}? Answer with one word.", colors[0].pop(), colors[1].pop(),
                        tuple(COLORS))  # fmt: skip


Shown = Callable[[Sequence[Scene]], None]
"""Told of the scenes whose pictures the target is about to see."""


@contextmanager
def exact_words(target: Target) -> Iterator[Shown]:
    """The target reads each slot's right word in the place of what its tower makes of the picture."""
    from fastvlm_bench.embedded.sight import labels, word_embeddings

    embeddings, given = word_embeddings(target.model, target.processor.tokenizer), list[Scene]()

    def show(scenes: Sequence[Scene]) -> None:
        given[:] = scenes

    def replace(_: Any, __: Any, seen: Tensor) -> Tensor:
        return embeddings[labels(given)].to(seen).view_as(seen)

    hook = target.model.model.multi_modal_projector.register_forward_hook(replace)
    try:
        yield show
    finally:
        hook.remove()


@torch.inference_mode()
def log_probabilities(target: Target, scene: Scene, question: Asked, show: Shown) -> dict[str, float]:
    """Candidate -> log-probability of its likeliest first token: capital or not, after a space or not."""
    show([scene])
    logits = target.model(**target.encode(render(scene), question.text)).logits[0, -1].float().log_softmax(-1)
    encode = target.processor.tokenizer.encode
    return {
        word: max(
            float(logits[encode(form, add_special_tokens=False)[0]])
            for form in {word, word.capitalize(), word.lower()}
        )
        for word in question.candidates
    }  # fmt: skip


def compare(target: Target, scenes: int, show: Shown = lambda _: None) -> dict[str, Any]:
    """{measure: mean, interval and number of scenes}; see the module's docstring."""
    rng = np.random.default_rng(SEED)
    worlds = [sample_scene(rng, held_out=True) for _ in range(scenes)]
    found: dict[str, list[tuple[float, float, float]]] = {}
    for number, scene in enumerate(worlds):
        other = worlds[(number + 1) % scenes]
        each: dict[str, list[tuple[float, float, float]]] = {}
        for question in _few(list(asked(scene, other)), rng):
            own, swapped = (log_probabilities(target, shown, question, show) for shown in (scene, other))
            margins = [said[question.own] - said[question.other] for said in (own, swapped)]
            moved = 0.5 + 0.5 * float(np.sign(margins[0] - margins[1]))
            right = [float(max(said, key=lambda word: said[word]) == question.own) for said in (own, swapped)]  # noqa: B023
            each.setdefault(question.kind, []).append((moved, right[0], right[1]))
        for kind, rows in each.items():  # one value a scene, so that scenes are what is drawn again
            prefers, right, wrong = np.mean(rows, axis=0).tolist()
            found.setdefault(kind, []).append((prefers, right, wrong))
    out: dict[str, Any] = {"scenes": scenes, "seed": SEED, "questions": {}}
    for kind, rows in sorted(found.items()):
        preferred, with_own, with_other = (list(column) for column in zip(*rows, strict=True))
        out["questions"][kind] = {"scenes": len(rows), "prefers": loss(preferred, [0.5] * len(preferred)),
                                  "accuracy": loss(with_own, with_other)}  # fmt: skip
    out["mentions"] = mentions(target, worlds[: min(DESCRIBED, scenes)], show)
    return out


def _few(questions: Sequence[Asked], rng: np.random.Generator, most: int = 2) -> list[Asked]:
    """At most so many questions of each kind."""
    kinds = {q.kind: [o for o in questions if o.kind == q.kind] for q in questions}
    return [own[i] for own in kinds.values() for i in rng.permutation(len(own))[:most]]


def mentions(target: Target, worlds: Sequence[Scene], show: Shown) -> dict[str, Any]:
    """Of each description the share of its picture's kinds that it names, against those of the next picture."""
    samples = [TrainingSample(str(n), str(n), PROMPT, partial(render, scene)) for n, scene in enumerate(worlds)]
    show(worlds)
    texts = [target.decode(list(ids)).lower() for ids, _ in greedy_answers(target, samples, MOST)]
    kinds = [{item.kind for item in scene.objects} for scene in worlds]
    own, other = list[float](), list[float]()
    for number, text in enumerate(texts):
        mine, others = kinds[number], kinds[(number + 1) % len(kinds)]
        if mine - others and others - mine:
            own.append(float(np.mean([kind in text for kind in mine - others])))
            other.append(float(np.mean([kind in text for kind in others - mine])))
    return {"pictures": len(own), **loss(own, other)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default="smol")
    parser.add_argument("--scenes", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--exact-words", action="store_true")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    target = load_target(args.model, device="cpu")
    if args.exact_words:
        with exact_words(target) as show:
            found = compare(target, args.scenes, show)
    else:
        found = compare(target, args.scenes)
    print(json.dumps(found, indent=2))
    if args.json:
        args.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
