"""Fits imitation heads on a frozen target: one forward pass of the target serves every exit and head at once.

Section 3 of arXiv 2510.22641, phase 2. All recipes see the same texts in the same order, so that two heads differ only
by what their recipes say. An update depends on nothing but the trainer's state and the examples given.
"""

import contextlib
import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from math import inf
from typing import Any

import torch
from torch import Tensor, nn

from fastvlm_bench.drafts.heads import BlockHead, MedusaHeads
from fastvlm_bench.drafts.imitation_head import Draft
from fastvlm_bench.drafts.reduced_vocabulary import ReducedOutput
from fastvlm_bench.errors import BenchError
from fastvlm_bench.machine.failures import out_of_memory
from fastvlm_bench.models.layers import output_embeddings
from fastvlm_bench.models.load import Target
from fastvlm_bench.models.memory_need import free_bytes
from fastvlm_bench.training import parallel
from fastvlm_bench.training.ahead import losses_ahead, losses_of_block
from fastvlm_bench.training.answers import Example
from fastvlm_bench.training.checking import Checker
from fastvlm_bench.training.kept_states import SHARE, KeptStates
from fastvlm_bench.training.losses import position_losses
from fastvlm_bench.training.micro_batch import MicroBatch
from fastvlm_bench.training.muon import Muon
from fastvlm_bench.training.observe import FAILURES, Observer, View
from fastvlm_bench.training.prediction import Checked
from fastvlm_bench.training.recipe import Recipe
from fastvlm_bench.training.student import Student
from fastvlm_bench.training.tail import Tail

CPU = torch.device("cpu")
Weights = Mapping[str, Sequence[float]]
"""Recipe -> a weight for each taught position of an example. A recipe that is not named has weights of 1."""


