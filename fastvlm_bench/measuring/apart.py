"""Measurements apart from the samples, with a runner's methods.

They are the parts of a memory peak, the costs of single passes, the acceptance without a stop in doubt, the device's
share in the time of each phase, and energy in blocks.
"""

import gc
from collections.abc import Callable, Hashable
from functools import partial
from itertools import cycle
from typing import Any

from transformers import StoppingCriteriaList

from fastvlm_bench.analysis.prediction import PassCosts
from fastvlm_bench.decoding.build import Built
from fastvlm_bench.decoding.fastvlm import FastVLM
from fastvlm_bench.engine.kernels import FirstTokens, Kernels
from fastvlm_bench.engine.measure import seed_of
from fastvlm_bench.machine.energy import Meter, blocks
from fastvlm_bench.machine.failures import FAILURES
from fastvlm_bench.machine.memory import PeakMemory, attribute, held_bytes
from fastvlm_bench.measuring.bench import Prepared
from fastvlm_bench.measuring.runner import Runner
from fastvlm_bench.suites.suite import Suite
from fastvlm_bench.training.costs import measure_costs

FEWEST_SAMPLES = 5
"""Of a suite with fewer samples no ratio is published, so nothing is measured apart that would explain one."""
PROBES = 3
PROFILED = 16
"""So many tokens of an answer are watched by the profiler."""
ENOUGH_TESTED, MOST_SAMPLES, SHARE = 500, 20, 5
"""Decoding without a stop ends after so many tested drafts, when α is known to about ±4 points, after so many samples,
or after a fifth of the suite's, so that a short run of a slow model does not spend its time apart."""


def memory_parts(runner: Runner, suite: Suite) -> list[dict[str, Any]]:
    """Split each method's memory peak on the suite's last sample into weights, head, KV cache, activations and rest.

    Call it before the warm-up: it gives idle memory back, and it times each method's first call. A method that fails
    is left out.
    """
    sample, found = suite.openings[-1], []
    prepared = runner.prepare([sample])
    weights = sum(p.nbytes for p in runner.target.model.parameters())
    for built in runner.methods:
        decode = partial(runner.decode, built, suite, prepared)
        try:
            first = decode()  # whatever is allocated only once is allocated here
            gc.collect()
            before = held_bytes(runner.target.device)
            with PeakMemory(runner.target.device) as peak:
                trace = decode()
        except FAILURES:  # it fails again, and is recorded, when the samples are measured
            continue
        runner.first_call_s.setdefault(built.label, first.ttft_s + first.decode_s)
        parts = attribute(peak.result, before, weights=weights, head=built.described.get("extra_bytes", 0),
                          cache=trace.cache_bytes, device=runner.target.device)  # fmt: skip
        found.append({"suite": suite.name, "method": built.label, "sample_id": sample.sample_id, **parts})
    return found


def pass_costs(runner: Runner, suite: Suite) -> list[dict[str, Any]]:
    """Time single passes of the target and of each method that drafts, in turn, on the suite's last sample.

    They price the rounds of chains that are measured later (`analysis/prediction.py`), and are run by the run's engine.
    Methods with the same draft share theirs. Call it before the warm-up, which then leaves no method warmer than the
    others; the first passes of each shape do not count. A method whose passes fail is left out, as is everything where
    samples are decoded in batches.
    """
    if runner.size > 1 or len(suite.openings) < FEWEST_SAMPLES:
        return []
    prepared, found, model = runner.prepare(suite.openings[-1:]), [], runner.target.model
    own = [(built, built.method) for built in runner.methods if isinstance(built.method, FastVLM)]
    own = [(built, method) for built, method in own if method.priced]
    known: dict[tuple[Hashable, bool], PassCosts | None] = {}
    for built, method in own:
        key = passes_key(method, model), method.stops
        if key not in known:
            same = [m for _, m in own if (passes_key(m, model), m.stops) == key]
            known[key] = costs_of_passes(runner, suite, prepared, method, max(m.gamma for m in same))
        if (costs := known[key]) is None:  # it fails again, and is recorded, when the samples are measured
            continue
        found.append({"suite": suite.name, "method": built.label, "standard_s": costs.standard_s,
                      "draft_s": costs.draft_s, "verify_s": list(costs.verify_s[: method.gamma + 1])})  # fmt: skip
    return found


