"""Held-out skill of the embedded model: `python -m fastvlm_bench.embedded.evaluate [--model DIR] [--json FILE]`.

VQA exact match by kind of question, caption scores, and the share of a long description's sentences that are right.
"""

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fastvlm_bench.metrics import bleu4, cider_d
from fastvlm_bench.models.load import Target, load_target
from fastvlm_bench.training.answers import greedy_answers
from fastvlm_bench.training.samples import TrainingSample
from fastvlm_bench.world import language, questions
from fastvlm_bench.world.pictures import render
from fastvlm_bench.world.scenes import Scene, sample_scene

SEED = 7


def answers(target: Target, asked: Sequence[tuple[Scene, str]], most: int) -> list[str]:
    """The target's greedy answer to each (scene, prompt)."""
    samples = [
        TrainingSample(str(n), str(n), prompt, partial(render, scene)) for n, (scene, prompt) in enumerate(asked)
    ]
    out: list[str] = []
    for start in range(0, len(samples), 64):
        out += [target.decode(list(ids)) for ids, _ in greedy_answers(target, samples[start : start + 64], most)]
    return out


def facts(scene: Scene, text: str) -> tuple[Counter[str], Counter[str]]:
    """(right, all): the numbers of the description's sentences by what they state, see `language.stated`."""
    said = {line.removesuffix(".") for line in text.split(". ")}
    stated = [(kind, language.capital(line)) for kind, line in language.stated(scene)]
    return Counter(kind for kind, line in stated if line in said), Counter(kind for kind, _ in stated)


@dataclass(frozen=True)
class Skill:
    """What a target says about held-out scenes, one entry a scene.

    answered: (kind of question, right or not) of each question. captions, references: texts. described: whether the
    long description is right word for word. told: (right, all) sentences of it, by what they state.
    """

    answered: list[list[tuple[str, bool]]]
    captions: list[str]
    references: list[list[str]]
    described: list[bool]
    told: list[tuple[Counter[str], Counter[str]]]

    def caption_scores(self) -> list[float]:
        """CIDEr-D of each caption, 0 to 10; document frequencies of these scenes."""
        return list(cider_d.score(self.captions, self.references).per_sample)


def skill(target: Target, scenes: int) -> Skill:
    """Let the target answer, caption and describe `scenes` held-out scenes; the same ones for every target."""
    rng = np.random.default_rng(SEED)
    worlds = [sample_scene(rng, held_out=True) for _ in range(scenes)]
    asked = [(number, scene, q) for number, scene in enumerate(worlds) for q in questions.questions(scene, rng)]
    said = answers(target, [(s, questions.suite_prompt(q)) for _, s, q in asked], 8)
    answered: list[list[tuple[str, bool]]] = [[] for _ in worlds]
    for (number, _, question), answer in zip(asked, said, strict=True):
        answered[number].append((question.kind, answer == question.answer))
    described = answers(target, [(s, language.DESCRIBE_PROMPT) for s in worlds], 160)
    return Skill(
        answered=answered,
        captions=answers(target, [(s, language.CAPTION_PROMPT) for s in worlds], 64),
        references=[[language.caption(s, v) for v in range(language.CAPTION_VARIANTS)] for s in worlds],
        described=[text == language.description(s) for s, text in zip(worlds, described, strict=True)],
        told=[facts(s, text) for s, text in zip(worlds, described, strict=True)],
    )


def evaluate(target: Target, scenes: int) -> dict[str, Any]:
    """Scores on `scenes` held-out scenes; see the module's docstring."""
    found = skill(target, scenes)
    every = [one for own in found.answered for one in own]
    right, total = Counter(kind for kind, ok in every if ok), Counter(kind for kind, _ in every)
    true, told = (sum((pair[i] for pair in found.told), Counter[str]()) for i in (0, 1))
    return {
        "scenes": scenes, "questions": len(every), "seed": SEED,
        "vqa_exact_match": sum(right.values()) / sum(total.values()),
        "vqa_exact_match_by_kind": {kind: right[kind] / total[kind] for kind in sorted(total)},
        "caption_cider_d": cider_d.score(found.captions, found.references).value,
        "caption_bleu4": bleu4.score(found.captions, found.references).value,
        "description_facts": true.total() / told.total(),
        "description_facts_by_kind": {kind: true[kind] / told[kind] for kind in sorted(told)},
        "descriptions_word_for_word": sum(found.described) / scenes,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--scenes", type=int, default=250)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    scores = evaluate(load_target(args.model, device="cpu"), args.scenes)
    print(json.dumps(scores, indent=2))
    if args.json:
        args.json.write_text(json.dumps(scores, indent=2) + "\n")


if __name__ == "__main__":
    main()
