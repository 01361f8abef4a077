"""The benchmark loop in batches: the samples of a suite in groups of N, each method on each group, interleaved."""

import contextlib
import gc
from collections.abc import Callable, Sequence
from typing import Any

import torch

from fastvlm_bench.analysis.batches import whole
from fastvlm_bench.analysis.stopping import StopRule
from fastvlm_bench.checks.batch_check import batch_self_check
from fastvlm_bench.decoding.batch_measure import in_batches, measure_batch
from fastvlm_bench.decoding.build import Built
from fastvlm_bench.decoding.fastvlm import FastVLM
from fastvlm_bench.drafts.imitation_head import Draft
from fastvlm_bench.engine.batch_inputs import collate, unevenness
from fastvlm_bench.errors import BenchError, DeviceLost
from fastvlm_bench.machine.failures import FAILURES, device_lost, failed, failure_text
from fastvlm_bench.machine.memory import PeakMemory
from fastvlm_bench.measuring.runner import MAX_FAILURES_IN_A_ROW, Group, Runner, versions
from fastvlm_bench.records.identities import check_line
from fastvlm_bench.records.record import RunWriter
from fastvlm_bench.suites.suite import Sample, Suite


class BatchRunner(Runner):
    """A Runner that decodes `size` samples at a time; the last batch of a suite may be smaller.

    Each sample has its own line. Its seconds are its share of its batch's (each moment is shared equally by the rows
    that were being decoded), and `batch` holds the batch's own: `id`, `size`, `row`, `ttft_s`, `decode_s`.
    """

    def __init__(self, *given: Any, size: int, **options: Any) -> None:
        super().__init__(*given, **options)
        self.size = size
        self.batched = {built.label: in_batches(built.method, self.target.model) for built in self.methods}
        pad = self.target.model.generation_config.pad_token_id
        self.pad_token_id = pad if isinstance(pad, int) else 0
        self.read_s: list[dict[str, float]] = []  # of each sample of the batch, outside the clock
        self.checked: set[frozenset[str]] = {frozenset()}

    def self_check(self, suite: Suite) -> dict[int, float]:
        """As for single samples, and each row of a small batch must give the logits that it gives alone."""
        found = super().self_check(suite)
        some = [self.inputs(sample) for sample in suite.samples[: max(self.size, 4)]]
        some.sort(key=lambda inputs: int(inputs["input_ids"].shape[1]))
        chosen = [some[0], some[-1], *some[1:-1]][: min(self.size, 3)]  # the shortest and the longest first
        drafts = [m.method.draft_for(self.target.model) for m in self.methods if isinstance(m.method, FastVLM)]
        for draft in (None, *drafts):
            self._check(chosen, draft)
        return found

    def _check(self, singles: Sequence[dict[str, Any]], draft: Draft | None) -> None:
        self.noise = max(self.noise, batch_self_check(self.target.model, singles, draft, self.pad_token_id))
        self.checked.add(unevenness(singles))

    def warm_up(self, suite: Suite, samples: int) -> None:
        """Decode the suite's last samples with every method, unrecorded, in at least one batch."""
        last = list(suite.samples[::-1])
        for start in range(0, min(samples, len(last)), self.size):
            inputs, _ = self._batch(last[start : start + self.size])
            for label, method in self.batched.items():
                with contextlib.suppress(*FAILURES):  # what fails here fails again where it is recorded
                    trace = measure_batch(
                        method, self.target.model, inputs, self.limit(suite), self.vision, self.generation
                    )
                    self.first_call_s.setdefault(label, trace.ttft_s + trace.decode_s)

    def reference_decoding(self, suite: Suite) -> Callable[[], float]:
        """The same of the suite's last batch."""
        inputs, _ = self._batch(list(suite.samples[-self.size :]))
        reference = self.batched[self.methods[0].label]

        def decode() -> float:
            trace = measure_batch(reference, self.target.model, inputs, self.limit(suite), None, self.generation)
            return trace.ttft_s + trace.decode_s

        return decode

    def run(
        self, suite: Suite, repeats: int, writer: RunWriter, watch: Callable[[Group], None],
        stop: StopRule | None = None, invocation: int = 0,
    ) -> None:  # fmt: skip
        """Measure what `writer` does not hold yet, batch by batch. The order of methods rotates by batch.

        A batch of which one sample is missing is measured again in full, because its seconds belong together. stop,
        invocation: as in Runner; to the rule a batch is one observation.
        """
        repetitions = range(invocation * repeats, (invocation + 1) * repeats)
        starts, failed_in_a_row = range(0, len(suite.samples), self.size), 0
        total, done = len(suite.samples) * repeats, 0
        gc.collect()
        gc.freeze()
        for number, start in enumerate(starts):
            samples = list(suite.samples[start : start + self.size])
            prepared: tuple[dict[str, Any], list[dict[str, Any]]] | None = None
            for repeat in repetitions:
                if stop is not None and stop.by is not None:
                    return
                done += len(samples)
                if all((suite.name, sample.sample_id, repeat) in writer.completed for sample in samples):
                    continue
                inputs, singles = prepared = prepared or self._batch(samples)
                turn = (number + repeat) % len(self.methods)
                order = [*self.methods[turn:], *self.methods[:turn]]
                before = versions(inputs)
                try:
                    by_method = [self._lines(suite, samples, number, built, repeat, place, inputs)
                                 for place, built in enumerate(order)]  # fmt: skip
                except DeviceLost as lost:  # recorded, so that a resumed run does not meet it again
                    void = [
                        line for place, built in enumerate(order)
                        for line in self._void(suite, samples, number, built, repeat, place, str(lost))
                    ]  # fmt: skip
                    raise self._give_up(lost, void, writer, invocation) from None
                if versions(inputs) != before:
                    raise BenchError(f"internal error: a method changed its inputs in batch {number}: the methods "
                                     "after it did not get the same")  # fmt: skip
                flags = self.conditions.flags()
                for row, single in enumerate(singles):
                    group = self._ranked(samples[row], [lines[row] for lines in by_method], single)
                    for line in group:
                        judged = self._judge(suite, line, group, single)
                        writer.append({**line, "flags": flags, "losslessness": judged, "invocation": invocation})
                if stop is not None:
                    stop.add([[whole(lines) for lines in by_method]])
                everything = [line for lines in by_method for line in lines]
                failed_in_a_row = failed_in_a_row + 1 if all(line["error"] for line in everything) else 0
                watch(Group(suite.name, done, total, everything))
                if failed_in_a_row == MAX_FAILURES_IN_A_ROW:
                    raise BenchError(
                        f"{MAX_FAILURES_IN_A_ROW} batches in a row failed in every method ({everything[-1]['error']}); "
                        "what was measured is kept; try a smaller --batch-size or --max-new-tokens"
                    )

    def _batch(self, samples: Sequence[Sample]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """The batch's inputs and those of its samples, outside the clock and the same for every method.

        Samples that differ in other ways than those checked on load (another number of tiles, say) are checked first.
        """
        singles, self.read_s = [], []
        for sample in samples:
            singles.append(self.inputs(sample))
            self.read_s.append(self.prepared)
        if unevenness(singles) not in self.checked:
            self._check(singles, None)
        return collate(singles, self.pad_token_id), singles

    def _void(
        self, suite: Suite, samples: Sequence[Sample], number: int, built: Built, repeat: int, order: int,
        failure: str,
    ) -> list[dict[str, Any]]:  # fmt: skip
        """The lines of a batch of which nothing counts."""
        batch = {"id": number, "size": len(samples), "ttft_s": None, "decode_s": None}
        return [{**failed(self._key(suite, sample, built, repeat, order), failure), "batch": {**batch, "row": row}}
                for row, sample in enumerate(samples)]  # fmt: skip

    def _lines(
        self, suite: Suite, samples: Sequence[Sample], number: int, built: Built, repeat: int, order: int,
        inputs: dict[str, Any],
    ) -> list[dict[str, Any]]:  # fmt: skip
        keys = [self._key(suite, sample, built, repeat, order) for sample in samples]
        batch = {"id": number, "size": len(samples)}
        failure, lost = None, False
        gc.collect()
        gc.disable()
        try:
            self._check_length(suite, inputs)
            with self.conditions.span(built.label), PeakMemory(self.target.device) as peak:
                method = self.batched[built.label]
                trace = measure_batch(
                    method, self.target.model, inputs, self.limit(suite), self.vision, self.generation
                )
        except FAILURES as error:
            lost, failure = device_lost(error), f"{failure_text(error)}; in a batch of {len(samples)}"
            failure += "" if lost else ": try a smaller --batch-size"
        finally:
            gc.enable()
        if lost:
            raise DeviceLost(failure)
        if failure is not None:  # outside the except block, so that the traceback no longer holds the tensors
            if self.target.device.type == "cuda":
                torch.cuda.empty_cache()
            return self._void(suite, samples, number, built, repeat, order, failure)
        lines = []
        for row, (key, done) in enumerate(zip(keys, trace.rows, strict=True)):
            line = {
                **key, "token_ids": done.token_ids, "text": self.target.decode(done.token_ids), "stop": done.stop,
                "ttft_s": done.ttft_s, "vision_s": done.vision_s, "prefill_s": done.prefill_s,
                "decode_s": done.decode_s,
                "rounds": [[r.drafted, r.tested, r.accepted, r.emitted, r.draft_s, r.verify_s] for r in done.rounds],
                "memory": peak.result, "scores": {}, "error": None, **self.read_s[row],
                "batch": {**batch, "row": row, "ttft_s": trace.ttft_s, "decode_s": trace.decode_s},
            }  # fmt: skip
            if broken := check_line(line, self.limit(suite), self.eos):
                raise BenchError(f"internal error: {built.label} on {key['sample_id']}: {'; '.join(broken)}")
            lines.append(line)
        return lines