def passes_key(method: FastVLM, model: Any) -> Hashable:
    """What tells the passes of two methods apart: the exit, the head, and what `graphs` has refused of them.

    γ only says how many there are.
    """
    draft = method.draft_for(model)
    return draft.exit_layer, None if draft.head is None else id(draft.head), method.engine.refusal(method)


def costs_of_passes(runner: Runner, suite: Suite, prepared: Prepared, method: FastVLM, gamma: int) -> PassCosts | None:
    """Time single passes for verifications of up to γ + 1 positions, under the run's engine; None where they fail."""
    reference = runner.methods[0]
    try:
        answer = runner.decode(reference, suite, prepared).rows[0]
        return measure_costs(
            runner.target, prepared.inputs, answer.token_ids, method.draft_for(runner.target.model),
            positions=gamma + 1, stops=method.stops, methods=(reference.method, method),
            most=runner.limit(suite),
        )  # fmt: skip
    except FAILURES:
        return None


def acceptance_without_stop(runner: Runner, suite: Suite) -> list[dict[str, Any]]:
    """Decode the suite's first samples without a stop by each method that stops in doubt, and count its rounds.

    Outside the clock, and before the warm-up as `pass_costs`. An α over drafts that the method trusted is higher than
    the papers' by selection; this one is theirs.
    """
    found: list[dict[str, Any]] = []
    if runner.size > 1 or len(suite.openings) < FEWEST_SAMPLES:
        return found
    most = min(MOST_SAMPLES, len(suite.openings) // SHARE)
    for built in runner.methods:
        if not built.method.stops:
            continue
        rounds: list[Any] = []
        try:
            for number, sample in enumerate(suite.openings[:most]):
                if sum(r.tested for r in rounds) >= ENOUGH_TESTED:
                    break
                seed = seed_of(runner.seed, suite.name, built.label, number)
                with built.method.never_stopping():
                    trace = runner.decode(built, suite, runner.prepare([sample]), seed=seed)
                rounds += [r for row in trace.rows for r in row.rounds]
        except FAILURES:  # the counts so far would be of a part of the samples, chosen by the failure
            continue
        sums = {name: sum(getattr(r, name) for r in rounds) for name in ("drafted", "tested", "accepted", "emitted")}
        found.append({"suite": suite.name, "method": built.label, "samples": number + 1, "rounds": len(rounds), **sums})
    return found


def kernel_shares(runner: Runner, suite: Suite) -> list[dict[str, Any]]:
    """The seconds of each phase of each method on the suite's last sample, and of them those in the device's kernels.

    Call it before the warm-up. The first tokens of an answer are decoded to warm up, then in turn to take the seconds
    and to find the kernels; of each the attempt counts that took least. A method that fails is left out.
    """
    found, prepared = [], runner.prepare(suite.openings[-1:])
    first = FirstTokens(prepared.inputs["input_ids"].shape[1], PROFILED)
    only = {"stopping_criteria": StoppingCriteriaList([first])}
    for built in runner.methods:
        decode = partial(runner.decode, built, suite, prepared, generation=only)
        watching, plain = list[Kernels](), list[Any]()

        def watched(*args: Any, watching: list[Kernels] = watching) -> Kernels:
            watching.append(Kernels(*args))
            return watching[-1]

        try:
            decode()
            for _ in range(PROBES):
                plain.append(decode(phases=True))
                decode(phases=watched)
        except FAILURES:  # it fails again, and is recorded, when the samples are measured
            continue
        least = min(plain, key=lambda trace: trace.ttft_s + trace.decode_s)
        busy = min((each.busy for each in watching), key=lambda seconds: sum(seconds.values()))
        found.append({"suite": suite.name, "method": built.label, "sample_id": prepared.samples[0].sample_id,
                      "tokens": len(least.rows[0].token_ids), "wall": least.phases, "busy": busy})  # fmt: skip
    return found


def energy_blocks(runner: Runner, suite: Suite, meter: Meter, seconds: float) -> dict[str, Any]:
    """Measure the joules of blocks of generations, each of one method, over the suite's samples in turn.

    seconds: how long a block lasts. Returns the suite's entry of `energy` in run.json.
    """

    def decoder(built: Built) -> Callable[[], int]:
        turn = cycle(suite.openings)

        def decode() -> int:  # the processor is in the block for every method alike, since a meter cannot be paused
            trace = runner.decode(built, suite, runner.prepare([next(turn)]))
            return sum(len(row.token_ids) for row in trace.rows)

        return decode

    return blocks(meter, {built.label: decoder(built) for built in runner.methods}, seconds)
