"""The benchmark loop: warm-up, then samples x methods x repeats, interleaved, each line recorded as it is measured."""

import contextlib
import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from fastvlm_bench.analysis.stopping import StopRule
from fastvlm_bench.checks.longest_prompt import positions
from fastvlm_bench.checks.losslessness import UNCHECKED, judge_output
from fastvlm_bench.checks.ranking import OptionRanker
from fastvlm_bench.checks.self_check import self_check
from fastvlm_bench.decoding.build import Built
from fastvlm_bench.engine.measure import GREEDY, measure, seed_of
from fastvlm_bench.errors import BenchError, DeviceLost, TooLong
from fastvlm_bench.machine.clock import Clock
from fastvlm_bench.machine.conditions import Conditions, CpuConditions
from fastvlm_bench.machine.failures import FAILURES, device_lost, failed, failure_text
from fastvlm_bench.machine.memory import PeakMemory
from fastvlm_bench.models.layers import vision_module
from fastvlm_bench.models.load import Target
from fastvlm_bench.records.identities import check_line
from fastvlm_bench.records.record import RunWriter
from fastvlm_bench.suites.suite import Sample, Suite, open_image

MAX_FAILURES_IN_A_ROW = 3


@dataclass(frozen=True)
class Group:
    """What the loop tells its watcher after each group of methods on one sample and repeat."""

    suite: str
    done: int
    total: int
    lines: Sequence[dict[str, Any]]


