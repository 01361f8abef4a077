"""The decoding loop of `transformers`, called exactly as `generate` calls it, to check that `standard` is no slower."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import FloatTensor, LongTensor, Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from fastvlm_bench.engine.method import Method
from fastvlm_bench.engine.rows import Row, settle, traced
from fastvlm_bench.errors import NonFiniteLogits
from fastvlm_bench.machine.clock import Clock
from fastvlm_bench.records.trace import Round


class Finite(LogitsProcessor):
    """Checks the raw logits of every pass, as the other methods do, but reports only after the loop.

    Each pass leaves a flag on the device. To read it at once would make the loop wait for the device, which
    transformers' own loop avoids.
    """

    def __init__(self) -> None:
        self.flags: list[Tensor] = []

    def __call__(self, input_ids: LongTensor, scores: FloatTensor) -> FloatTensor:
        self.flags.append(scores.amax(dim=-1).isfinite().all())
        return scores

    def check(self) -> None:
        """NonFiniteLogits if the largest logit of any pass was NaN or infinite. Call it after the loop."""
        for step, flag in enumerate(self.flags):
            if not bool(flag):
                raise NonFiniteLogits(f"the largest logit at new token {step} is not finite")


@dataclass(frozen=True)
class Timed:
    """What the loop returned, (B, T) with the prompt, and the clock (s) at its start, after prefill and at its end."""

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
    except RuntimeError:  # when sampling, torch itself refuses to draw from NaN
        finite.check()
        raise
    finally:
        handle.remove()
    ended = clock.synchronised()
    finite.check()
    return Timed(sequences, began, firsts[0], ended)


class HfGenerate(Method):
    """Passed to `generate` as `custom_generate`, it runs the loop that would have run without it.

    That loop keeps finished rows in the batch, and it does not time single passes. So every pass is recorded with the
    same share of the decode seconds, divided among the rows that were not finished yet.
    """

    def __call__(self, model: Any, input_ids: Tensor, **prepared: Any) -> Tensor:
        ran = timed_loop(model, input_ids, prepared, self.clock)
        given = prepared["generation_config"].eos_token_id
        eos = [given] if isinstance(given, int) else list(given or [])
        new = ran.sequences[:, input_ids.shape[1] :].tolist()
        rows = [_row(place, tokens, eos) for place, tokens in enumerate(new)]
        decode_s = ran.ended - ran.first
        passes = max(len(row.tokens) for row in rows) - 1
        for number in range(1, passes + 1):
            alive = [row for row in rows if len(row.tokens) > number]
            settle(alive, [Round(0, 0, 0, 1, 0.0, decode_s / passes)] * len(alive), decode_s / passes)
        self.trace = traced(rows, ran.first - ran.began, decode_s)
        return ran.sequences


def _row(place: int, tokens: list[int], eos: Sequence[int]) -> Row:
    """A row as the loop returned it, cut after its EOS: what follows is padding up to the end of the longest row."""
    end = next((i + 1 for i, token in enumerate(tokens) if token in eos), len(tokens))
    return Row(place, 0, tokens[:end], "eos" if tokens[end - 1] in eos else "length")
