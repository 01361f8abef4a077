"""`transformers`' own greedy loop on a batch: the check that the batched `standard` is no slower."""

from typing import Any

from torch import Tensor

from fastvlm_bench.decoding.hf_generate import eos_of, timed_loop
from fastvlm_bench.machine.clock import Clock
from fastvlm_bench.records.trace import BatchGeneration, Generation, Round


class BatchHfGenerate:
    """Passed to `generate` as `custom_generate`, it runs the loop that would have run without it.

    That loop carries finished rows along, and tells nothing of single passes: each pass counts the same share of the
    decode seconds, divided among the rows that were not finished.
    """

    def __init__(self, *, clock: Clock | None = None) -> None:
        self.clock = clock or Clock()
        self.last: BatchGeneration | None = None

    def __call__(self, model: Any, input_ids: Tensor, **prepared: Any) -> Tensor:
        """Decode a batch, (B, T). `prepared` is what `generate` hands to every custom method. Returns all ids."""
        ran, eos = timed_loop(model, input_ids, prepared, self.clock), eos_of(prepared)
        outputs = []
        for tokens in ran.sequences[:, input_ids.shape[1] :].tolist():
            end = next((i + 1 for i, token in enumerate(tokens) if token in eos), len(tokens))
            outputs.append((tokens[:end], "eos" if tokens[end - 1] in eos else "length"))
        passes = ran.sequences.shape[1] - input_ids.shape[1] - 1
        pass_s = (ran.ended - ran.first) / max(passes, 1)
        alive = [sum(len(tokens) > place for tokens, _ in outputs) for place in range(1, passes + 1)]
        share = (ran.first - ran.began) / len(outputs)
        rows = []
        for tokens, stop in outputs:
            rounds = [Round(0, 0, 0, 1, 0.0, pass_s / alive[i]) for i in range(len(tokens) - 1)]
            rows.append(Generation(tokens, stop, share, None, share, sum(r.verify_s for r in rounds), rounds))
        self.last = BatchGeneration(rows, ran.first - ran.began, None, ran.ended - ran.first)
        return ran.sequences
