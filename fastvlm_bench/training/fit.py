"""A whole training: samples, answers, exits, updates, refinement, validation; killed at any point, it goes on.

Every update is a pure function of the settings and of what stands in `state.pt`, which is replaced whole: a training
that was killed and started again with the same command ends with the weights of one that never was.
"""

import contextlib
import json
import pickle
import random
import shutil
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from fastvlm_bench.drafts import first_line
from fastvlm_bench.errors import BenchError, UsageError
from fastvlm_bench.models.load import Target, load_target
from fastvlm_bench.reduced_vocabulary import most_frequent
from fastvlm_bench.storage import now, write_atomically
from fastvlm_bench.suite_definition import read_definition
from fastvlm_bench.training import backbone, parallel
from fastvlm_bench.training.answers import Example, ends, own_answers, reference_answers
from fastvlm_bench.training.backbone_quality import report_quality
from fastvlm_bench.training.costs import measure_costs
from fastvlm_bench.training.display import Display
from fastvlm_bench.training.order import Order
from fastvlm_bench.training.outcome import save_drafts
from fastvlm_bench.training.prediction import Costs
from fastvlm_bench.training.preflight import preflight
from fastvlm_bench.training.recipe import Recipe
from fastvlm_bench.training.refine import ReplayBuffer, rejection_weights
from fastvlm_bench.training.samples import TrainingSample, folder_samples, hold_out, suite_samples
from fastvlm_bench.training.settings import TrainSettings
from fastvlm_bench.training.trainer import HeadTrainer
from fastvlm_bench.training.validation import validate

SAVE_EVERY_S = 60.0
DEFAULT_TOKENS = 128
FRESH = 16
"""Texts that the refinement stage adds to its buffer at a time, and updates between two additions."""
STATE, SETTINGS, LOG, QUALITY = "state.pt", "settings.json", "log.jsonl", "quality.json"
ANSWERS, NEW_ANSWERS = "answers.jsonl", "answers-backbone.jsonl"


def train(settings: TrainSettings) -> int:
    """Train as the settings say and leave the drafts in `settings.out`. Returns the exit code; 130 if interrupted."""
    settings.validate()
    parallel.start(settings.device_map)
    try:
        parallel.lead(lambda: open_folder(settings))
        if settings.threads:
            torch.set_num_threads(settings.threads)
        target = load_target(settings.model, **settings.loading | {"device": parallel.local_device(settings.device)})
        with Display(quiet=not parallel.leads()) as display:
            training = Training(settings, target, display)
            return training.run()
    finally:
        parallel.finish()


def open_folder(settings: TrainSettings) -> None:
    """Make the folder, or check that what lies there is this very training."""
    folder = Path(settings.out)
    path = folder / SETTINGS
    begun = any((folder / name).is_file() for name in (STATE, ANSWERS, backbone.STATE))
    if path.is_file() and begun and not settings.restart:  # settings alone are of a start that was refused
        stored = json.loads(path.read_text(encoding="utf-8"))
        ours = json.loads(json.dumps(settings.learns()))
        differing = [key for key, value in ours.items() if stored["learns"].get(key) != value]
        if differing:
            first = differing[0]
            raise UsageError(
                f"{folder} holds a training with other settings ({first} {stored['learns'].get(first)!r} there, "
                f"{ours[first]!r} now); choose another --out, or start it over with --restart"
            )
        return
    for name in (STATE, LOG, ANSWERS, NEW_ANSWERS, backbone.STATE, QUALITY, "curve.csv", "curve.png"):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / backbone.FOLDER, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"learns": settings.learns(), "started_at": now()}, indent=1)
    write_atomically(path, text.encode())


