"""`tune`: the best γ, threshold, head and exit within a budget, as the advice of the draft's manifest.

A prediction from the costs of single passes leaves the promising cells (`measuring/promising.py`); of methods that were
named one by one, a sample of each tells how many the budget can take. They are measured by sequential halving,
interleaved with standard decoding on samples that no `run` reports, and the winner is measured once more on fresh ones,
so that its speed-up does not profit from having won.
"""

import math
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from fastvlm_bench.analysis.speedup import FEWEST_SAMPLES
from fastvlm_bench.analysis.statistics import Estimate, geometric_mean_ratio
from fastvlm_bench.config import RunConfig
from fastvlm_bench.decoding.build import Built, build
from fastvlm_bench.engine.graphs import Graphs, engine_named
from fastvlm_bench.errors import UsageError
from fastvlm_bench.machine.clock import Clock
from fastvlm_bench.machine.environment import describe_environment
from fastvlm_bench.machine.failures import FAILURES
from fastvlm_bench.measuring import williams
from fastvlm_bench.measuring.before_loading import check, drafts_of
from fastvlm_bench.measuring.promising import MARGIN, predicted_speedups
from fastvlm_bench.measuring.runner import Runner
from fastvlm_bench.method_spec import METHODS
from fastvlm_bench.models.load import load_target
from fastvlm_bench.records.run_folders import new_folder_name
from fastvlm_bench.records.storage import encode_document, now, write_atomically
from fastvlm_bench.report.numbers import ratio
from fastvlm_bench.suites.suite import Suite
from fastvlm_bench.sweeping.advice_file import written
from fastvlm_bench.sweeping.halving import CONFIRMING, Race, affordable, least_seconds, rungs
from fastvlm_bench.sweeping.tuning_samples import tuning_suite

RECORD, OPTIONS, OURS = "tune.json", ("gamma", "stop_below"), "fastvlm"


