"""`run --refine`: between samples, outside the clock, each draft learns from the tokens that the target corrected.

The method's output stays the target's, token by token. What changes over the run is how often a draft is accepted.
"""

import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from fastvlm_bench.decoding.build import Built
from fastvlm_bench.decoding.fastvlm import FastVLM
from fastvlm_bench.decoding.medusa import Medusa
from fastvlm_bench.drafts.imitation_head import Draft
from fastvlm_bench.errors import UsageError
from fastvlm_bench.models.load import Target
from fastvlm_bench.suites.suite import Sample, open_images
from fastvlm_bench.training.answers import Example
from fastvlm_bench.training.recipe import DEFAULT_LOSSES, Recipe
from fastvlm_bench.training.refine import BOOST, ReplayBuffer
from fastvlm_bench.training.samples import TrainingSample
from fastvlm_bench.training.trainer import HeadTrainer

LR = 2e-3
REPLAYED = 7
"""How many earlier texts an update replays beside the latest one."""


class RunRefiner:
    """Refines every trained draft of a run. UsageError if the run has none."""

    def __init__(self, target: Target, methods: Sequence[Built]) -> None:
        self.target = target
        self.learners = [
            _Learner(target, built.label, built.method.draft)
            for built in methods
            if type(built.method) in (FastVLM, Medusa)
            and isinstance(built.method.draft, Draft)
            and built.method.draft.manifest
        ]
        if not self.learners:
            raise UsageError("--refine has no effect: no method drafts with a trained head; add --method fastvlm or "
                             "medusa")  # fmt: skip
        self.seconds = 0.0

    def learn(self, sample: Sample, lines: Sequence[Mapping[str, Any]]) -> None:
        """Update each draft once, on its method's text for the sample; the positions of its rejections weigh more.

        Only first turns are learned from.
        """
        if sample.earlier:  # a later turn, whose inputs depend on the method's earlier answers
            return
        began = time.perf_counter()
        for learner in self.learners:
            line = next((own for own in lines if own["method"] == learner.label), None)
            if line is not None and not line["error"] and len(line["token_ids"]) > 1:
                learner.learn(sample, line)
        self.seconds += time.perf_counter() - began

    def summary(self) -> dict[str, Any]:
        """For run.json: updates made for each method, the seconds they took outside the clock, the learning rate."""
        return {
            "updates": {learner.label: learner.trainer.done for learner in self.learners},
            "seconds": round(self.seconds, 3), "lr": LR,
        }  # fmt: skip

    def save(self, folder: Path) -> None:
        """Save the refined drafts: one in `folder` itself, several in numbered folders, in the order of the methods."""
        for number, learner in enumerate(self.learners):
            learner.draft.save(folder / str(number) if len(self.learners) > 1 else folder)


class _Learner:
    def __init__(self, target: Target, label: str, draft: Draft) -> None:
        assert draft.manifest is not None and draft.head is not None
        self.label, self.draft = label, draft
        told = draft.manifest.data.get("recipe", {})
        recipe = Recipe(
            label, draft.manifest.head, 0 if draft.manifest.at_the_end else draft.exit_layer,
            draft.manifest.head_options, draft.manifest.losses or DEFAULT_LOSSES,
            **{k: told[k] for k in ("fuse", "unroll", "decay") if k in told},
        )  # fmt: skip
        # `updates` is so large that the learning rate never falls: how long the run will be is not known.
        self.trainer = HeadTrainer(target, [recipe], lr=LR, updates=10**9, micro=1 + REPLAYED)
        (self.student,) = self.trainer.students
        self.student.head.load_state_dict(draft.head.state_dict())
        self.buffer, self.prepared = ReplayBuffer(), False

    def learn(self, sample: Sample, line: Mapping[str, Any]) -> None:
        key = str(line["sample_id"])
        source = TrainingSample(key, sample.image_id, sample.prompt, partial(open_images, sample), sample.references)
        example = Example(source, tuple(line["token_ids"]), line["stop"] == "eos")
        if not self.prepared:
            self.trainer.prepare([example])
            self.prepared = True
        weights = {self.label: corrected(line["rounds"], example.taught)}
        replayed = self.buffer.draw(REPLAYED, self.trainer.done)
        with torch.inference_mode(False), torch.enable_grad():
            self.trainer.update([example, *(old for old, _ in replayed)], [weights, *(rows for _, rows in replayed)])
        self.buffer.add([example], [weights])
        assert self.draft.head is not None
        self.draft.head.load_state_dict(self.student.head.state_dict())


def corrected(rounds: Sequence[Sequence[float]], taught: int) -> list[float]:
    """A weight for each taught position: 1 + BOOST where a draft was rejected, else 1. rounds: as in samples.jsonl."""
    weights, at = [1.0] * taught, 0
    for _, tested, accepted, emitted, *_ in rounds:
        place = at + int(accepted)
        if tested > accepted and place < taught:
            weights[place] += BOOST
        at += int(emitted)
    return weights