class Training:
    """One training in its folder, on a loaded target."""

    def __init__(self, settings: TrainSettings, target: Target, display: Display) -> None:
        self.settings, self.target, self.display, self.folder = settings, target, display, Path(settings.out)
        self.began, self.saved_at = time.monotonic(), time.monotonic()
        self.costs: dict[str, Costs] = {}
        self.best: dict[str, dict[str, Any]] = {}
        self.final: dict[str, dict[str, Any]] = {}
        self.buffer = ReplayBuffer()
        self.texts: list[Example] = []
        self.stale = 0
        self.chosen: int | None = None
        self.answers = ANSWERS
        self.trainer: HeadTrainer | None = None
        self.interrupted: bool | None = None  # None: not within the updates, where a half-made one must be finished

    def _signalled(self, *_: Any) -> None:
        """Within the updates the current one is finished and kept first; a second signal does not wait."""
        if self.interrupted is not False:
            raise KeyboardInterrupt
        self.interrupted = True

    def run(self) -> int:
        before = {number: signal.signal(number, self._signalled) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            stored = self._stored()
            self.chosen = stored.get("chosen")
            preflight(self.settings, self.target, self.display.say)
            if self.settings.finetune_backbone:
                self._finetune()
            base, fresh, held = self._examples()
            if self.settings.automatic and self.chosen is None:
                self._choose_exit(base, held)
            recipes = self.settings.recipes(self.chosen)
            self._start(recipes, [*base, *fresh], stored)
            self._updates(base, fresh, held)
            self.interrupted = None
            assert self.trainer is not None
            self._validate_kept(held)
            save_drafts(self.settings, self.target, self.trainer, self.final, self._data(base), self.display)
            return 0
        except KeyboardInterrupt:
            self.display.say(f"interrupted; the same command goes on from what is kept in {self.folder}")
            return 130
        except FloatingPointError as error:
            raise BenchError(f"{error}; what was trained before is kept in {self.folder}") from error
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _finetune(self) -> None:
        """Phase 1; from here on the target is the new one, whose answers are its own."""
        s, most = self.settings, self._most()
        samples, held = self._samples()
        samples = samples[: s.samples]
        texts = reference_answers(self.target, samples, most) or self._answers(samples, most, "answers")
        made = backbone.finetune(s, self.target, [e for e in texts if e.taught], self.display)
        here = s.loading | {"device": str(self.target.device), "device_map": None}
        after = load_target(made, **here)
        if not (self.folder / QUALITY).is_file():
            # The trained model is the old one no longer: load that again.
            before = load_target(s.model, **here)
            rows = report_quality(s, before, after, held, self.folder / QUALITY, self.display)
            backbone.remember(Path(made), s, rows)
        self.target, self.answers = after, NEW_ANSWERS

    # What is learned on

    def _examples(self) -> tuple[list[Example], list[Example], list[Example]]:
        """(base, fresh, held out): fresh texts are for the refinement stage and were never trained on before."""
        s = self.settings
        most = self._most()
        samples, held = self._samples()
        base_samples = samples[: s.samples]
        wanted = s.refine_updates
        fresh_samples = samples[s.samples : s.samples + wanted] or base_samples[:wanted]
        base: list[Example] = []
        if s.references:
            base += reference_answers(self.target, base_samples, most)
            if not base:
                raise UsageError("--references: these samples have no reference texts; leave it out")
        if s.on_policy:
            base += self._answers(base_samples, most, "answers")
        fresh = self._answers(fresh_samples, most, "fresh answers") if wanted else []
        held_out = [e for e in self._answers(held, most, "held out") if e.taught]
        base = [example for example in base if example.taught]
        if not base or not held_out:
            raise UsageError(
                f"no {'training' if not base else 'held-out'} text has two tokens or more, so nothing is ever drafted; "
                "choose a suite with longer answers"
            )
        return base, [example for example in fresh if example.taught], held_out

    def _answers(self, samples: Sequence[TrainingSample], most: int, label: str) -> list[Example]:
        if not parallel.leads():
            parallel.wait()  # the leader writes, the others read what it wrote
        bar = self.display.bar(label, len(samples))
        size = min(64, max(self.settings.micro, 1) * 2)
        found = own_answers(self.target, samples, most, self.folder / self.answers, bar, size)
        if parallel.leads():
            parallel.wait()
        return found

    def _most(self) -> int:
        """The token limit of a text."""
        if self.settings.max_new_tokens is not None:
            return self.settings.max_new_tokens
        tokens = [read_definition(name).max_new_tokens for name in self.settings.suites]
        return max(tokens, default=DEFAULT_TOKENS)

    def _samples(self) -> tuple[list[TrainingSample], list[TrainingSample]]:
        """(training, held out), shuffled by the seed; several suites take turns."""
        s = self.settings
        if s.images and s.prompts:
            rest, held = hold_out(folder_samples(Path(s.images), Path(s.prompts)), s.held_out, s.seed)
            return _shuffled(rest, s.seed), held
        each, queues, held = -(-s.held_out // len(s.suites)), [], list[TrainingSample]()
        for name in s.suites:
            if s.data is None:
                from fastvlm_bench.models.tiny.training_samples import rendered_samples

                most = -(-(s.samples + s.refine_updates) // len(s.suites))
                queues.append(rendered_samples(name, most, s.seed, held_out=False))
                held += rendered_samples(name, each, s.seed, held_out=True)
                continue
            found = suite_samples(name, data=s.data, split=s.split, prompt_set=s.prompt_set, prompt=s.prompt)
            rest, out = hold_out(found, each, s.seed)
            queues.append(_shuffled(rest, s.seed))
            held += out
        return [item for group in _in_turn(queues) for item in group], held

    # How it is learned

    def _choose_exit(self, base: Sequence[Example], held: Sequence[Example]) -> None:
        """Train candidates together for a while and take the one with the best predicted speed-up."""
        layers = len(self.target.layers)
        first = self.settings.recipes(1)[0]
        most = layers - max(first.depth, 1)
        places = sorted({p for p in (1, 2, layers // 8, layers // 4, layers // 2) if 1 <= p <= most})
        recipes = [replace(first, exit_layer=p, name=f"exit{p}") for p in places]
        updates = max(self.settings.updates // 6, 10)
        trainer = self._trainer(recipes, updates)
        trainer.prepare(base)
        bar = self.display.bar("exits", updates)
        order = Order(base, self.settings.batch, self.settings.seed + 1)
        for number in range(updates):
            trainer.update(order.batch(number))
            bar(number + 1)
        costs = self._measure(trainer, held[0])
        found = validate(trainer, held, costs)
        self.chosen = max(places, key=lambda p: found[f"exit{p}"].speedup)
        said = ", ".join(f"{p}: α {found[f'exit{p}'].alpha:.2f}, {found[f'exit{p}'].speedup:.2f}x" for p in places)
        self.display.say(f"exit layer {self.chosen} of {layers} promises most after {updates} updates ({said})")
        self._save()
        self._log({"exits": {str(p): found[f"exit{p}"].as_dict() for p in places}, "chosen": self.chosen})

    def _trainer(self, recipes: Sequence[Recipe], updates: int) -> HeadTrainer:
        s = self.settings
        return HeadTrainer(
            self.target, recipes, lr=s.lr, updates=updates, micro=s.micro, seed=s.seed, refine_updates=s.refine_updates
        )

    def _start(self, recipes: Sequence[Recipe], examples: Sequence[Example], stored: Mapping[str, Any]) -> None:
        s = self.settings
        self.trainer = trainer = self._trainer(recipes, s.updates)
        self.texts = list(examples)
        trainer.prepare(examples)
        if s.draft_vocabulary:
            ids = most_frequent((e.answer for e in examples), s.draft_vocabulary, ends(self.target))
            trainer.output_ids = ids.to(self.target.device)
        if stored.get("trainer"):
            trainer.load(stored["trainer"])
            self.best, self.stale = stored["best"], stored["stale"]
            self.costs = {name: Costs(*prices) for name, prices in stored["costs"].items()}
            self.buffer.held = [(examples[number], rows) for number, rows in stored["buffer"]]
            self.display.say(f"going on after update {trainer.done}")
        self._trim_log(trainer.done)

    def _updates(self, base: Sequence[Example], fresh: Sequence[Example], held: Sequence[Example]) -> None:
        s, trainer = self.settings, self.trainer
        assert trainer is not None
        if not self.costs:
            self.costs = self._measure(trainer, held[0])
            self._save()
        order, total = Order(base, s.batch, s.seed), s.updates + s.refine_updates
        refining = [student.name for student in trainer.students if student.recipe.refine]
        bar = self.display.bar("updates", total)
        bar(trainer.done)
        self.interrupted = False
        while trainer.done < total:
            if s.patience and self.stale >= s.patience and trainer.done < s.updates:  # also if killed just after
                self.display.say(f"stopped early: no better prediction in {s.patience} validations")
                break
            number = trainer.done
            weights: list[dict[str, list[float]]] | None = None
            batch = order.batch(number)
            if number >= s.updates:
                step = number - s.updates
                if step % FRESH == 0:
                    added = fresh[step : step + FRESH] or base[:FRESH]
                    self.buffer.add(added, rejection_weights(trainer.check(added), refining))
                replayed = self.buffer.draw(len(batch) // 2 or 1, s.seed + number)
                batch = [*(example for example, _ in replayed), *batch[: len(batch) - len(replayed)]]
                weights = [rows for _, rows in replayed] + [{}] * (len(batch) - len(replayed))
            losses = trainer.update(batch, weights)
            for note in trainer.notes:
                self.display.say(note)
                self._log({"done": trainer.done, "note": note})
            trainer.notes.clear()
            bar(trainer.done)
            due = trainer.done % s.validate_every == 0 or trainer.done in (s.updates, total)
            if due:
                self._validate(held, losses)
            # A state stands after the validation that belongs to it: what goes on from there does not look back.
            if due or self.interrupted or time.monotonic() - self.saved_at > SAVE_EVERY_S:
                self._save()
            if self.interrupted:
                raise KeyboardInterrupt

    def _validate(self, held: Sequence[Example], losses: Mapping[str, float]) -> None:
        trainer = self.trainer
        assert trainer is not None
        found = validate(trainer, held, self.costs)
        better = False
        for student in trainer.students:
            own = found[student.name]
            if student.name not in self.best or own.speedup > self.best[student.name]["validated"]["speedup"]:
                better = True
                self.best[student.name] = {
                    "done": trainer.done, "validated": own.as_dict(),
                    "head": {k: v.detach().clone() for k, v in student.head.state_dict().items()},
                }  # fmt: skip
        self.stale = 0 if better else self.stale + 1
        line = {
            "done": trainer.done, "elapsed_s": round(time.monotonic() - self.began, 1), "loss": dict(losses),
            "validated": {name: own.as_dict() for name, own in found.items()},
        }  # fmt: skip
        self._log(line)
        self.display.table(trainer.done, losses, found, {name: kept["done"] for name, kept in self.best.items()})

    def _validate_kept(self, held: Sequence[Example]) -> None:
        """Validate the weights that are kept once more, with costs measured now: what the manifests promise."""
        trainer = self.trainer
        assert trainer is not None
        for student in trainer.students:
            student.head.load_state_dict(self.best[student.name]["head"])
        found = validate(trainer, held, self._measure(trainer, held[0]))
        self.final = {name: {**kept, "validated": found[name].as_dict()} for name, kept in self.best.items()}

    def _measure(self, trainer: HeadTrainer, example: Example) -> dict[str, Costs]:
        """The price of each recipe's passes here; measured once, and kept with the state."""
        inputs = example.inputs(self.target)
        prices: dict[tuple[int, str, Any], Costs] = {}
        found = {}
        for student in trainer.students:
            key = (student.recipe.exit_layer, student.recipe.head, tuple(student.recipe.head_options.items()))
            if key not in prices:
                measured = measure_costs(self.target, inputs, example.answer, trainer.draft(student))
                prices[key] = parallel.from_leader(measured)  # all decide alike
            found[student.name] = prices[key]
        return found

    # What is kept

    def _stored(self) -> dict[str, Any]:
        path = self.folder / STATE
        if not path.is_file():
            return {}
        try:
            return dict(torch.load(path, weights_only=True, map_location="cpu"))
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
            raise BenchError(f"{path} cannot be read ({first_line(error)}); start over with --restart") from None

    def _save(self) -> None:
        if not parallel.leads():
            return
        # By number: a sample can have two texts, its reference and the target's own.
        numbers = {id(example): number for number, example in enumerate(self.texts)}
        held = [(numbers[id(example)], rows) for example, rows in self.buffer.held]
        costs = {name: [c.standard_s, c.draft_s, list(c.verify_s)] for name, c in self.costs.items()}
        state = {"trainer": self.trainer.state() if self.trainer else None, "best": self.best, "stale": self.stale,
                 "chosen": self.chosen, "costs": costs, "buffer": held}  # fmt: skip
        temporary = self.folder / f".{STATE}.tmp"
        torch.save(state, temporary)
        temporary.replace(self.folder / STATE)
        self.saved_at = time.monotonic()

    def _log(self, line: Mapping[str, Any]) -> None:
        if parallel.leads():
            with (self.folder / LOG).open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")

    def _trim_log(self, done: int) -> None:
        """Forget what was logged after the state was saved: it will be trained, and logged, again."""
        path = self.folder / LOG
        if parallel.leads() and path.is_file():
            kept = []
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                with contextlib.suppress(ValueError):  # a torn last line
                    kept += [line] if json.loads(line).get("done", 0) <= done else []
            write_atomically(path, "".join(line + "\n" for line in kept).encode())

    def _phase_1(self) -> dict[str, Any]:
        s = self.settings
        if not s.finetune_backbone:
            return {}
        quality = json.loads((self.folder / QUALITY).read_text(encoding="utf-8"))
        return {"finetuned_backbone": {"how": s.finetune_backbone, "of": s.model, "quality": quality}}

    def _data(self, base: Sequence[Example]) -> dict[str, Any]:
        s = self.settings
        text = [
            *(["the target's own greedy answers"] if s.on_policy else []),
            *(["references"] if s.references else []),
        ]
        source = s.images or s.data or "rendered training scenes"
        return {
            "source": " and ".join(text), "samples": source, "suites": list(s.suites), "texts": len(base),
            "tokens": sum(len(e.answer) for e in base), "updates": s.updates, "refine_updates": s.refine_updates,
            "batch": s.batch, "lr": s.lr, "seed": s.seed, "trained_at": now()[:10],
            **self._phase_1(),
        }  # fmt: skip


def _shuffled(samples: Sequence[TrainingSample], seed: int) -> list[TrainingSample]:
    out = list(samples)
    random.Random(seed).shuffle(out)
    return out


def _in_turn(queues: Sequence[Sequence[TrainingSample]]) -> list[list[TrainingSample]]:
    longest = max(map(len, queues))
    return [[queue[i] for queue in queues if i < len(queue)] for i in range(longest)]
