"""Why an output differs from the reference's: rounding of a near-tie, or a token the target would not have chosen.

The output is forced through the target one token at a time, in the very loop of standard decoding, and at each
position its token's logit is compared with the largest. Rounding a block of tokens unlike single ones moves logits by
a few units in the last place. Where a gap is larger, the target itself reads the output in blocks: only what that does
not explain is a fault of the method.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from fastvlm_bench.checks.read_back import read_back
from fastvlm_bench.checks.self_check import tolerance
from fastvlm_bench.decoding.standard import Standard
from fastvlm_bench.engine.measure import GREEDY
from fastvlm_bench.errors import UsageError

IDENTICAL, NEAR_TIE, VIOLATION, UNCHECKED = "identical", "near-tie", "violation", "unchecked"
ULPS = 2


def ulp(value: float, dtype: torch.dtype) -> float:
    """The distance of neighbouring numbers of `dtype` at this magnitude."""
    info = torch.finfo(dtype)
    return float(info.eps) * 2.0 ** math.floor(math.log2(max(abs(value), float(info.tiny))))


class _Position(NamedTuple):
    """The target's own token, the given one's gap to it, what two units in the last place and the noise allow, and
    the most that blocks may move a gap: what moves logits further is refused at loading, and no noise here."""

    own: int
    gap: float
    units: float
    noise: float
    most: float

    def allowed(self, block_noise: float | None) -> float:
        return max(self.units + min(block_noise or 0.0, self.most), self.noise)


class _Forced(LogitsProcessor):
    """Writes down what the target says at each position, then leaves it no choice but the given token."""

    def __init__(self, tokens: Sequence[int], dtype: torch.dtype, noise: float) -> None:
        self.tokens, self.dtype, self.noise = tokens, dtype, noise
        # What precedes the answer is not always the prompt: an encoder-decoder's answer follows a start token.
        self.prompt_length: int | None = None
        self.positions: list[_Position] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if self.prompt_length is None:
            self.prompt_length = input_ids.shape[1]
        token = self.tokens[input_ids.shape[1] - self.prompt_length]
        row = scores[0].float()
        top, own = row.max(dim=-1)
        largest = float(row[torch.isfinite(row)].abs().max()) if bool(torch.isfinite(top)) else math.nan
        units = ULPS * ulp(float(top), self.dtype) if largest == largest else math.nan
        most = 2 * tolerance(self.dtype) * largest  # each of the two logits by that much
        self.positions.append(_Position(int(own), float(top - row[token]), units, self.noise * largest, most))
        forced = torch.full_like(scores, -math.inf)
        forced[0, token] = 0.0
        return forced

    def beyond(self, block_noise: float | None = None) -> list[int]:
        """Positions whose gap no rounding explains; NaN is beyond, too."""
        return [i for i, at in enumerate(self.positions) if not at.gap <= at.allowed(block_noise)]


def judge_output(
    model: Any, inputs: dict[str, Any], tokens: Sequence[int], reference: Sequence[int], *, noise: float = 0.0,
    limit: int, generation: Mapping[str, Any] = GREEDY,
) -> dict[str, Any]:  # fmt: skip
    """Compare an output (new token ids) with the reference's, greedy decoding.

    noise: how far block-wise logits lie from single ones, relative to the largest: what the self-check measured.
    limit: the token limit of both. generation: as given to `generate` for both. Returns `outcome`, and where the ids
    differ: `index` of the first violating token (of the first that differs from the reference, where none violates),
    `token`, `expected` (the target's own there), `gap` (logits) and `epsilon`, the largest gap that is a near-tie: 2
    units in the last place of the model's dtype at that magnitude, or the noise if that is larger. Where a gap is
    beyond it, `block_noise` (logits) is measured and added to the 2 units, up to what the self-check tolerates. For
    an output of the wrong length all but `outcome` and `index` are None: it is a violation.
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
    beyond, noise_in_blocks = forced.beyond(), None
    if beyond and beyond[0] > 0:  # the first token comes of the prompt's pass, for every method
        gaps = [at.gap for at in forced.positions]
        noise_in_blocks = block_noise(model, inputs, tokens, gaps, generation)
        beyond = forced.beyond(noise_in_blocks)
    index = beyond[0] if beyond else first
    at = forced.positions[index]
    return {
        "outcome": VIOLATION if beyond else NEAR_TIE, "index": index, "token": tokens[index], "expected": at.own,
        "gap": at.gap, "epsilon": at.allowed(noise_in_blocks),
        **({} if noise_in_blocks is None else {"block_noise": noise_in_blocks}),
    }  # fmt: skip


def block_noise(
    model: Any, inputs: dict[str, Any], tokens: Sequence[int], gaps: Sequence[float], generation: Mapping[str, Any]
) -> float | None:
    """How far the target's own gap moves when it reads `tokens` in blocks of 2, 4, 8, … and all at once, in logits.

    gaps: largest logit minus the given token's, at each position, of passes over one token. Returns the largest
    difference to them over all positions and sizes of block but the first position, which belongs to the prompt's
    pass; None where the target cannot read in blocks, or says NaN there: what was not measured excuses nothing.
    """
    following = torch.tensor(tokens[1:], device=model.device)[:, None]
    single, noise, block = torch.tensor(gaps[1:]), 0.0, 1
    while block < len(following):
        block = min(2 * block, len(following))
        try:
            rows = read_back(model, inputs, tokens, block, generation)
        except (UsageError, RuntimeError):
            return None
        moved = float(((rows.amax(dim=-1) - rows.gather(1, following)[:, 0]).cpu() - single).abs().max())
        if not math.isfinite(moved):
            return None
        noise = max(noise, moved)
    return noise


def _eos(ids: int | list[int] | None) -> frozenset[int]:
    return frozenset([ids] if isinstance(ids, int) else ids or [])
