"""Why an output differs from the reference's: rounding of a near-tie, or a token the target would not have chosen.

The output is forced through the target one token at a time, in the very loop of standard decoding, and at each
position its token's logit is compared with the largest. Rounding a block of tokens unlike single ones moves logits by
a few units in the last place; anything beyond that is a fault of the method.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from fastvlm_bench.decoding.measure import GREEDY
from fastvlm_bench.decoding.standard import Standard

IDENTICAL, NEAR_TIE, VIOLATION, UNCHECKED = "identical", "near-tie", "violation", "unchecked"
ULPS = 2


def ulp(value: float, dtype: torch.dtype) -> float:
    """The distance of neighbouring numbers of `dtype` at this magnitude."""
    info = torch.finfo(dtype)
    return float(info.eps) * 2.0 ** math.floor(math.log2(max(abs(value), float(info.tiny))))


class _Forced(LogitsProcessor):
    """Writes down what the target says at each position, then leaves it no choice but the given token."""

    def __init__(self, tokens: Sequence[int], dtype: torch.dtype, noise: float) -> None:
        self.tokens, self.dtype, self.noise = tokens, dtype, noise
        # What precedes the answer is not always the prompt: an encoder-decoder's answer follows a start token.
        self.prompt_length: int | None = None
        self.positions: list[tuple[int, float, float]] = []  # the target's own token, the gap, what is allowed

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if self.prompt_length is None:
            self.prompt_length = input_ids.shape[1]
        token = self.tokens[input_ids.shape[1] - self.prompt_length]
        row = scores[0].float()
        top, own = row.max(dim=-1)
        largest = float(row[torch.isfinite(row)].abs().max()) if bool(torch.isfinite(top)) else math.nan
        allowed = max(ULPS * ulp(float(top), self.dtype), self.noise * largest) if largest == largest else math.nan
        self.positions.append((int(own), float(top - row[token]), allowed))
        forced = torch.full_like(scores, -math.inf)
        forced[0, token] = 0.0
        return forced


def judge_output(
    model: Any, inputs: dict[str, Any], tokens: Sequence[int], reference: Sequence[int], *, noise: float = 0.0,
    limit: int, generation: Mapping[str, Any] = GREEDY,
) -> dict[str, Any]:  # fmt: skip
    """Compare an output (new token ids) with the reference's, greedy decoding.

    noise: how far block-wise logits lie from single ones, relative to the largest: what the self-check measured.
    limit: the token limit of both. generation: as given to `generate` for both. Returns `outcome`, and where the ids
    differ: `index` of the first violating token
    (of the first that differs from the reference, where none violates), `token`, `expected` (the target's own there),
    `gap` (logits) and `epsilon`, the largest gap that is a near-tie: 2 units in the last place of the model's dtype at
    that magnitude, or the noise if that is larger. For an output of the wrong length all but `outcome` and `index` are
    None: it is a violation.
    """
    if list(tokens) == list(reference):
        return {"outcome": IDENTICAL}
    first = next((i for i, (a, b) in enumerate(zip(tokens, reference, strict=False)) if a != b),
                 min(len(tokens), len(reference)))  # fmt: skip
    eos = _eos(generation.get("eos_token_id", model.generation_config.eos_token_id))
    ended = [i for i, token in enumerate(tokens) if token in eos]
    if not tokens or (ended[0] != len(tokens) - 1 if ended else len(tokens) != limit):
        index = ended[0] + 1 if ended else len(tokens)
        return {"outcome": VIOLATION, "index": index, "token": None, "expected": None, "gap": None, "epsilon": None}
    forced = _Forced(tokens, model.dtype, noise)
    with torch.inference_mode():
        model.generate(
            **inputs, max_new_tokens=len(tokens), custom_generate=Standard(),
            logits_processor=LogitsProcessorList([forced]), **generation,
        )  # fmt: skip
    beyond = [i for i, (_, gap, allowed) in enumerate(forced.positions) if not gap <= allowed]  # NaN is beyond, too
    index = beyond[0] if beyond else first
    expected, gap, allowed = forced.positions[index]
    return {
        "outcome": VIOLATION if beyond else NEAR_TIE, "index": index, "token": tokens[index], "expected": expected,
        "gap": gap, "epsilon": allowed,
    }  # fmt: skip


def _eos(ids: int | list[int] | None) -> frozenset[int]:
    return frozenset([ids] if isinstance(ids, int) else ids or [])
