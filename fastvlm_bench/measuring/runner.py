"""The benchmark loop: warm-up, then samples x methods x repeats, interleaved, each line recorded as it is measured."""

import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from fastvlm_bench.analysis.stopping import StopRule
from fastvlm_bench.checks.losslessness import UNCHECKED, Batch, judge_output
from fastvlm_bench.checks.plain_passes import FAULTS
from fastvlm_bench.decoding.build import Built
from fastvlm_bench.engine.measure import seed_of
from fastvlm_bench.errors import BenchError, DeviceLost, TooLong
from fastvlm_bench.machine.failures import FAILURES, device_lost, failed, failure_text
from fastvlm_bench.machine.memory import PeakMemory
from fastvlm_bench.measuring import williams
from fastvlm_bench.measuring.bench import Bench, Prepared
from fastvlm_bench.measuring.dialogs import Answers, Said, groups_of
from fastvlm_bench.measuring.lines import Line, measured, void
from fastvlm_bench.models.inputs import versions
from fastvlm_bench.records.identities import check_line
from fastvlm_bench.records.record import RunWriter
from fastvlm_bench.suites.suite import Sample, Suite

MAX_FAILURES_IN_A_ROW = 3


@dataclass(frozen=True)
class Group:
    """The lines of all methods on the same samples and repeat. done, total: of the suite, samples times repeats."""

    suite: str
    done: int
    total: int
    lines: Sequence[Line]