class Runner:
    """Runs built methods on one loaded target. Nothing is shared between generations but the model's weights."""

    def __init__(
        self, target: Target, methods: Sequence[Built], clock: Clock, *, max_new_tokens: int | None,
        conditions: Conditions | None = None, generation: Mapping[str, Any] = GREEDY, seed: int = 0,
        phases: bool = False,
    ) -> None:  # fmt: skip
        self.phases = phases
        self.first_call_s: dict[str, float] = {}
        self.prepared: dict[str, float] = {}
        self.generation, self.seed, self.samples = generation, seed, bool(generation["do_sample"])
        self.target, self.methods, self.clock, self.max_new_tokens = target, methods, clock, max_new_tokens
        self.conditions = conditions or CpuConditions()
        self.vision = vision_module(target.model)
        self.positions = positions(target.model)
        own = getattr(getattr(target.model, "generation_config", None), "eos_token_id", None)
        eos = generation.get("eos_token_id", own)
        self.eos = frozenset([eos] if isinstance(eos, int) else eos or [])
        self.noise = 0.0
        self.ranker = OptionRanker(target)

    def self_check(self, suite: Suite) -> dict[int, float]:
        """Check each exit layer in use on the suite's first sample; returns exit layer -> relative logit difference."""
        inputs = self.inputs(suite.samples[0])
        checked = [m for m in self.methods if m.exit_layer is not None and m.lossless]
        found: dict[int, float] = {}
        for built in sorted(checked, key=lambda m: m.exit_layer or 0):
            draft = getattr(built.method, "draft", None)
            difference = self_check(self.target.model, inputs, built.exit_layer or 0, draft)
            found[built.exit_layer or 0] = max(difference, found.get(built.exit_layer or 0, 0.0))
        self.noise = max(found.values(), default=0.0)
        return found

    def warm_up(self, suite: Suite, samples: int) -> None:
        """Decode some of the suite's last samples with every method, unrecorded: not those that are measured first.

        Of the last four times as many, those of different shapes come first: each shape may choose kernels of its own.
        """
        shapes: dict[Any, dict[str, Any]] = {}
        alike: list[dict[str, Any]] = []
        for sample in suite.samples[::-1][: 4 * samples]:
            inputs = self.inputs(sample)
            shape = tuple(sorted((name, tuple(value.shape)) for name, value in inputs.items()))
            if shape in shapes:
                alike.append(inputs)
            shapes.setdefault(shape, inputs)
        for inputs in [*shapes.values(), *alike][:samples]:
            for built in self.methods:
                with contextlib.suppress(*FAILURES):  # what fails here fails again where it is recorded
                    measure(built.method, self.target.model, inputs, self.limit(suite), self.vision, self.generation)

    def fastest_threads(self, suite: Suite, candidates: Sequence[int], rounds: int = 3) -> int:
        """The CPU thread count at which the reference decodes fastest: the count that flatters nobody.

        Interleaved; the smallest total of `rounds` decodings of one sample wins.
        """
        decode, seconds = self.reference_decoding(suite), dict.fromkeys(candidates, 0.0)
        for attempt in range(rounds + 1):
            for threads in candidates:
                torch.set_num_threads(threads)
                took = decode()
                if attempt:  # the first decoding at a new thread count starts the threads
                    seconds[threads] += took
        best = min(candidates, key=lambda threads: seconds[threads])
        torch.set_num_threads(best)
        return best

    def reference_decoding(self, suite: Suite) -> Callable[[], float]:
        """Decodes the suite's last sample with the reference at each call, and returns its seconds."""
        inputs, reference = self.inputs(suite.samples[-1]), self.methods[0].method

        def decode() -> float:
            trace = measure(reference, self.target.model, inputs, self.limit(suite), None, self.generation)
            return trace.ttft_s + trace.decode_s

        return decode

    def run(
        self, suite: Suite, repeats: int, writer: RunWriter, watch: Callable[[Group], None],
        stop: StopRule | None = None, invocation: int = 0,
    ) -> None:  # fmt: skip
        """Measure what `writer` does not hold yet. The order of methods rotates by sample (ABBA for two).

        stop: ends the suite before its last sample. invocation: the process, which has the repeats from its number
        times `repeats` on.
        """
        repetitions = range(invocation * repeats, (invocation + 1) * repeats)
        done, total, failed_in_a_row = 0, len(suite.samples) * repeats, 0
        gc.collect()
        gc.freeze()  # what is loaded stays: the collector then has only a sample's own garbage to look at
        for index, sample in enumerate(suite.samples):
            inputs: dict[str, Any] | None = None
            for repeat in repetitions:
                if stop is not None and stop.by is not None:
                    return
                done += 1
                if (suite.name, sample.sample_id, repeat) in writer.completed:
                    continue
                inputs = inputs or self.inputs(sample)
                turn = (index + repeat) % len(self.methods)
                order = [*self.methods[turn:], *self.methods[:turn]]
                before = versions(inputs)
                try:
                    lines = [self._line(suite, sample, built, repeat, place, inputs)
                             for place, built in enumerate(order)]  # fmt: skip
                except DeviceLost as lost:  # recorded, so that a resumed run does not meet it again
                    lines = [failed(self._key(suite, sample, built, repeat, place), str(lost))
                             for place, built in enumerate(order)]  # fmt: skip
                    raise self._give_up(lost, lines, writer, invocation) from None
                if versions(inputs) != before:
                    raise BenchError(f"internal error: a method changed its inputs on sample {sample.sample_id}: the "
                                     "methods after it did not get the same")  # fmt: skip
                flags = self.conditions.flags()
                lines = self._ranked(sample, lines, inputs)
                for line in lines:  # the whole group carries them: a ratio is as good as its worse half
                    judged = self._judge(suite, line, lines, inputs)
                    writer.append({**line, "flags": flags, "losslessness": judged, "invocation": invocation})
                if stop is not None:
                    stop.add([lines])
                failed_in_a_row = failed_in_a_row + 1 if all(line["error"] for line in lines) else 0
                watch(Group(suite.name, done, total, lines))
                if failed_in_a_row == MAX_FAILURES_IN_A_ROW:
                    raise BenchError(
                        f"{MAX_FAILURES_IN_A_ROW} samples in a row failed in every method ({lines[-1]['error']}); "
                        "what was measured is kept; try a smaller --max-new-tokens or another --device"
                    )

    def _key(self, suite: Suite, sample: Sample, built: Built, repeat: int, order: int) -> dict[str, Any]:
        """What a line is of; where tokens are drawn, with the seed of its own."""
        key = {"suite": suite.name, "sample_id": sample.sample_id, "method": built.label, "repeat": repeat,
               "order": order}  # fmt: skip
        if self.samples:
            key["seed"] = seed_of(self.seed, suite.name, sample.sample_id, built.label, repeat)
        return key

    def _give_up(
        self, lost: DeviceLost, lines: Sequence[dict[str, Any]], writer: RunWriter, invocation: int
    ) -> DeviceLost:
        """Record the group that lost the device as failed: a resumed run goes on after it."""
        for line in lines:
            writer.append({**line, "flags": [], "losslessness": None, "invocation": invocation})
        return DeviceLost(
            f"the device failed on sample {lines[0]['sample_id']} of {lines[0]['suite']} ({lost}), and this process "
            "cannot use it any more; what was measured is kept"
        )

    def _line(
        self, suite: Suite, sample: Sample, built: Built, repeat: int, order: int, inputs: dict[str, Any]
    ) -> dict[str, Any]:
        key = self._key(suite, sample, built, repeat, order)
        failure, lost = None, False
        gc.collect()
        gc.disable()
        try:
            self._check_length(suite, inputs)
            with self.conditions.span(built.label), PeakMemory(self.target.device) as peak:
                trace = measure(
                    built.method, self.target.model, inputs, self.limit(suite), self.vision, self.generation,
                    key.get("seed"), self.phases,
                )  # fmt: skip
        except FAILURES as error:
            failure, lost = failure_text(error), device_lost(error)
        finally:
            gc.enable()
        if lost:
            raise DeviceLost(failure)
        if failure is not None:  # outside the except block, so that the traceback no longer holds the tensors
            if self.target.device.type == "cuda":
                torch.cuda.empty_cache()
            return failed(key, failure)
        line = {
            **key, "token_ids": trace.token_ids, "text": self.target.decode(trace.token_ids), "stop": trace.stop,
            "ttft_s": trace.ttft_s, "vision_s": trace.vision_s, "prefill_s": trace.prefill_s,
            "decode_s": trace.decode_s,
            "rounds": [[r.drafted, r.tested, r.accepted, r.emitted, r.draft_s, r.verify_s] for r in trace.rounds],
            "memory": peak.result, "scores": {}, "error": None, **self.prepared,
            **({"phases": trace.phases} if trace.phases else {}),
        }  # fmt: skip
        if broken := check_line(line, self.limit(suite), self.eos):
            raise BenchError(f"internal error: {built.label} on sample {sample.sample_id}: {'; '.join(broken)}")
        return line

    def _ranked(self, sample: Sample, lines: list[dict[str, Any]], inputs: dict[str, Any]) -> list[dict[str, Any]]:
        """Outside the clock: the lines with their ranks, where the sample has options to rank."""
        if not getattr(sample, "options", ()):
            return lines
        try:
            return self.ranker.add(lines, sample, inputs, self.methods)
        except FAILURES as error:
            text = f"ranking: {failure_text(error)}"
        return [line if line["error"] else failed(line, text) for line in lines]

    def _judge(
        self, suite: Suite, line: dict[str, Any], group: Sequence[dict[str, Any]], inputs: dict[str, Any]
    ) -> dict[str, Any] | None:
        """Outside the clock: how a lossless method's output compares with the reference's. None: nothing to compare."""
        reference = next(other for other in group if other["method"] == self.methods[0].label)
        lossless = next(built.lossless for built in self.methods if built.label == line["method"])
        if line is reference or not lossless or self.samples or line["error"] or reference["error"]:
            return None  # where tokens are drawn, losslessness is a matter of their distribution
        try:
            return judge_output(
                self.target.model, inputs, line["token_ids"], reference["token_ids"], noise=self.noise,
                limit=self.limit(suite), generation=self.generation,
            )  # fmt: skip
        except RuntimeError as error:  # out of memory, say: the measurement stands, the question stays open
            return {"outcome": UNCHECKED, "reason": f"{type(error).__name__}: {str(error).strip()[:200]}"}

    def _check_length(self, suite: Suite, inputs: Mapping[str, Any]) -> None:
        """TooLong where prompt and limit do not fit: positions beyond the last are an error, or nonsense."""
        needed = inputs["input_ids"].shape[1] + self.limit(suite)
        if self.positions is not None and needed > self.positions:
            raise TooLong(f"prompt of {inputs['input_ids'].shape[1]} tokens + limit of {self.limit(suite)}, but the "
                          f"model has {self.positions} positions; lower --max-new-tokens")  # fmt: skip

    def inputs(self, sample: Sample) -> dict[str, Any]:
        """Processor outputs, outside the clock and the same tensors for every method."""
        began = self.clock.synchronised()
        image: Image.Image = open_image(sample)
        read = self.clock.now()
        inputs = self.target.encode(image, sample.prompt)
        self.prepared = {"image_s": read - began, "processor_s": self.clock.synchronised() - read}
        return inputs

    def limit(self, suite: Suite) -> int:
        return self.max_new_tokens or suite.max_new_tokens


def versions(inputs: Mapping[str, Any]) -> dict[str, int]:
    """How often each input tensor has been written to: torch counts that."""
    return {name: value._version for name, value in inputs.items() if isinstance(value, torch.Tensor)}