class Tuning:
    """One tuning: the runner with all candidates, the clock of its budget, and what it has found."""

    def __init__(self, config: RunConfig, suite: Suite, budget_s: float, say: Any) -> None:
        self.config, self.suite, self.say = config, suite, say
        self.ends = time.perf_counter() + budget_s
        target = load_target(config.model, **config.loading)
        clock, loaded = Clock(target.device), dict[Path, Any]()
        methods = [build(spec, target, drafts_of(config), clock, loaded) for spec in config.specs]
        self.runner = Runner(target, methods, clock, max_new_tokens=config.max_new_tokens,
                             generation=config.generation, seed=config.seed,
                             engine=engine_named(config.engine, target.device, compiled=config.compile))  # fmt: skip
        if config.compile:
            self.runner.compile_parts()
        self.runner.self_check(suite)
        self.runner.check_engine(suite)
        for reason in self.runner.engine.reasons:
            say(f"engine graphs: {reason}; run by eager")
        if target.device.type == "cpu":
            if config.threads is None:
                self.runner.fastest_threads(suite, sorted({1, torch.get_num_threads()}), rounds=1)
            else:
                torch.set_num_threads(config.threads)
        self.reference, self.cells = methods[0], {built.label: built for built in methods[1:]}
        self.samples, self.measured, self.image_id = cycle(suite.openings), 0, ""

    @property
    def left_s(self) -> float:
        """Seconds of the budget that are left."""
        return self.ends - time.perf_counter()

    def candidates(self, *, named: bool = False) -> dict[str, float]:
        """Label -> speed-up of the candidates that enter the race, the best first. UsageError if none can.

        The speed-ups are predicted, or measured on one sample where the methods were named one by one.
        """
        if self.left_s <= 0:
            raise self._too_small(0.0)
        one_s = self._seconds(self.reference)
        near = self._tried(one_s) if named else self._promising()
        if not near:
            raise UsageError("no candidate could decode the tuning samples; see fastvlm-bench models --check")
        seconds = [one_s / value for value in near.values()]
        count = affordable(one_s, seconds, self.left_s)
        if not count:
            raise self._too_small(1.2 * least_seconds(one_s, seconds[:1]))
        may = "" if named else f"predicted: {len(near)} of {len(self.cells)} cells may be the fastest; "
        self.say(f"{may}{count} of {len(near)} candidates are measured")
        return dict(list(near.items())[:count])

    def _promising(self) -> dict[str, float]:
        own: list[Any] = [(built, built.method) for built in self.cells.values()]
        predicted = predicted_speedups(self.runner, self.suite, own)
        best = max(predicted.values(), default=0.0)
        return {label: value for label, value in sorted(predicted.items(), key=lambda each: -each[1])
                if value >= (1 - MARGIN) * best}  # fmt: skip

    def _tried(self, one_s: float) -> dict[str, float]:
        """The speed-up of each on one sample, after one that does not count; those that fail are left out."""
        found = {}
        for label, built in self.cells.items():
            try:
                self._seconds(built)
                found[label] = one_s / self._seconds(built)
            except FAILURES as failure:
                self.say(f"{label} fails: {str(failure).splitlines()[0]}")
        return dict(sorted(found.items(), key=lambda each: -each[1]))

    def _too_small(self, more_s: float) -> UsageError:
        """more_s: the seconds that are needed beside those that are spent."""
        budget_s = self.config.budget or 0.0
        needed = (budget_s - self.left_s + more_s) / 60
        return UsageError(f"--budget {budget_s / 60:g} is too small: to load the model and price its passes"
                          + (" and the shortest race" if more_s else "") + f" takes {needed:.1f} minutes here; give at "
                          f"least --budget {math.ceil(needed + 0.5)}")  # fmt: skip

    def _seconds(self, built: Built) -> float:
        """Seconds of one whole request on the suite's last sample, with a margin for what is around it."""
        trace = self.runner.decode(built, self.suite, self.runner.prepare(self.suite.openings[-1:]))
        return 1.1 * (trace.ttft_s + trace.decode_s)

    def race(self, names: Sequence[str]) -> Race:
        """Halve the candidates until one is left. Each rung has an equal part of the time, and so has what follows."""
        race, whole = Race(list(names)), rungs(len(names))
        for rung in range(whole):
            until, done = time.perf_counter() + self.left_s / (whole - rung + 1), 0
            while done < 2 or time.perf_counter() < until:
                race.add(self.sample(race.left))
                done += 1
            gone = race.halve()
            self.say(f"rung {rung + 1} of {whole}: {done} samples, {len(gone)} leave, best "
                     f"{race.left[0]} {math.exp(race.score(race.left[0])):.2f}x")  # fmt: skip
        return race

    def confirm(self, name: str) -> Estimate | None:
        """The winner's speed-up on fresh samples, until the budget ends."""
        logs, images = list[float](), list[str]()
        while len(logs) < CONFIRMING or self.left_s > 0:
            found = self.sample([name])
            if name not in found:
                return None
            logs.append(found[name])
            images.append(self.image_id)
            if self.measured >= 20 * len(self.suite.openings):
                break
        return geometric_mean_ratio([math.exp(log) for log in logs], [1.0] * len(logs), images)

    def sample(self, names: Sequence[str]) -> dict[str, float]:
        """Decode the next sample with the reference and these cells, in a balanced order: log speed-up of each.

        Answers of one token have no decoding; there the whole request counts.
        """
        prepared = self.runner.prepare([next(self.samples)])
        self.image_id = prepared.samples[0].image_id
        turn = [self.reference, *(self.cells[name] for name in names)]
        took: dict[str, float] = {}
        for place in williams.order(len(turn), self.measured, self.config.seed, self.suite.name, len(turn)):
            built = turn[place]
            try:
                (row,) = self.runner.decode(built, self.suite, prepared, seed=self.config.seed + self.measured).rows
            except FAILURES:
                continue
            tokens = len(row.token_ids)
            per = tokens - 1 if self.config.temperature and tokens > 1 else 1
            took[built.label] = (row.decode_s if tokens > 1 and row.decode_s > 0 else row.ttft_s) / per
        self.measured += 1
        base = took.pop(self.reference.label, 0.0)
        return {name: math.log(base / own) for name, own in took.items() if base > 0 and own > 0}


