"""A whole training: load the target, phase 1, texts, exit, updates, drafts. Killed at any point, it can go on."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from fastvlm_bench.drafts.reduced_vocabulary import most_frequent
from fastvlm_bench.errors import BenchError
from fastvlm_bench.machine.failures import out_of_memory
from fastvlm_bench.models.load import Target, load_target
from fastvlm_bench.training import backbone, parallel
from fastvlm_bench.training.answers import Example, ends
from fastvlm_bench.training.backbone_quality import measure_quality, tell_quality
from fastvlm_bench.training.costs import costs_of
from fastvlm_bench.training.display import Display
from fastvlm_bench.training.folder import QUALITY, STATE, TrainingFolder
from fastvlm_bench.training.interrupts import Interrupts
from fastvlm_bench.training.order import Order
from fastvlm_bench.training.outcome import save_drafts, story
from fastvlm_bench.training.preflight import preflight, usable_exits
from fastvlm_bench.training.recipe import Recipe
from fastvlm_bench.training.settings import TrainSettings
from fastvlm_bench.training.texts import Texts
from fastvlm_bench.training.trainer import HeadTrainer
from fastvlm_bench.training.updates import Updates
from fastvlm_bench.training.validation import validate


def train(settings: TrainSettings, *, quiet: bool = False) -> int:
    """Train as the settings say and leave the drafts in `settings.out`. Returns the exit code; 130 if interrupted.

    quiet: say only what has come of it.
    """
    settings.validate()
    parallel.start(settings.device, settings.device_map)
    folder, display = TrainingFolder(Path(settings.out)), Display(quiet=not parallel.leads(), brief=quiet)
    try:
        texts = Texts(settings, folder, display)  # before the model is loaded, so that missing data is reported at once
        parallel.lead(lambda: folder.open(settings))
        if settings.threads:
            torch.set_num_threads(settings.threads)
        target = load_target(settings.model, **settings.loading | {"device": parallel.local_device(settings.device)})
        with display:
            return Training(settings, target, texts, folder, display).run()
    finally:
        folder.close()
        parallel.finish()


class Training:
    """One training in its folder, on a loaded target."""

    def __init__(
        self, settings: TrainSettings, target: Target, texts: Texts, folder: TrainingFolder, display: Display
    ) -> None:  # fmt: skip
        self.settings, self.target, self.texts, self.folder, self.display = settings, target, texts, folder, display

    def run(self) -> int:
        try:
            with Interrupts() as interrupts:
                self._run(interrupts)
            return 0
        except KeyboardInterrupt:
            self.display.conclude(f"interrupted; the same command goes on from what is kept in {self.folder.path}")
            return 130
        except FloatingPointError as error:
            raise BenchError(f"{error}; what was trained before is kept in {self.folder.path}") from error
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            raise BenchError(
                "out of memory with one text at a time; what was made before is kept, so go on with other memory or a "
                "larger device, or start another --out with --dtype bfloat16, --quantize 4bit, a smaller "
                "--max-new-tokens or fewer heads"
            ) from error

    def _run(self, interrupts: Interrupts) -> None:
        s, stored = self.settings, self.folder.load(STATE)
        preflight(s, self.target, self.display.say)
        asked = [recipe.exit_layer for recipe in s.recipes(1) if not recipe.at_the_end]
        if asked and not s.automatic:
            usable_exits(self.target, (self.texts.held_out or self.texts.samples)[0], asked)
        if s.finetune_backbone:
            self._finetune()
        base, fresh, held = self.texts.collect(self.target)
        chosen = stored.get("chosen")
        if s.automatic and chosen is None:
            chosen = self._choose_exit(base, held)
        trainer = self._trainer(s.recipes(chosen), s.updates)
        trainer.keeps = stored["trainer"].get("keeps", False) if stored.get("trainer") else None
        trainer.prepare([*base, *fresh])
        if s.draft_vocabulary:
            ids = most_frequent((e.answer for e in [*base, *fresh]), s.draft_vocabulary, ends(self.target))
            trainer.output_ids = ids.to(self.target.device)
        updates = Updates(s, trainer, self.folder, self.display, (base, fresh, held), chosen)
        updates.go_on_from(stored)
        updates.run(interrupts)
        # The best of each draft is validated once more, as it is saved and at costs measured now, and then written.
        begin = self.display.stages("finishing", 2 * len(trainer.students) + 2)
        save_drafts(s, self.target, trainer, updates.kept(begin), story(s, base), self.display, begin)

    def _finetune(self) -> None:
        """Phase 1: fine-tune the target. From here on the new model is the target, and writes its own answers."""
        s, texts = self.settings, self.texts
        made = backbone.finetune(s, self.target, texts.for_backbone(self.target), self.folder, self.display)
        here = s.loading | {"device": str(self.target.device), "device_map": None}
        after = load_target(made, **here)

        def tell() -> None:
            path = self.folder.path / QUALITY
            if not path.is_file():
                # Training has changed the weights of `self.target`, so the model as it was is loaded again.
                measure_quality(s, load_target(s.model, **here), after, texts.held_out, path, self.display)
            quality = json.loads(path.read_text(encoding="utf-8"))
            tell_quality(quality, self.display)
            backbone.remember(Path(made), s, quality)

        parallel.lead(tell)
        self.target = after

    def _choose_exit(self, base: Sequence[Example], held: Sequence[Example]) -> int:
        """Train a draft at each of some exits for a while, and take the exit with the best predicted speed-up."""
        layers = len(self.target.layers)
        first = next(recipe for recipe in self.settings.recipes(1) if not recipe.at_the_end)
        most = layers - max(first.depth, 1)
        places = sorted({p for p in (1, 2, layers // 8, layers // 4, layers // 2) if 1 <= p <= most})
        places = usable_exits(self.target, held[0].sample, places, some=True)
        recipes = [replace(first, exit_layer=p, name=f"exit{p}") for p in places]
        updates = max(self.settings.updates // 6, 10)
        trainer = self._trainer(recipes, updates)
        trainer.prepare(base)
        bar = self.display.bar("exits", updates)
        order = Order(base, self.settings.batch, self.settings.seed + 1)
        for number in range(updates):
            trainer.update(order.batch(number))
            bar(number + 1)
        found = validate(trainer, held, costs_of(trainer, held[0]))
        for note in trainer.notes:
            self.display.say(note)
        # Each process has measured for itself, and may prefer another exit.
        chosen: int = parallel.from_leader(max(places, key=lambda p: found[f"exit{p}"].speedup))
        said = ", ".join(f"{p}: α {found[f'exit{p}'].alpha:.2f}, {found[f'exit{p}'].speedup:.2f}x" for p in places)
        self.display.say(f"exit layer {chosen} of {layers} promises most after {updates} updates ({said})")
        self.folder.save(STATE, {"chosen": chosen})
        self.folder.log({"exits": {str(p): found[f"exit{p}"].as_dict() for p in places}, "chosen": chosen})
        return chosen

    def _trainer(self, recipes: Sequence[Recipe], updates: int) -> HeadTrainer:
        s = self.settings
        return HeadTrainer(
            self.target, recipes, lr=s.lr, updates=updates, micro=s.micro, seed=s.seed, refine_updates=s.refine_updates
        )
