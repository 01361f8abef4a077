"""Finds a set of sub-layers to skip while drafting: `fastvlm-bench skip-search`, Draft & Verify's search.

A set is judged by the decode speed-up that it promises on training samples: what it would draft along the target's own
answers, priced with measured passes. Sets are proposed in generations, so that a prompt is read once for all of them.
"""

import json
import random
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from fastvlm_bench.decoding.draft_verify import DraftVerify
from fastvlm_bench.drafters.skip_proposals import Chosen, Proposals
from fastvlm_bench.drafts.imitation_head import describe_target
from fastvlm_bench.drafts.skip_set import SKIP, SkipManifest, SkipSet
from fastvlm_bench.engine.measure import measure, seed_of
from fastvlm_bench.errors import UsageError
from fastvlm_bench.machine.clock import Clock
from fastvlm_bench.models.load import Target, load_target
from fastvlm_bench.records.storage import write_atomically
from fastvlm_bench.training.answers import Example
from fastvlm_bench.training.choosing import Choosing
from fastvlm_bench.training.display import Display
from fastvlm_bench.training.folder import STATE, TrainingFolder
from fastvlm_bench.training.interrupts import Interrupts
from fastvlm_bench.training.prediction import Advice
from fastvlm_bench.training.skip_costs import SkipCosts, advise, along, measure_skip_costs
from fastvlm_bench.training.skip_settings import SkipSettings
from fastvlm_bench.training.texts import Texts

GENERATION = 12
"""Sets that are judged together."""


def skip_search(settings: SkipSettings, *, quiet: bool = False) -> int:
    """Search as the settings say and leave the set in `settings.out`. Returns the exit code; 130 if interrupted."""
    settings.validate()
    folder, display = TrainingFolder(Path(settings.out)), Display(brief=quiet)
    try:
        texts = Texts(settings, folder, display)
        folder.open(settings)
        if settings.threads:
            torch.set_num_threads(settings.threads)
        target = load_target(settings.model, **settings.loading)
        with display, Interrupts():
            SkipSearch(settings, target, texts, folder, display).run()
        return 0
    except KeyboardInterrupt:
        display.conclude(f"interrupted; the same command goes on from what is kept in {folder.path}")
        return 130
    finally:
        folder.close()


