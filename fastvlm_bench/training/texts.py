"""The texts that a training learns and validates on: samples in their order, with the answers or references to them."""

import random
from collections.abc import Sequence
from pathlib import Path

from fastvlm_bench.errors import UsageError
from fastvlm_bench.models.load import Target
from fastvlm_bench.suites.definition import read_definition
from fastvlm_bench.training import parallel
from fastvlm_bench.training.answers import Example, own_answers, reference_answers
from fastvlm_bench.training.display import Display
from fastvlm_bench.training.folder import ANSWERS, NEW_ANSWERS, TrainingFolder
from fastvlm_bench.training.samples import TrainingSample, folder_samples, hold_out, suite_samples
from fastvlm_bench.training.settings import DEFAULT_TOKENS, TrainSettings


class Texts:
    """The texts of one training; the target's own answers are kept in the training's folder."""

    def __init__(self, settings: TrainSettings, folder: TrainingFolder, display: Display) -> None:
        self.settings, self.folder, self.display = settings, folder, display
        self.samples, self.held_out = _samples(settings)

    def collect(self, target: Target) -> tuple[list[Example], list[Example], list[Example]]:
        """(base, fresh, held out). The fresh texts are for the refinement stage.

        They are of samples beyond `samples`, which were never trained on, or, where there are none, of the first ones.
        """
        s = self.settings
        chosen, wanted = self.samples[: s.samples], s.refine_updates
        unseen = self.samples[s.samples : s.samples + wanted] or chosen[:wanted]
        base: list[Example] = []
        if s.references:
            base += self._references(target, chosen)
            if not base:
                raise UsageError("--references: these samples have no reference texts; leave it out")
        if s.on_policy:
            base += self._answers(target, chosen, "answers")
        fresh = self._answers(target, unseen, "fresh answers") if wanted else []
        held_out = [e for e in self._answers(target, self.held_out, "held out") if e.taught]
        base = [example for example in base if example.taught]
        if not base or not held_out:
            raise UsageError(
                f"no {'training' if not base else 'held-out'} text has two tokens or more, so nothing is ever drafted; "
                "choose a suite with longer answers"
            )
        return base, [example for example in fresh if example.taught], held_out

    def for_backbone(self, target: Target) -> list[Example]:
        """What phase 1 learns on: references where there are any, else the target's own answers."""
        chosen = self.samples[: self.settings.samples]
        found = self._references(target, chosen) or self._answers(target, chosen, "answers")
        return [example for example in found if example.taught]

    def limit(self, sample: TrainingSample) -> int:
        """The token limit of a sample's text, the same as in `run`."""
        suite = sample.sample_id.partition("/")[0]
        own = read_definition(suite).max_new_tokens if suite in self.settings.suites else DEFAULT_TOKENS
        return self.settings.max_new_tokens or own

    def _references(self, target: Target, samples: Sequence[TrainingSample]) -> list[Example]:
        return [e for sample in samples for e in reference_answers(target, [sample], self.limit(sample))]

    def _answers(self, target: Target, samples: Sequence[TrainingSample], label: str) -> list[Example]:
        if not parallel.leads():
            parallel.wait()  # until the leader has written the answers, which are read below
        # A model that phase 1 made gives other answers, so they are kept in a file of their own.
        name = ANSWERS if target.id == self.settings.model else NEW_ANSWERS
        bar, size = self.display.bar(label, len(samples)), min(64, max(self.settings.micro, 1) * 2)
        found: dict[str, Example] = {}
        by_limit: dict[int, list[TrainingSample]] = {}
        for sample in samples:
            by_limit.setdefault(self.limit(sample), []).append(sample)
        path, say = self.folder.path / name, self.display.say
        for most, alike in by_limit.items():
            before = len(found)
            made = own_answers(target, alike, most, path, lambda done, before=before: bar(before + done), size, say)  # type: ignore[misc]
            found |= {example.sample.sample_id: example for example in made}
        if parallel.leads():
            parallel.wait()
        return [found[sample.sample_id] for sample in samples]


def _samples(s: TrainSettings) -> tuple[list[TrainingSample], list[TrainingSample]]:
    """(training, held out). The order of the training samples depends on the seed; several suites take turns in it."""
    if s.images and s.prompts:
        rest, held = hold_out(folder_samples(Path(s.images), Path(s.prompts)), s.held_out, s.seed)
        return _shuffled(rest, s.seed), held
    each, queues, held = -(-s.held_out // len(s.suites)), [], list[TrainingSample]()
    for name in s.suites:
        if s.data is None:
            from fastvlm_bench.training.scenes import rendered_samples

            most = -(-(s.samples + s.refine_updates) // len(s.suites))
            queues.append(rendered_samples(name, most, s.seed, held_out=False))
            held += rendered_samples(name, each, s.seed, held_out=True)
            continue
        found = suite_samples(
            name, data=s.data, split=s.split, offline=s.offline, prompt_set=s.prompt_set, prompt=s.prompt
        )
        rest, out = hold_out(found, each, s.seed)
        queues.append(_shuffled(rest, s.seed))
        held += out
    longest = max(map(len, queues))
    return [queue[place] for place in range(longest) for queue in queues if place < len(queue)], held


def _shuffled(samples: Sequence[TrainingSample], seed: int) -> list[TrainingSample]:
    out = list(samples)
    random.Random(seed).shuffle(out)
    return out
