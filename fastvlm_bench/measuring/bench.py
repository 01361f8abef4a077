"""What the measuring loop needs before anything counts: inputs, the self-check, the warm-up, the number of threads."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import Module

from fastvlm_bench.checks.batch_check import batch_self_check
from fastvlm_bench.checks.engine_check import SAME, engine_check, rows_check, static_check
from fastvlm_bench.checks.longest_prompt import positions
from fastvlm_bench.checks.ranking import OptionRanker
from fastvlm_bench.checks.self_check import Checked, Plain, self_check
from fastvlm_bench.decoding.build import Built
from fastvlm_bench.decoding.fastvlm import FastVLM
from fastvlm_bench.decoding.hf_generate import HfGenerate
from fastvlm_bench.drafts.imitation_head import Draft
from fastvlm_bench.engine.batch_inputs import collate, unevenness
from fastvlm_bench.engine.engine import Eager
from fastvlm_bench.engine.graphs import Graphs
from fastvlm_bench.engine.measure import GREEDY, measure
from fastvlm_bench.errors import UsageError
from fastvlm_bench.machine.clock import Clock
from fastvlm_bench.machine.conditions import Conditions, CpuConditions
from fastvlm_bench.machine.failures import FAILURES
from fastvlm_bench.measuring.part import Part
from fastvlm_bench.models.compiled import compile_parts
from fastvlm_bench.models.inputs import shapes as shapes_of
from fastvlm_bench.models.layers import vision_module
from fastvlm_bench.models.load import Target
from fastvlm_bench.records.trace import Trace
from fastvlm_bench.suites.suite import Sample, Suite, open_images

MOST_CHECKED = 32
"""So many tokens are compared between the engines."""
ATTEMPTS = 4
"""So often a sample is decoded at most, until no pass of it is recorded for the first time."""


@dataclass(frozen=True)
class Prepared:
    """The inputs of one sample or batch, which are made outside the clock and given to every method.

    inputs: of all samples as one batch. singles: of each sample alone. read_s: for each sample, the seconds of reading
    its images and of the processor. number: of the batch within its suite; None where samples are decoded singly.
    answers: for each sample the answers to its earlier turns, () where there are none. failure: why there are no
    inputs, since an earlier answer is lacking; else "".
    """

    samples: Sequence[Sample]
    inputs: dict[str, Any]
    singles: list[dict[str, Any]]
    read_s: list[dict[str, float]]
    number: int | None = None
    answers: Sequence[Sequence[str]] = ()
    failure: str = ""

    def after(self, row: int) -> Sequence[str]:
        """The answers after which one of the samples is asked."""
        return self.answers[row] if self.answers else ()

    @property
    def name(self) -> str:
        """How error messages name it."""
        return f"on sample {self.samples[0].sample_id}" if self.number is None else f"in batch {self.number}"


def shown(sample: Sample, answers: Sequence[str] = ()) -> tuple[Any, ...]:
    """What `Target.encode` is given of a sample: images, prompt and, of a later turn, (prompt, answer) of those before.

    A single image stands for itself. answers: to the earlier turns, as many as there are.
    """
    earlier = (tuple(zip(sample.earlier, answers, strict=True)),) if sample.earlier else ()
    return (open_images(sample), sample.prompt, *earlier)


class Bench:
    """Methods that are built on one loaded target, and the inputs of samples.

    Generations share nothing but the model's weights. size: how many samples are decoded at a time; the last batch of
    a suite may be smaller. part: what this process measures of each suite.
    """

    engine = Eager()

    def __init__(
        self, target: Target, methods: Sequence[Built], clock: Clock, *, max_new_tokens: int | None,
        conditions: Conditions | None = None, generation: Mapping[str, Any] = GREEDY, seed: int = 0,
        phases: bool = False, size: int = 1, part: Part | None = None, engine: Eager | None = None,
    ) -> None:  # fmt: skip
        self.target, self.methods, self.clock, self.max_new_tokens = target, methods, clock, max_new_tokens
        self.generation, self.seed, self.samples = generation, seed, bool(generation["do_sample"])
        self.phases, self.size, self.part, self.engine = phases, size, part or Part(), engine or Eager()
        for built in methods:
            built.method.engine = self.engine
        self.first_call_s: dict[str, float] = {}
        self.prepared: dict[str, float] = {}
        self.conditions = conditions or CpuConditions()
        self.vision = vision_module(target.model)
        self.positions = positions(target.model)
        own = getattr(getattr(target.model, "generation_config", None), "eos_token_id", None)
        eos = generation.get("eos_token_id", own)
        self.eos = frozenset([eos] if isinstance(eos, int) else eos or [])
        pad = getattr(getattr(target.model, "generation_config", None), "pad_token_id", None)
        self.pad_token_id = pad if isinstance(pad, int) else 0
        self.checked_unevenness: set[frozenset[str]] = {frozenset()}
        self.ranker = OptionRanker(target)

    def compile_parts(self) -> None:
        """Let torch compile parts of the target's layers, and of the drafts', for all methods alike (`--compile`).

        UsageError where torch cannot, or where the engine records passes on a CPU: its tapes see torch's operations,
        and compiled code is none.
        """
        if self.engine.name == Graphs.name and self.target.device.type == "cpu":
            raise UsageError("--compile and --engine graphs exclude each other on a CPU, where a recorded pass cannot "
                             "see compiled code: leave one out")  # fmt: skip
        held = [thing for built in self.methods for thing in (*vars(built.method).values(), *built.method.levels)]
        heads = [thing if isinstance(thing, Module) else getattr(thing, "head", None) for thing in held]
        self.engine.parts = compile_parts(self.target.model, [head for head in heads if isinstance(head, Module)])

    def self_check(self, suite: Suite) -> dict[int, Checked]:
        """Check each exit layer in use on the suite's first sample, and a small batch if batches are decoded.

        Returns exit layer -> what was found, the largest difference where several drafts share an exit. UsageError
        where a check fails.
        """
        inputs = self.inputs(suite.openings[0])
        checked, seen = list[tuple[int, Draft | None]](), set[int]()
        for method in (m for m in self.methods if m.lossless):
            own = [] if method.exit_layer is None else [(method.exit_layer, getattr(method.method, "draft", None))]
            for layer, draft in [*own, *((level.exit_layer, level) for level in method.method.levels)]:
                if draft is None or id(draft) not in seen:  # one draft may serve many methods, which differ in γ
                    seen.add(id(draft))
                    checked.append((layer, draft))
        found: dict[int, Checked] = {}
        plain = Plain(self.target.model, inputs)
        for layer, draft in sorted(checked, key=lambda pair: pair[0]):
            told = self_check(self.target.model, inputs, layer, draft, plain)
            found[layer] = max(told, found.get(layer, told))
        if self.size > 1:
            some = [self.inputs(sample) for sample in suite.openings[: max(self.size, 4)]]
            some.sort(key=lambda inputs: int(inputs["input_ids"].shape[1]))
            chosen = [some[0], some[-1], *some[1:-1]][: min(self.size, 3)]  # the shortest and the longest first
            drafts = {id(draft): draft for m in self.methods if isinstance(m.method, FastVLM)
                      for draft in [m.method.draft_for(self.target.model)]}  # fmt: skip
            self._check_batch(chosen, [None, *drafts.values()])
        return found

    def check_engine(self, suite: Suite) -> None:
        """Let `graphs` decode the suite's first sample by the reference. It is refused where eager says otherwise."""
        if not isinstance(self.engine, Graphs):
            return
        model, inputs = self.target.model, self.inputs(suite.samples[0])
        limit = min(self.limit(suite), MOST_CHECKED)
        found = engine_check(model, inputs, self.engine, limit)
        self.engine.checked = str(found)
        if not found.passed:
            self.engine.refuse(f"{type(model).__name__}: recorded passes are not the eager ones ({found})")
            return
        if self.size > 1:
            some = [self.inputs(sample) for sample in suite.openings[: self.size]]
            outcome = rows_check(model, some, self.pad_token_id, self.engine, limit)
            if outcome not in SAME:
                self.engine.refuse(
                    f"{type(model).__name__}: recorded passes of a batch are not the eager ones ({outcome})"
                )
                return
        if self.engine.auto and not self.engine.recorded and self.engine.reasons:
            self.engine.refuse(next(iter(self.engine.reasons)))
            return
        for method in (built.method for built in self.methods):
            if isinstance(method, HfGenerate):
                with contextlib.suppress(*FAILURES):  # it fails again, and is recorded, when it is measured
                    static_check(model, inputs, method, self.engine, limit)
                method.engine = self.engine

    def _check_batch(self, singles: Sequence[dict[str, Any]], drafts: Sequence[Draft | None] = (None,)) -> None:
        plains = [Plain(self.target.model, single) for single in singles]
        for draft in drafts:
            batch_self_check(self.target.model, singles, draft, self.pad_token_id, plains)
        self.checked_unevenness.add(unevenness(singles))

    def warm_up(self, suite: Suite, samples: int) -> None:
        """Decode some of the suite's last samples with every method, without recording. The first are measured next."""
        for prepared in self._to_warm_up(suite, samples):
            for built in self.methods:
                with contextlib.suppress(*FAILURES):  # it fails again, and is recorded, when it is measured
                    seconds = self._seconds(built, suite, prepared)
                    self.first_call_s.setdefault(built.label, seconds)

    def _to_warm_up(self, suite: Suite, samples: int) -> Iterator[Prepared]:
        """Batches that hold at least `samples` samples; or, where they are decoded singly, `samples` of them.

        Single ones are chosen from the last 4 · `samples`. Those with new shapes come first, since every shape may
        need kernels of its own.
        """
        last = list(suite.openings[::-1])
        if self.size > 1:
            for start in range(0, min(samples, len(last)), self.size):
                yield self.prepare(last[start : start + self.size])
            return
        shapes: dict[Any, Prepared] = {}
        alike: list[Prepared] = []
        for sample in last[: 4 * samples]:
            prepared = self.prepare([sample])
            shape = shapes_of(prepared.inputs)
            if shape in shapes:
                alike.append(prepared)
            shapes.setdefault(shape, prepared)
        yield from [*shapes.values(), *alike][:samples]

    def fastest_threads(self, suite: Suite, candidates: Sequence[int], rounds: int = 3) -> int:
        """Set, and return, the CPU thread count at which the reference decodes fastest, so that no method is favoured.

        The candidates take turns in decoding the suite's last sample, or last batch, `rounds` times. The smallest sum
        of seconds wins.
        """
        prepared, seconds = self.prepare(suite.openings[-self.size :]), dict.fromkeys(candidates, 0.0)
        for attempt in range(rounds + 1):
            for threads in candidates:
                torch.set_num_threads(threads)
                took = self._seconds(self.methods[0], suite, prepared)
                if attempt:  # the first decoding at a new thread count starts the threads
                    seconds[threads] += took
        best = min(candidates, key=lambda threads: seconds[threads])
        torch.set_num_threads(best)
        return best

    def _seconds(self, built: Built, suite: Suite, prepared: Prepared) -> float:
        """Decode once, without recording. Returns the seconds from the request to the last token."""
        trace = self.decode(built, suite, prepared)
        return trace.ttft_s + trace.decode_s

    def decode(self, built: Built, suite: Suite, prepared: Prepared, **options: Any) -> Trace:
        """Decode once with one method, as `measure` times it. options: `seed` and `phases` of `measure`; in
        `generation` more options of `generate`.

        Where a pass was recorded or compiled meanwhile, or the engine took to another way, what was timed is dropped,
        and all is decoded once more. A method that learns does not know the dropped one, whose clock and text it would
        know twice.
        """
        memory = built.method.memory()
        for attempt in range(ATTEMPTS):
            if attempt:
                built.method.recall(memory)
            before = self.engine.made_so_far, len(self.engine.reasons)
            trace = self._decode(built, suite, prepared, **options)
            if (self.engine.made_so_far, len(self.engine.reasons)) == before:
                break
        self.engine.decoded(again=attempt > 0)
        return trace

    def _decode(
        self, built: Built, suite: Suite, prepared: Prepared, *, generation: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Trace:  # fmt: skip
        if built.method.sees:
            answers = prepared.answers or [()] * len(prepared.samples)
            built.method.show([shown(*each) for each in zip(prepared.samples, answers, strict=True)])
        return measure(
            built.method, self.target.model, prepared.inputs, self.limit(suite), vision=self.vision,
            generation={**self.generation, **(generation or {})}, **options,
        )  # fmt: skip

    def prepare(
        self, samples: Sequence[Sample], number: int | None = None, answers: Sequence[Sequence[str]] = ()
    ) -> Prepared:  # fmt: skip
        """Make the inputs of some samples, outside the clock. Every method gets the same tensors.

        answers: for each sample those to its earlier turns; () where there are none. A batch whose samples differ in
        other inputs than the batches checked so far (in their number of tiles, say) is checked first. UsageError where
        that fails.
        """
        singles, read_s = [], []
        for place, sample in enumerate(samples):
            singles.append(self.inputs(sample, answers[place]) if answers else self.inputs(sample))
            read_s.append(self.prepared)
        if self.size == 1:
            return Prepared(samples, singles[0], singles, read_s, None, answers)
        if unevenness(singles) not in self.checked_unevenness:
            self._check_batch(singles)
        return Prepared(samples, collate(singles, self.pad_token_id), singles, read_s, number, answers)

    def inputs(self, sample: Sample, answers: Sequence[str] = ()) -> dict[str, Any]:
        """The processor's outputs for one sample. `prepared` then holds the seconds that it took."""
        began = self.clock.synchronised()
        asked = shown(sample, answers)
        read = self.clock.now()
        inputs = self.target.encode(*asked)
        self.prepared = {"image_s": read - began, "processor_s": self.clock.synchronised() - read}
        return inputs

    def limit(self, suite: Suite) -> int:
        return self.max_new_tokens or suite.max_new_tokens
