"""A head's guesses along texts of the target, compared with the target's own choices: what validation counts."""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from fastvlm_bench.drafts.heads import MedusaHeads
from fastvlm_bench.models.load import Target
from fastvlm_bench.training.ahead import guessed
from fastvlm_bench.training.answers import Example
from fastvlm_bench.training.choosing import Choosing
from fastvlm_bench.training.observe import Observer, View
from fastvlm_bench.training.prediction import Checked, CheckedAhead
from fastvlm_bench.training.student import Student
from fastvlm_bench.training.tail import Tail


class Trained(Protocol):
    """What is asked of a trainer."""

    target: Target
    observer: Observer
    students: list[Student]
    tail: Tail | None
    output_ids: Tensor | None

    def autocast(self) -> Any: ...


class Checker:
    """Compares the students of a trainer with its target."""

    def __init__(self, trainer: Trained) -> None:
        self.trainer, self.choosing = trainer, Choosing(trainer.target)
        self.never = torch.tensor(sorted(self.choosing.placeholders), device=trainer.target.device)

    def check(self, examples: Sequence[Example], size: int) -> dict[str, list[Checked]]:
        """As `HeadTrainer.check`; size: of a micro-batch."""
        assert self.trainer.tail is not None
        found: dict[str, list[Checked]] = {student.name: [] for student in self.trainer.students}
        for view, group in self.trainer.observer.views(examples, size):
            places, end = [], 0
            for example in group:
                places.append(slice(end, end := end + example.taught))
            target_logits = self.trainer.tail(view.last_states())
            own = self._choices(group, places, target_logits)
            for student in self.trainer.students:
                guesses = [self._compared(group, places, logits, own) for logits in self._draft_logits(student, view)]
                for example, place in zip(group, places, strict=True):
                    (right, confidence), *further = [(right[place], sure[place]) for right, sure in guesses]
                    given = (right, confidence, example.ended, example.most - len(example.answer))
                    ahead = isinstance(student.head, MedusaHeads)
                    found[student.name].append(CheckedAhead(*given, further) if ahead else Checked(*given))
        return found

    def _draft_logits(self, student: Student, view: View) -> Iterator[Tensor]:
        """The draft's logits at the n taught places, (n, vocab): once, or for each of the heads at the end.

        Where such a head has no state to guess from, its logits are NaN.
        """
        assert self.trainer.tail is not None
        with self.trainer.autocast():
            if isinstance(student.head, MedusaHeads):
                for _, logits, there in guessed(student.head, view, self.trainer.tail):
                    whole = logits.new_full((len(there), logits.shape[1]), torch.nan, dtype=torch.float32)
                    whole[there] = logits.float()
                    yield whole
            else:
                yield self.trainer.tail(view.imitate(student.head, student.recipe.exit_layer)[0]).float()

    def _compared(
        self, group: Sequence[Example], places: Sequence[slice], logits: Tensor, own: Tensor
    ) -> tuple[list[bool], list[float]]:
        """For each taught place: whether the draft is right, and how sure. logits: (n, vocab), NaN for no guess."""
        if self.trainer.output_ids is not None:
            left_out = torch.ones_like(logits[0], dtype=torch.bool)
            left_out[self.trainer.output_ids] = False
            logits = logits.masked_fill(left_out, -torch.inf)
        guess = self._choices(group, places, logits)
        sure = logits.softmax(-1).amax(-1)  # of unprocessed logits, as in the loop's stop by confidence
        sure[torch.isin(guess, self.never)] = -1.0
        right = (guess == own) & ~logits.isnan().any(-1)
        return right.tolist(), sure.nan_to_num(0.0).tolist()

    def _choices(self, group: Sequence[Example], places: Sequence[slice], logits: Tensor) -> Tensor:
        return torch.cat([self.choosing.along(e, logits[p]) for e, p in zip(group, places, strict=True)])
