"""Makes the updates of a training, its refinement and its validations, from wherever the last attempt was stopped.

An update depends on nothing but the settings and the state in the folder, which is always replaced as a whole. So a
training that was killed and goes on ends with the same weights as one that was never killed.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fastvlm_bench.analysis.prediction import PassCosts
from fastvlm_bench.training import parallel
from fastvlm_bench.training.answers import Example
from fastvlm_bench.training.costs import costs_of
from fastvlm_bench.training.display import Display
from fastvlm_bench.training.folder import STATE, TrainingFolder
from fastvlm_bench.training.interrupts import Interrupts
from fastvlm_bench.training.order import Order
from fastvlm_bench.training.refine import ReplayBuffer, Rows, rejection_weights
from fastvlm_bench.training.settings import TrainSettings
from fastvlm_bench.training.trainer import HeadTrainer
from fastvlm_bench.training.validation import validate

SAVE_EVERY_S = 60.0
FRESH = 16
"""How many texts the refinement stage adds to its buffer at a time, and after how many updates it adds the next."""


class Updates:
    """All updates of one trainer.

    `best`: recipe -> the weights of its best validation so far, the number of that update, and the validation's result.
    """

    def __init__(
        self, settings: TrainSettings, trainer: HeadTrainer, folder: TrainingFolder, display: Display,
        texts: tuple[Sequence[Example], Sequence[Example], Sequence[Example]], chosen: int | None,
    ) -> None:  # fmt: skip
        """texts: base, fresh, held out. chosen: the exit that --exit-layer auto chose; it is saved with the state."""
        self.settings, self.trainer, self.folder, self.display = settings, trainer, folder, display
        self.base, self.fresh, self.held = texts
        self.chosen = chosen
        self.best: dict[str, dict[str, Any]] = {}
        self.stale = 0
        self.costs: dict[str, PassCosts] = {}
        self.buffer = ReplayBuffer()
        self.began = self.saved_at = time.monotonic()

    def go_on_from(self, stored: Mapping[str, Any]) -> None:
        """Restore what an earlier attempt saved, if it had reached the updates."""
        if stored.get("trainer"):
            self.trainer.load(stored["trainer"])
            self.best, self.stale = stored["best"], stored["stale"]
            self.costs = {name: PassCosts(*prices) for name, prices in stored["costs"].items()}
            texts = [*self.base, *self.fresh]
            self.buffer.held = [(texts[number], rows) for number, rows in stored["buffer"]]
            self.display.say(f"going on after update {self.trainer.done}")
        self.folder.trim_log(self.trainer.done)

    def run(self, interrupts: Interrupts) -> None:
        """Make the updates that are left. After an interrupt: save the current update, then raise KeyboardInterrupt."""
        s, trainer = self.settings, self.trainer
        if not self.costs:
            self.costs = costs_of(trainer, self.held[0])
            self._save()
        order, total = Order(self.base, s.batch, s.seed), s.updates + s.refine_updates
        bar = self.display.bar("updates", total)
        bar(trainer.done)
        interrupts.held = True
        while trainer.done < total:
            if s.patience and self.stale >= s.patience and trainer.done < s.updates:  # also on resuming
                self.display.say(f"stopped early: no better prediction in {s.patience} validations")
                break
            losses = trainer.update(*self._batch(order, trainer.done))
            bar(trainer.done)
            due = trainer.done % s.validate_every == 0 or trainer.done in (s.updates, total)
            if due:
                self._validate(losses)
            self._tell_notes()
            ends = parallel.any_of(interrupts.asked)
            # Saved after the validation that belongs to it, so that a resumed training need not repeat that.
            if due or ends or time.monotonic() - self.saved_at > SAVE_EVERY_S:
                self._save()
            if ends:
                raise KeyboardInterrupt
        interrupts.held = False

    def _tell_notes(self) -> None:
        for note in self.trainer.notes:
            self.display.say(note)
            self.folder.log({"done": self.trainer.done, "note": note})
        self.trainer.notes.clear()

    def _batch(self, order: Order, number: int) -> tuple[list[Example], list[Rows] | None]:
        """(texts, weights) of update `number`. In the refinement stage half of the texts are replayed ones."""
        s, batch = self.settings, order.batch(number)
        if number < s.updates:
            return batch, None
        step = number - s.updates
        if step % FRESH == 0:
            added = self.fresh[step : step + FRESH] or self.base[:FRESH]
            refining = [student.name for student in self.trainer.students if student.recipe.refine]
            rows = parallel.from_leader(rejection_weights(self.trainer.check(added), refining))
            self.buffer.add(added, rows)  # all processes then draw the same texts
        replayed = self.buffer.draw(len(batch) // 2 or 1, s.seed + number)
        rest = batch[: len(batch) - len(replayed)]
        return [*(e for e, _ in replayed), *rest], [*(rows for _, rows in replayed), *({} for _ in rest)]

    def _validate(self, losses: Mapping[str, float]) -> None:
        trainer, better = self.trainer, False
        found = validate(trainer, self.held, self.costs)
        for student in trainer.students:
            own = found[student.name]
            if student.name not in self.best or own.speedup > self.best[student.name]["validated"]["speedup"]:
                better = True
                self.best[student.name] = {
                    "done": trainer.done, "validated": own.as_dict(),
                    "head": {k: v.detach().clone() for k, v in student.head.state_dict().items()},
                }  # fmt: skip
        # It decides when all stop. Each process has validated for itself, and two may differ by rounding.
        self.stale = parallel.from_leader(0 if better else self.stale + 1)
        self.folder.log({
            "done": trainer.done, "elapsed_s": round(time.monotonic() - self.began, 1), "loss": dict(losses),
            "validated": {name: own.as_dict() for name, own in found.items()},
        })  # fmt: skip
        self.display.table(trainer.done, losses, found, {name: kept["done"] for name, kept in self.best.items()})

    def kept(self, begin: Callable[[str], None]) -> dict[str, dict[str, Any]]:
        """`best` with the validation that the manifests show: of the weights as saved, at costs measured now.

        begin: called with what begins, once for the costs of each draft, and once for the validation.
        """
        for student in self.trainer.students:
            head = self.best[student.name]["head"]
            student.head.load_state_dict({key: value.half().to(value.dtype) for key, value in head.items()})
        costs = costs_of(self.trainer, self.held[0], lambda name: begin(f"costs of the passes of {name}"))
        begin(f"all drafts on {len(self.held)} held-out texts")
        found = validate(self.trainer, self.held, costs)
        self._tell_notes()
        return {name: {**kept, "validated": found[name].as_dict()} for name, kept in self.best.items()}

    def _save(self) -> None:
        # Stored by number, not by sample: a sample can have two texts, its reference and the target's own answer.
        numbers = {id(example): number for number, example in enumerate([*self.base, *self.fresh])}
        self.folder.save(STATE, {
            "trainer": self.trainer.state(), "best": self.best, "stale": self.stale, "chosen": self.chosen,
            "costs": {name: [c.standard_s, c.draft_s, list(c.verify_s)] for name, c in self.costs.items()},
            "buffer": [(numbers[id(example)], rows) for example, rows in self.buffer.held],
        })  # fmt: skip
        self.saved_at = time.monotonic()
