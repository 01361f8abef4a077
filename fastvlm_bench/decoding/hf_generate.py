"""`transformers`' own greedy loop, called exactly as `generate` calls it: the check that `standard` is no slower."""

from typing import Any

from torch import Tensor

from fastvlm_bench.clock import Clock
from fastvlm_bench.trace import Generation, Round


class HfGenerate:
    """Passed to `generate` as `custom_generate`, it runs the loop that would have run without it.

    The loop tells nothing of single tokens, so `last.rounds` shares the decode seconds evenly among them.
    """

    def __init__(self, *, clock: Clock | None = None) -> None:
        self.clock = clock or Clock()
        self.last: Generation | None = None

    def __call__(self, model: Any, input_ids: Tensor, **prepared: Any) -> Tensor:
        """Decode one sequence. `prepared` is what `generate` hands to every custom method. Returns all ids, (1, T)."""
        clock, began = self.clock, self.clock.synchronised()
        firsts: list[float] = []

        def after_prefill(*_: Any) -> None:
            handle.remove()
            firsts.append(clock.synchronised())

        handle = model.register_forward_hook(after_prefill)
        try:
            sequence: Tensor = model._sample(input_ids, **prepared)
        finally:
            handle.remove()
        ended, first = clock.synchronised(), firsts[0]
        tokens = sequence[0, input_ids.shape[1] :].tolist()
        eos = prepared["generation_config"].eos_token_id
        stop = "eos" if tokens[-1] in ([eos] if isinstance(eos, int) else eos or []) else "length"
        share = (ended - first) / max(len(tokens) - 1, 1)
        rounds = [Round(0, 0, 0, 1, 0.0, share) for _ in tokens[1:]]
        self.last = Generation(tokens, stop, first - began, None, first - began, ended - first, rounds)
        return sequence
