"""The decoding loop of `transformers`, called exactly as `generate` calls it, to check that `standard` is no slower.

Under the engine `graphs` it gets its own fast path where it has one: on CUDA its static cache, with which it compiles
the model.
"""

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import FloatTensor, LongTensor, Tensor
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteriaList

from fastvlm_bench.engine.graphs import BLOCK, Graphs
from fastvlm_bench.engine.method import Method
from fastvlm_bench.engine.rows import Row, settle, traced
from fastvlm_bench.engine.stopping import further, output_end
from fastvlm_bench.errors import NonFiniteLogits
from fastvlm_bench.machine.clock import Clock
from fastvlm_bench.machine.failures import device_lost
from fastvlm_bench.method_spec import MethodKind
from fastvlm_bench.models.compiled import graphs_compiled
from fastvlm_bench.records.trace import Round

STATIC_ON = frozenset({"cuda"})
"""Devices on which transformers compiles the passes on its static cache. On a CPU it does not, and they take longer
there than those on its growing cache."""

METHOD = MethodKind("transformers' own generate: the check that standard is no slower", lossless=True, group="checks")


class Finite(LogitsProcessor):
    """Checks the raw logits of every pass, as the other methods do, but reads them only after the last pass.

    Each pass leaves its largest logits on the device. To read them at once would make the loop wait for the device,
    which transformers' own loop avoids. `check` reads all of them in one transfer, within the decode seconds, to which
    the checks of the other methods belong, too.
    """

    def __init__(self) -> None:
        self.largest: list[Tensor] = []

    def __call__(self, input_ids: LongTensor, scores: FloatTensor) -> FloatTensor:
        self.largest.append(scores.amax(dim=-1))
        return scores

    def check(self) -> None:
        """NonFiniteLogits if the largest logit of any pass was NaN or infinite. Call it after the loop."""
        finite = torch.stack(self.largest).isfinite().all(dim=-1).tolist() if self.largest else []
        if not all(finite):
            raise NonFiniteLogits(f"the largest logit at new token {finite.index(False)} is not finite")


class FirstToken(StoppingCriteriaList):
    """The loop's own stopping criteria. It also reads the clock once the first token has reached the host.

    The loop calls the criteria right after it has chosen a token. There the other methods know their first token, too.
    """

    def __init__(self, criteria: StoppingCriteriaList, clock: Clock) -> None:
        super().__init__(criteria)
        self._clock = clock
        self.known: float | None = None

    def __call__(self, input_ids: LongTensor, scores: FloatTensor, **kwargs: Any) -> Any:
        if self.known is None:
            input_ids[:, -1].tolist()
            self.known = self._clock.now()
        return super().__call__(input_ids, scores, **kwargs)


@dataclass(frozen=True)
class Timed:
    """What the loop returned, the new tokens of each row, and the clock (s).

    returned: (B, T) with the prompt, or transformers' whole output where that was asked for.
    began: at the loop's start. first: when the first token was known on the host. ended: when the last one was.
    """

    returned: Any
    new: list[list[int]]
    began: float
    first: float
    ended: float


def timed_loop(model: Any, input_ids: Tensor, prepared: dict[str, Any], clock: Clock) -> Timed:
    """Run the loop that would have run without a custom method. NonFiniteLogits as the other methods raise it."""
    began = clock.synchronised()
    finite, first = Finite(), FirstToken(prepared.pop("stopping_criteria"), clock)
    processors = LogitsProcessorList([finite, *(prepared.pop("logits_processor", None) or [])])
    try:
        returned = model._sample(
            input_ids, logits_processor=processors, stopping_criteria=first, **prepared
        )  # fmt: skip
    except RuntimeError:  # when sampling, torch itself refuses to draw from NaN
        finite.check()
        raise
    finite.check()
    sequences: Tensor = getattr(returned, "sequences", returned)
    new = sequences[:, input_ids.shape[1] :].tolist()
    ended = clock.synchronised()
    assert first.known is not None
    return Timed(returned, new, began, first.known, ended)


class HfGenerate(Method):
    """Passed to `generate` as `custom_generate`, it runs the loop that would have run without it.

    That loop keeps finished rows in the batch, and it does not time single passes. So every pass is recorded with the
    same share of the decode seconds, divided among the rows that were not finished yet.
    """

    def generate(self, model: Any, decode: Any, **options: Any) -> None:
        """Call `generate`: under `graphs` with its static cache, or the growing one where that fails or is slow."""
        if not isinstance(self.engine, Graphs) or self.engine.refusal(self) or model.device.type not in STATIC_ON:
            super().generate(model, decode, **options)
            return
        failure, began, before = "", time.perf_counter(), graphs_compiled()
        try:
            super().generate(model, self._static(decode), **options, **static_cache(options))
        except Exception as error:  # a family's own code may not know such a cache, in whatever way
            if device_lost(error):
                raise
            failure = f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0][:160]}"
        if failure:
            super().generate(model, decode, **options)  # where this fails as well, it was not for the cache
            self.engine.gives_up(self, f"hf-generate: transformers' static cache fails for {type(model).__name__} "
                                       f"({failure}), so its growing cache")  # fmt: skip
        elif (made := graphs_compiled() - before) and self.engine.parts is None:  # else they are counted already
            self.engine.made(made, time.perf_counter() - began)

    def _static(self, decode: Any) -> Any:
        """`decode`, that first looks at the cache which `generate` has prepared: some models take no such wish."""

        def looked(model: Any, input_ids: Tensor, **prepared: Any) -> Any:
            cache = prepared.get("past_key_values")
            if not getattr(cache, "is_compileable", False):
                raise ValueError(f"generate prepared a {type(cache).__name__}")
            return decode(model, input_ids, **prepared)

        return looked

    def __call__(self, model: Any, input_ids: Tensor, **prepared: Any) -> Any:
        criteria, most = further(prepared["stopping_criteria"]), prepared["generation_config"].max_length
        ran = timed_loop(model, input_ids, prepared, self.clock)
        given = prepared["generation_config"].eos_token_id
        eos = [given] if isinstance(given, int) else list(given or [])
        padding = getattr(prepared["generation_config"], "_pad_token_tensor", None)
        filled = None if padding is None else set(padding.reshape(-1).tolist()).__contains__
        rows = list[Row]()
        for place, tokens in enumerate(ran.new):
            prompt, limit = input_ids[place : place + 1], most - input_ids.shape[1]
            end, stop = output_end(prompt, tokens, eos, limit, criteria, filled)
            rows.append(Row(place, 0, tokens[:end], stop))
        decode_s = ran.ended - ran.first
        passes = max(len(row.tokens) for row in rows) - 1
        for number in range(1, passes + 1):
            alive = [row for row in rows if len(row.tokens) > number]
            settle(alive, [Round(0, 0, 0, 1, 0.0, decode_s / passes)] * len(alive), decode_s / passes)
        self.trace = traced(rows, ran.began, ran.first, ran.ended)
        return ran.returned


def static_cache(options: dict[str, Any]) -> dict[str, Any]:
    """The options of `generate` for its static cache, with as many slots as `graphs` would give."""
    longest = options["input_ids"].shape[1] + options["max_new_tokens"]
    return {"cache_implementation": "static", "max_cache_len": -(-(longest + 1) // BLOCK) * BLOCK}
