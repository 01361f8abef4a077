"""`transformers`' own greedy loop, called exactly as `generate` calls it: the check that `standard` is no slower."""

from dataclasses import dataclass
from typing import Any

from torch import FloatTensor, LongTensor, Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from fastvlm_bench.errors import NonFiniteLogits
from fastvlm_bench.machine.clock import Clock
from fastvlm_bench.records.trace import Generation, Round


class Finite(LogitsProcessor):
    """Looks at the raw logits of every step, as the other methods do, and speaks once, after the loop.

    A flag a step stays on the device: reading it there and then would make the loop wait, which it does not do itself.
    """

    def __init__(self) -> None:
        self.flags: list[Tensor] = []

    def __call__(self, input_ids: LongTensor, scores: FloatTensor) -> FloatTensor:
        self.flags.append(scores.amax(dim=-1).isfinite().all())
        return scores

    def check(self) -> None:
        """NonFiniteLogits if any step had a NaN or an infinite largest logit."""
        for step, flag in enumerate(self.flags):
            if not bool(flag):
                raise NonFiniteLogits(f"the largest logit at new token {step} is not finite")


@dataclass(frozen=True)
class Timed:
    """What the loop returned, (B, T) with the prompt, and the clock at its begin, after the prefill, and at its end."""

    sequences: Tensor
    began: float
    first: float
    ended: float


def timed_loop(model: Any, input_ids: Tensor, prepared: dict[str, Any], clock: Clock) -> Timed:
    """Run the loop that would have run without a custom method. NonFiniteLogits as the other methods raise it."""
    began = clock.synchronised()
    firsts: list[float] = []

    def after_prefill(*_: Any) -> None:
        handle.remove()
        firsts.append(clock.synchronised())

    finite = Finite()
    processors = LogitsProcessorList([finite, *(prepared.pop("logits_processor", None) or [])])
    handle = model.register_forward_hook(after_prefill)
    try:
        sequences: Tensor = model._sample(input_ids, logits_processor=processors, **prepared)
    except RuntimeError:  # where tokens are drawn, torch itself refuses such probabilities
        finite.check()
        raise
    finally:
        handle.remove()
    ended = clock.synchronised()
    finite.check()
    return Timed(sequences, began, firsts[0], ended)


def eos_of(prepared: dict[str, Any]) -> list[int]:
    """The ids that end an answer."""
    given = prepared["generation_config"].eos_token_id
    return [given] if isinstance(given, int) else list(given or [])


class HfGenerate:
    """Passed to `generate` as `custom_generate`, it runs the loop that would have run without it.

    The loop tells nothing of single tokens, so `last.rounds` shares the decode seconds evenly among them.
    """

    def __init__(self, *, clock: Clock | None = None) -> None:
        self.clock = clock or Clock()
        self.last: Generation | None = None

    def __call__(self, model: Any, input_ids: Tensor, **prepared: Any) -> Tensor:
        """Decode one sequence. `prepared` is what `generate` hands to every custom method. Returns all ids, (1, T)."""
        ran = timed_loop(model, input_ids, prepared, self.clock)
        tokens = ran.sequences[0, input_ids.shape[1] :].tolist()
        stop = "eos" if tokens[-1] in eos_of(prepared) else "length"
        decode_s = ran.ended - ran.first
        rounds = [Round(0, 0, 0, 1, 0.0, decode_s / (len(tokens) - 1)) for _ in tokens[1:]]
        prefill_s = ran.first - ran.began
        self.last = Generation(tokens, stop, prefill_s, None, prefill_s, decode_s, rounds)
        return ran.sequences