class Runner(Bench):
    """Measures and records. Each sample has its own line for each method and repeat.

    In a batch, the seconds of a line are shares: each moment is divided equally among the rows that were being
    decoded. `batch` in the line says which batch and row it is (`id`, `size`, `row`), and holds the batch's own
    `ttft_s` and `decode_s`.
    """

    def run(
        self, suite: Suite, repeats: int, writer: RunWriter, watch: Callable[[Group], None],
        stop: StopRule | None = None, invocation: int = 0,
    ) -> None:  # fmt: skip
        """Measure what `writer` does not hold yet. `williams.order` gives the order of methods of each sample or batch.

        A batch that lacks one sample is measured again in full, because its seconds belong together. A later turn of a
        sample is measured after the answers of each method to the turns before. watch: called
        after each group. stop: may end the suite before its last sample; it takes a batch as one observation.
        invocation: the number of this process, which measures the repeats from invocation · repeats on. BenchError
        after three groups in a row in which every method failed.
        """
        repetitions = range(invocation * repeats, (invocation + 1) * repeats)
        done, total, failed_in_a_row = 0, len(suite.samples) * repeats, 0
        for built in self.methods:  # what a method learns while it decodes, it learns anew on each suite
            built.method.reset()
        gc.collect()
        gc.freeze()  # what is loaded stays, so the garbage collector need not look at it again
        said = Said(suite.name, writer.said)
        for number, samples in enumerate(groups_of(suite.samples, self.size)):
            known: dict[Answers, Prepared] = {}
            for repeat in repetitions:
                if stop is not None and stop.by is not None and samples[0].turn == 1:  # never between two turns
                    return
                done += len(samples)
                if all((suite.name, sample.sample_id, repeat) in writer.completed for sample in samples):
                    continue
                places = williams.order(len(self.methods), number, self.seed, suite.name, repeat)
                order = [self.methods[i] for i in places]
                asked = self._asked(samples, number, order, repeat, said, known)
                by_method = self._measured(suite, asked, order, repeat, writer, invocation)
                lines = [line for lines in by_method for line in lines]
                said.learn(lines)
                if stop is not None:
                    stop.add([lines])
                failed_in_a_row = failed_in_a_row + 1 if all(line["error"] for line in lines) else 0
                watch(Group(suite.name, done, total, lines))
                if failed_in_a_row == MAX_FAILURES_IN_A_ROW:
                    many, remedy = (("samples", "--max-new-tokens or another --device") if self.size == 1
                                    else ("batches", "--batch-size or --max-new-tokens"))  # fmt: skip
                    raise BenchError(
                        f"{MAX_FAILURES_IN_A_ROW} {many} in a row failed in every method ({lines[-1]['error']}); "
                        f"what was measured is kept; try a smaller {remedy}"
                    )

    def _asked(
        self, samples: list[Sample], number: int, order: Sequence[Built], repeat: int, said: Said,
        known: dict[Answers, Prepared],
    ) -> list[Prepared]:  # fmt: skip
        """The inputs for each method. Methods that have answered the earlier turns alike get the very same tensors.

        known: what was prepared before, by these answers. A method whose earlier answer is lacking gets no inputs.
        """
        found = []
        for built in order:
            try:
                answers = said.before(samples, built.label, repeat)
            except ValueError as lacking:
                found.append(Prepared(samples, {}, [], [], number if self.size > 1 else None, failure=str(lacking)))
                continue
            if answers not in known:
                known[answers] = self.prepare(samples, number, answers if any(answers) else ())
            found.append(known[answers])
        return found

    def _measured(
        self, suite: Suite, asked: Sequence[Prepared], order: Sequence[Built], repeat: int, writer: RunWriter,
        invocation: int,
    ) -> list[list[Line]]:  # fmt: skip
        """Measure each method once, judge and record. Returns the lines of each method, in order.

        asked: the inputs of each method: the same for all, but of a later turn after answers that differ.
        """
        before, prepared = [versions(each.inputs) for each in asked], asked[0]
        try:
            by_method = [self._lines(suite, mine, built, repeat, place)
                         for place, (mine, built) in enumerate(zip(asked, order, strict=True))]  # fmt: skip
        except DeviceLost as lost:  # recorded as failed, so that a resumed run leaves these samples out
            for place, built in enumerate(order):
                for line in void(self._keys(suite, prepared, built, repeat, place), str(lost), prepared.number):
                    writer.append({**line, "flags": [], "losslessness": None, "invocation": invocation})
            raise DeviceLost(
                f"the device failed on sample {prepared.samples[0].sample_id} of {suite.name} ({lost}), and this "
                "process cannot use it any more; what was measured is kept"
            ) from None
        if [versions(each.inputs) for each in asked] != before:
            raise BenchError(f"internal error: a method changed its inputs {prepared.name}: the methods after it did "
                             "not get the same")  # fmt: skip
        theirs = next(mine for mine, built in zip(asked, order, strict=True) if built is self.methods[0])
        flags, groups = self.conditions.flags(), []
        for row, sample in enumerate(prepared.samples):
            group = [lines[row] for lines in by_method]
            group = self._ranked(sample, group, theirs.singles[row]) if theirs.singles else group
            for line, lines, mine in zip(group, by_method, asked, strict=True):
                judged = self._judge(suite, line, group, mine, [other["token_ids"] for other in lines], row,
                                     mine.after(row) == theirs.after(row))  # fmt: skip
                # All lines of the group carry the flags, because ratios are formed within it.
                writer.append({**line, "flags": flags, "losslessness": judged, "invocation": invocation})
            groups.append(group)
        return [list(lines) for lines in zip(*groups, strict=True)]

    def _keys(self, suite: Suite, prepared: Prepared, built: Built, repeat: int, order: int) -> list[Line]:
        """For each sample what identifies its line and, where `generate` samples, a seed of its own."""
        keys: list[Line] = [{"suite": suite.name, "sample_id": sample.sample_id, "method": built.label,
                             "repeat": repeat, "order": order,
                             **({"dialog": sample.dialog, "turn": sample.turn} if sample.dialog else {})}
                            for sample in prepared.samples]  # fmt: skip
        if self.samples:
            for key in keys:
                key["seed"] = seed_of(self.seed, suite.name, key["sample_id"], built.label, repeat)
        return keys

    def _lines(self, suite: Suite, prepared: Prepared, built: Built, repeat: int, order: int) -> list[Line]:
        """Decode with one method. Returns one line per sample. DeviceLost where the device cannot be used any more."""
        keys = self._keys(suite, prepared, built, repeat, order)
        if prepared.failure:
            return void(keys, prepared.failure, prepared.number)
        failure, lost = None, False
        gc.collect()
        gc.disable()
        try:
            self._check_length(suite, prepared.inputs)
            with self.conditions.span(built.label), PeakMemory(self.target.device) as peak:
                trace = self.decode(built, suite, prepared, seed=keys[0].get("seed"), phases=self.phases)
        except FAILURES as error:
            failure, lost = failure_text(error), device_lost(error)
            if prepared.number is not None:
                failure += f"; in a batch of {len(keys)}" + ("" if lost else ": try a smaller --batch-size")
        finally:
            gc.enable()
        if lost:
            raise DeviceLost(failure)
        if failure is not None:  # outside the except block, so that the traceback no longer holds the tensors
            if self.target.device.type == "cuda":
                torch.cuda.empty_cache()
            return void(keys, failure, prepared.number)
        for key, single in zip(keys, prepared.singles, strict=True):
            key["prompt_tokens"] = int(single["input_ids"].shape[1])
        lines = measured(keys, trace, self.target.decode, peak.result, prepared.read_s, prepared.number)
        for line in lines:
            if broken := check_line(line, self.limit(suite), self.eos):
                raise BenchError(f"internal error: {built.label} on sample {line['sample_id']}: {'; '.join(broken)}")
        return lines

    def _ranked(self, sample: Sample, lines: list[dict[str, Any]], inputs: dict[str, Any]) -> list[dict[str, Any]]:
        """Outside the clock: add ranks to the lines of a sample with options to rank. They fail if that fails."""
        if not sample.options:
            return lines
        try:
            return self.ranker.add(lines, sample, inputs, self.methods)
        except FAILURES as error:
            text = f"ranking: {failure_text(error)}"
        return [line if line["error"] else failed(line, text) for line in lines]

    def _judge(
        self, suite: Suite, line: dict[str, Any], group: Sequence[dict[str, Any]], prepared: Prepared,
        texts: Sequence[Any], row: int, same_context: bool,
    ) -> dict[str, Any] | None:  # fmt: skip
        """Outside the clock: compare a lossless method's output with the reference's. None: nothing to compare.

        texts: the method's token ids of all rows. same_context: whether both were asked after the same answers. If not,
        the reference decodes once more, after those of the method.
        """
        reference = next(other for other in group if other["method"] == self.methods[0].label)
        lossless = next(built.lossless for built in self.methods if built.label == line["method"])
        if line is reference or not lossless or self.samples or line["error"] or reference["error"]:
            return None  # where `generate` samples, losslessness is about the distribution of outputs
        batch = Batch(prepared.inputs, texts, row) if self.size > 1 else None
        try:
            theirs = reference["token_ids"]
            if not same_context:
                theirs = self.decode(self.methods[0], suite, prepared).rows[row].token_ids
            judged = judge_output(
                self.target.model, prepared.singles[row], line["token_ids"], theirs, limit=self.limit(suite),
                generation=self.generation, passes=[done[3] for done in line["rounds"]], batch=batch,
            )  # fmt: skip
        except FAULTS as error:  # out of memory, say: the line is kept, but its output stays unchecked
            judged = {"outcome": UNCHECKED, "reason": f"{type(error).__name__}: {str(error).strip()[:200]}"}
        return judged if same_context else {**judged, "own_context": True}

    def _check_length(self, suite: Suite, inputs: Mapping[str, Any]) -> None:
        """TooLong where prompt and limit exceed the model's positions, beyond which it fails or writes nonsense."""
        needed = inputs["input_ids"].shape[1] + self.limit(suite)
        if self.positions is not None and needed > self.positions:
            raise TooLong(f"prompt of {inputs['input_ids'].shape[1]} tokens + limit of {self.limit(suite)}, but the "
                          f"model has {self.positions} positions; lower --max-new-tokens")  # fmt: skip
