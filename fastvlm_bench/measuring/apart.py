"""Measurements apart from the samples, with a runner's methods: the parts of a memory peak, and energy in blocks."""

import gc
from collections.abc import Callable
from functools import partial
from itertools import cycle
from typing import Any

from fastvlm_bench.decoding.build import Built
from fastvlm_bench.engine.measure import measure
from fastvlm_bench.machine.energy import Meter, blocks
from fastvlm_bench.machine.failures import FAILURES
from fastvlm_bench.machine.memory import PeakMemory, attribute, held_bytes
from fastvlm_bench.measuring.runner import Runner
from fastvlm_bench.suites.suite import Suite


def memory_parts(runner: Runner, suite: Suite) -> list[dict[str, Any]]:
    """Split each method's memory peak on the suite's last sample into weights, head, KV cache, activations and rest.

    Call it before the warm-up: it gives idle memory back, and it times each method's first call. A method that fails
    is left out.
    """
    sample, found = suite.samples[-1], []
    inputs = runner.inputs(sample)
    weights = sum(p.nbytes for p in runner.target.model.parameters())
    for built in runner.methods:
        decode = partial(measure, built.method, runner.target.model, inputs, runner.limit(suite),
                         generation=runner.generation)  # fmt: skip
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


def energy_blocks(runner: Runner, suite: Suite, meter: Meter, seconds: float) -> dict[str, Any]:
    """Measure the joules of blocks of generations, each of one method, over the suite's samples in turn.

    seconds: how long a block lasts. Returns the suite's entry of `energy` in run.json.
    """

    def decoder(built: Built) -> Callable[[], int]:
        turn = cycle(suite.samples)

        def decode() -> int:  # the processor is in the block for every method alike, since a meter cannot be paused
            inputs = runner.inputs(next(turn))
            trace = measure(
                built.method, runner.target.model, inputs, runner.limit(suite), generation=runner.generation
            )  # fmt: skip
            return sum(len(row.token_ids) for row in trace.rows)

        return decode

    return blocks(meter, {built.label: decoder(built) for built in runner.methods}, seconds)