def tune(
    config: RunConfig, minutes: float, *, quiet: bool, named: bool = False, command: Sequence[str] = ()
) -> int:  # fmt: skip
    """Tune within so many minutes, write the advice and the record, and print both. Returns the exit code 0.

    config: of a sweep over one suite, with `budget` in seconds. named: its methods were named one by one. UsageError
    where the budget is too small.
    """
    if lossy := [spec.label for spec in config.specs if not METHODS[spec.name].lossless]:
        raise UsageError(f"{', '.join(lossy)} may decode another text than standard; tune compares methods that "
                         "promise the same one")  # fmt: skip
    (suite,) = check(config)
    console, began = Console(stderr=True, quiet=quiet), now()
    asked: dict[str, object] = {
        "data": config.data,
        "offline": config.offline,
        "prompt_set": config.prompt_set,
        "prompt": config.prompt,
    }
    with tempfile.TemporaryDirectory() as images:
        own, what = tuning_suite(suite, model=config.model, folder=Path(images), asked=asked)
        console.print(f"tuning on {what}", style="dim", highlight=False)
        tuning = Tuning(config, own, minutes * 60, lambda text: console.print(text, style="dim", highlight=False))
        entered = tuning.candidates(named=named)
        race = tuning.race(list(entered))
        winner = race.left[0]
        found = tuning.confirm(winner)
    built = tuning.cells[winner]
    options = {key: built.described["options"][key] for key in OPTIONS if key in built.described["options"]}
    beats = found is not None and found.low is not None and found.low > 1 and found.independent >= FEWEST_SAMPLES
    tuned = {"suite": suite.name, "split": suite.split, "samples": what, "measured": tuning.measured,
             "minutes": minutes, "device": str(tuning.runner.target.device),
             "dtype": str(tuning.runner.target.model.dtype).removeprefix("torch."),
             "at": now(), "speedup_low": found.low if found else None, "speedup_high": found.high if found else None,
             "beats_standard": beats}  # fmt: skip
    advice = {**options, "speedup": round(found.value, 3) if found else 0.0}
    folder = Path(config.out) / new_folder_name(config.model, suite.name, "tune")
    draft = built.described.get("draft") or {}
    chain = built.described["name"] == OURS and not built.described["options"].get("topk")  # advice is for chains
    place, why = written(drafts_of(config), draft.get("name") if chain else None, advice, tuned)
    folder.mkdir(parents=True, exist_ok=True)
    before_key = "tried_decode_speedup" if named else "predicted_decode_speedup"
    record = {
        "command": list(command) or ["fastvlm-bench", *sys.argv[1:]], "config": config.to_dict(), "started_at": began,
        "environment": {**describe_environment(tuning.runner.target.device), "engine": tuning.runner.engine.name,
                        **({"compiled": parts.classes} if (parts := tuning.runner.engine.parts) else {})},
        "winner": winner, "draft": draft.get("name"),
        "advice": advice, "tuned": tuned, "written_to": str(place) if place else None,
        **({"engine": engine.described()} if (engine := tuning.runner.engine).name == Graphs.name else {}),
        "candidates": [
            {"method": name, before_key: before, "samples": len(race.logs.get(name, [])),
             "decode_speedup": math.exp(race.score(name)) if name in race.logs else None,
             "left_after_rung": race.out.get(name)} for name, before in entered.items()
        ],
    }  # fmt: skip
    write_atomically(folder / RECORD, encode_document(record))
    _print(winner, found, beats, place, why, folder)
    return 0


def _print(winner: str, found: Estimate | None, beats: bool, place: Path | None, why: str, folder: Path) -> None:
    print(f"best: {winner} decodes {ratio(found)} as fast as standard on {found.n if found else 0} fresh samples")
    if not beats:
        print("Nothing is shown to beat standard decoding here: decode with -m standard, or give a larger --budget.")
    if place is not None:
        print(f"advice written to {place}: run -m fastvlm uses it where that draft is chosen and no option is typed")
    else:
        print(f"advice not written to the draft ({why}); it stands in the record")
    print(f"-m {winner}")
    print(f"record: {folder / RECORD}")