class SkipSearch:
    """One search in its folder, on a loaded target. With equal costs, equal settings find equal sets."""

    def __init__(
        self, settings: SkipSettings, target: Target, texts: Texts, folder: TrainingFolder, display: Display
    ) -> None:  # fmt: skip
        self.settings, self.target, self.texts, self.folder, self.display = settings, target, texts, folder, display
        self.known: list[tuple[Chosen, float]] = []

    def run(self) -> SkipManifest:
        s, began = self.settings, time.monotonic()
        base, _, held = self.texts.collect(self.target)
        self._go_on(base[0])
        choosing, bar = Choosing(self.target), self.display.bar("sets", s.evaluations)
        while len(self.known) < s.evaluations:
            if s.budget is not None and self.known and time.monotonic() - began > 60 * s.budget:
                self.display.say(f"the budget of {s.budget:g} min is spent after {len(self.known)} sets")
                break
            chosen = self.proposed(len(self.known) // GENERATION)[: s.evaluations - len(self.known)]
            for one, advice in zip(chosen, self._judged(base, choosing, chosen), strict=True):
                self.known.append((one, advice.speedup))
            self.folder.save(STATE, self._state())
            bar(len(self.known))
        best = max(self.known, key=lambda one: one[1])[0]
        (advice,) = self._judged(base, choosing, [best])
        return self._saved(self.proposals(0).set_of(best), advice, held)

    def proposals(self, generation: int) -> Proposals:
        """What proposes a generation: its seed is its own, so a search that goes on proposes what it would have."""
        made = Proposals(self.units, seed_of(self.settings.seed, "skip-search", generation) % 2**32)
        for chosen, score in self.known:
            made.learn(chosen, score)
        return made

    def proposed(self, generation: int) -> list[Chosen]:
        """The sets of one generation: at first uniform and random ones, then also near the best and from the model."""
        made = self.proposals(generation)
        chance = random.Random(seed_of(self.settings.seed, "sizes", generation))
        found = list[Chosen]()
        seen = {chosen for chosen, _ in self.known}

        def add(one: Chosen) -> None:
            if one not in seen:
                seen.add(one)
                found.append(one)

        if not self.known:
            for share in range(1, GENERATION // 2 + 1):
                add(made.uniform(max(1, round(made.total * share / (GENERATION // 2 + 1)))))
        best = [chosen for chosen, _ in sorted(self.known, key=lambda one: -one[1])[:3]]
        for turn in range(20 * GENERATION):
            if len(found) == GENERATION:
                break
            if best and turn % 4 < 2:
                add(made.near(best[turn // 4 % len(best)], resize=True))
            elif best and turn % 4 == 2:
                add(made.modelled())
            else:
                add(made.fresh(chance.randint(1, max(made.total - 1, 1))))
        return found or [made.uniform(made.total)]  # a model of few layers has few sets

    def _go_on(self, example: Example) -> None:
        """Take up what an earlier call of the same command has measured, else measure what passes cost."""
        stored = self.folder.load(STATE)
        if stored:
            self.units = [SkipSet(frozenset(a), frozenset(m)) for a, m in stored["units"]]
            self.costs = SkipCosts(**stored["costs"])
            self.known = [(frozenset(chosen), score) for chosen, score in stored["known"]]
            return
        self.units, self.costs = measure_skip_costs(self.target, example)
        if not self.units:
            raise UsageError(f"'{self.settings.model}' has no layer that can be skipped while drafting")
        c = self.costs
        self.display.say(
            f"one token {1e3 * c.standard_s:.2f} ms; saved by skipping an attention {1e3 * c.attention_s:.3f} ms, an "
            f"MLP {1e3 * c.mlp_s:.3f} ms, a layer {1e3 * c.layer_s:.3f} ms"
        )

    def _state(self) -> dict[str, Any]:
        return {
            "units": [[sorted(unit.attention), sorted(unit.mlp)] for unit in self.units], "costs": asdict(self.costs),
            "known": [[sorted(chosen), score] for chosen, score in self.known],
        }  # fmt: skip

    def _judged(self, base: Sequence[Example], choosing: Choosing, chosen: Sequence[Chosen]) -> list[Advice]:
        """What each set promises on all samples, with its own best γ and stop_below."""
        sets = [SkipSet.union(self.units[i] for i in one) for one in chosen]
        columns = [along(self.target, choosing, example, sets) for example in base]
        return [
            advise([texts[place] for texts in columns], self.costs.of(skip_set)) for place, skip_set in enumerate(sets)
        ]

    def _saved(self, best: SkipSet, advice: Advice, held: Sequence[Example]) -> SkipManifest:
        """Decode the held-out samples with the set, and write it down."""
        method = DraftVerify(
            best, gamma=advice.gamma, stop_below=advice.stop_below, clock=Clock(self.target.device)
        )  # fmt: skip
        counts: dict[str, list[int]] = {}
        for example in held:
            trace = measure(method, self.target.model, example.inputs(self.target), example.most)
            told = counts.setdefault(example.sample.sample_id.partition("/")[0], [0, 0])
            told[0] += sum(done.accepted for done in trace.rows[0].rounds)
            told[1] += sum(done.tested for done in trace.rows[0].rounds)
        s = self.settings
        made = SkipManifest(
            sorted(best.attention), sorted(best.mlp), **describe_target(self.target.model),
            search={
                "model": s.model, "suites": list(s.suites), "samples": s.samples, "held_out": s.held_out,
                "evaluations": len(self.known), "seed": s.seed, "costs": asdict(self.costs),
            },
            validation={name: accepted / tested for name, (accepted, tested) in counts.items() if tested},
            advice={"gamma": advice.gamma, "stop_below": advice.stop_below, "speedup": advice.speedup},
        )  # fmt: skip
        write_atomically(self.folder.path / SKIP, (json.dumps(asdict(made), indent=1) + "\n").encode())
        parts = 2 * len(self.target.layers)
        alphas = ", ".join(f"{name} {value:.2f}" for name, value in made.validation.items())
        self.display.conclude(
            f"{self.folder.path}: skips {len(best.attention)} attentions and {len(best.mlp)} MLPs of {parts} "
            f"sub-layers; predicted {advice.speedup:.2f}x at gamma={advice.gamma},stop_below={advice.stop_below:g}; "
            f"held-out α: {alphas or 'nothing was drafted'}; use it as "
            f"-m draft-verify:draft={self.folder.path},gamma={advice.gamma},stop_below={advice.stop_below:g}"
        )
        return made
