"""Samples for training the embedded model's drafts: scenes that are rendered only when they are needed."""

from functools import partial

import numpy as np

from fastvlm_bench.errors import UsageError
from fastvlm_bench.training.samples import TrainingSample
from fastvlm_bench.world import language, questions
from fastvlm_bench.world.pictures import render
from fastvlm_bench.world.scenes import Scene, sample_scene
from fastvlm_bench.world.splits import validation_scene

SUITES = ("describe", "coco-caption", "vqav2", "okvqa", "stories")


def rendered_samples(suite: str, count: int, seed: int, *, held_out: bool) -> list[TrainingSample]:
    """`count` samples of one embedded suite, on scenes from the wanted side of the split.

    Equal arguments give equal samples. held_out: scenes that the target was not trained on, for validation. Neither
    side has a scene that an embedded suite shows, so what is chosen here is measured on others.
    """
    if suite not in SUITES:
        raise UsageError(f"no scenes can be rendered for suite '{suite}': one of {', '.join(SUITES)}, or give --data")
    rng, out = np.random.default_rng([seed, *suite.encode(), held_out]), []
    for number in range(count):
        fewest = 3 if suite == "describe" else 1
        scene = validation_scene(rng, fewest) if held_out else sample_scene(rng, held_out=False, min_objects=fewest)
        if suite == "describe":
            prompt, reference = language.DESCRIBE_PROMPT, language.description(scene)
        elif suite == "stories":
            prompt, reference = language.STORIES[number % len(language.STORIES)], None
        elif suite == "coco-caption":
            prompt, reference = language.CAPTION_PROMPT, language.caption(scene, 0)
        else:
            question = _question(scene, rng, knowledge=suite == "okvqa")
            prompt, reference = questions.suite_prompt(question), question.answer
        key = f"{suite}/{'held-out' if held_out else 'train'}-{seed}-{number}"
        out.append(TrainingSample(key, key, prompt, partial(render, scene), () if reference is None else (reference,)))
    return out


def _question(scene: Scene, rng: np.random.Generator, *, knowledge: bool) -> questions.Question:
    """A question that the picture answers; with `knowledge`, one that needs knowledge if the scene allows one."""
    asked = questions.knowledge_questions(scene, rng) if knowledge else []
    return asked[0] if asked else next(q for q in questions.questions(scene, rng) if q.kind != "knowledge")