class HeadTrainer:
    """Trains the heads of several recipes together.

    updates: optimiser steps of the main stage, in whose second half the learning rate falls; refine_updates: steps of
    the refinement stage after it. micro: texts that pass the target together; halved for good when memory runs out.
    output_ids: the token ids that may be drafted, None for all. keeps: whether what the target gave for a text is kept;
    None until `prepare` has decided it. notes: what happened, for the display to print.
    """

    def __init__(
        self, target: Target, recipes: Sequence[Recipe], *, lr: float, updates: int, micro: int, seed: int = 0,
        refine_updates: int = 0,
    ) -> None:  # fmt: skip
        self.target, self.lr, self.updates, self.done = target, lr, updates, 0
        self.notes: list[str] = []
        self.micro = MicroBatch(micro, self.notes.append)
        self.refine_updates = refine_updates
        target.model.requires_grad_(False)
        self.students = [Student(recipe, target.model, seed) for recipe in recipes]
        exits = [r.exit_layer for r in recipes if not r.at_the_end]
        self.observer = Observer(target, exits, max(r.fuse for r in recipes))
        self.tail: Tail | None = None
        self.checker = Checker(self)
        self.output_ids: Tensor | None = None
        self.keeps: bool | None = None
        parameters = [p for student in self.students for p in student.head.parameters()]
        others = [p for p in parameters if p.ndim != 2]
        self.optimisers: list[torch.optim.Optimizer] = [
            Muon([p for p in parameters if p.ndim == 2], lr=lr, weight_decay=0.01),
            *([torch.optim.AdamW(others, lr=lr, betas=(0.9, 0.95), weight_decay=0.0)] if others else []),
        ]

    def prepare(self, examples: Sequence[Example]) -> None:
        """Choose the observer's route and check the tail, on the first examples. Must come before any update.

        BenchError where no draft can be trained on this target.
        """
        try:
            gap = self.observer.choose_route(examples)
            if self.observer.partial and any(student.head.recurs for student in self.students):
                raise ValueError("its last layers leave out most of a prompt, and a head that recurs reads their "
                                 "states of all of it: take another head, such as attention")  # fmt: skip
            self.tail = Tail(self.target, self.observer, max(examples, key=lambda example: example.taught))
        except FAILURES as error:
            if out_of_memory(error):
                raise
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise BenchError(
                f"a draft cannot be trained on {type(self.target.model).__name__}: {reason}; please report it"
            ) from error
        if not self.observer.packs:
            why = "two cannot pass together" if gap == inf else f"padded together its states differ by {gap:.1e}"
            self.notes.append(f"texts pass the target one by one: {why}")
        elif self.keeps is not False:
            self._keep(examples)

    def _keep(self, examples: Sequence[Example]) -> None:
        """Let each text pass the target once, if their states fit into memory and stand for a pass of the target."""
        kept = KeptStates(self.observer)
        plain = [example for example in examples if not self.observer.holds_images(example)]
        if self.keeps is None:
            fit = len(plain) > 1 and kept.agree(plain[:2]) and kept.bytes_for(plain) <= SHARE * free_bytes(CPU)
            self.keeps = not parallel.any_of(not fit)
        if self.keeps:
            self.observer.together = kept.view

    def update(self, examples: Sequence[Example], weights: Sequence[Weights] | None = None) -> dict[str, float]:
        """One optimiser step on the examples; returns each recipe's mean loss. FloatingPointError if it is not finite.

        weights: one entry for each example. Where memory runs out, the micro-batch is halved and the step done again.
        """
        given = list(weights) if weights is not None else [{} for _ in examples]
        losses = self.micro.fit(lambda size: self._backward(examples, given, size), f"at update {self.done + 1}")
        parallel.sum_gradients(p for student in self.students for p in student.head.parameters())
        for student in self.students:  # each head by itself, so that large gradients of one do not slow the others
            nn.utils.clip_grad_norm_(student.head.parameters(), 1.0)
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = self.lr * self.rate(self.done)
            optimiser.step()
        self.done += 1
        return losses

    def rate(self, done: int) -> float:
        """The learning-rate factor after `done` updates: linear warm-up over 30, flat, linear to 2 % in the last half.

        In the refinement stage it falls from a fifth to 2 %, linearly, too.
        """
        if done >= self.updates:
            return 0.02 + 0.18 * max(0.0, 1 - (done - self.updates) / max(self.refine_updates, 1))
        return min((done + 1) / 30, 1.0, 0.02 + 0.98 * (1 - done / max(self.updates, 1)) / 0.5)

    def _backward(self, examples: Sequence[Example], weights: Sequence[Weights], size: int) -> dict[str, float]:
        """Compute the gradients of the weighted mean loss over all positions of all examples (and all processes).

        Returns each recipe's loss. size: of a micro-batch.
        """
        for optimiser in self.optimisers:
            optimiser.zero_grad(set_to_none=True)
        totals = {
            s.name: sum(sum(_row(w, s.name, e)) for e, w in zip(examples, weights, strict=True)) for s in self.students
        }
        losses = dict.fromkeys(totals, 0.0)
        mine = parallel.share(list(zip(examples, weights, strict=True)))
        start = 0
        for view, group in self.observer.views([example for example, _ in mine], size):
            part = [row for _, row in mine[start : start + len(group)]]
            start += len(group)
            logits, aims = self._target_side(view)
            total = torch.zeros((), device=self.target.device)
            for student in self.students:
                row = [w for e, given in zip(group, part, strict=True) for w in _row(given, student.name, e)]
                weight = torch.tensor(row, device=self.target.device) / totals[student.name]
                loss = (self._losses(student, view, logits, aims[student.recipe.fuse]) * weight).sum()
                if not torch.isfinite(loss):
                    names = ", ".join(example.sample.sample_id for example in group)
                    raise FloatingPointError(
                        f"loss of {student.name} is {loss.item()} at update {self.done + 1} on samples {names}; "
                        "try a smaller --lr"
                    )
                total, losses[student.name] = total + loss, losses[student.name] + loss.item()
            total.backward()
        return parallel.sum_values(losses)

    @torch.no_grad()
    def _target_side(self, view: View) -> tuple[Tensor, dict[int, Tensor]]:
        assert self.tail is not None, "prepare comes first"
        aims = {fuse: view.aim(fuse) for fuse in {s.recipe.fuse for s in self.students}}
        return self.tail(view.last_states()), aims

    def _losses(self, student: Student, view: View, logits: Tensor, aim: Tensor) -> Tensor:
        """The loss at each of the n taught positions, (n,). For a head that recurs it is the mean over its passes."""
        assert self.tail is not None
        recipe = student.recipe
        if isinstance(student.head, MedusaHeads):
            with self.autocast():
                return losses_ahead(recipe, student.head, view, self.tail, logits)
        output, sayable = self.output, torch.ones_like(logits[:, 0])
        say: Callable[[Tensor], Tensor] = self.tail
        if output is not None:
            # A draft that may not say the target's choice cannot be right there, so it learns nothing from it.
            sayable, logits = torch.isin(logits.argmax(-1), output.ids), logits[:, output.ids]
            say = functools.partial(self._few, output)
        with self.autocast():
            if isinstance(student.head, BlockHead):
                return losses_of_block(recipe, student.head, view, say, aim, logits) * sayable
            passes = view.imitate(student.head, recipe.exit_layer, recipe.unroll)
            each = [position_losses(recipe, states, say(states), aim, logits) for states in passes]
        return torch.stack(each).mean(0) * sayable

    def _few(self, output: ReducedOutput, states: Tensor) -> Tensor:
        assert self.tail is not None
        return self.tail.after(self.tail.before(states), output.few)

    @functools.cached_property
    def _reduced(self) -> ReducedOutput:
        assert self.output_ids is not None
        return ReducedOutput(output_embeddings(self.target.model), self.output_ids)

    @property
    def output(self) -> ReducedOutput | None:
        """What stands in for the LM head while drafting, if only `output_ids` may be drafted."""
        return None if self.output_ids is None else self._reduced

    def autocast(self) -> Any:
        """A context in which products are computed in the target's dtype; the head's own weights stay float32."""
        dtype = self.target.model.dtype
        if dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.target.device.type, dtype=dtype)

    @torch.no_grad()
    def check(self, examples: Sequence[Example]) -> dict[str, list[Checked]]:
        """Each recipe's guesses along each example's text, compared with the target's choices.

        The tokens of draft and target are chosen as in decoding, after the model's own logits processors. For a head
        that recurs these are the guesses of the first pass, which reads the target's states: in a real draft it does
        worse.
        """
        return self.micro.fit(lambda size: self.checker.check(examples, size), "on held-out texts")

    def draft(self, student: Student) -> Draft:
        """The student as a draft that can decode, with its head in the target's dtype."""
        dtype = self.target.model.dtype
        head = student.head if dtype == torch.float32 else copy.deepcopy(student.head).to(dtype)
        layer = len(self.target.layers) if student.recipe.at_the_end else student.recipe.exit_layer
        return Draft(layer, head, None, self.output)

    def state(self) -> dict[str, Any]:
        """Everything that the next update depends on, and the micro-batch that memory allowed."""
        return {
            "done": self.done, "micro": self.micro.size, "keeps": self.keeps,
            "heads": {s.name: s.head.state_dict() for s in self.students},
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
        }  # fmt: skip

    def load(self, state: Mapping[str, Any]) -> None:
        self.done, self.micro.size = state["done"], state["micro"]
        for student in self.students:
            student.head.load_state_dict(state["heads"][student.name])
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)


def _row(weights: Weights, name: str, example: Example) -> Sequence[float]:
    return weights.get(name) or [1.0] * example.taught
