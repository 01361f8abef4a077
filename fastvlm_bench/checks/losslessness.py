"""Why an output differs from the reference's: rounding of a near-tie, or a token the target would not have chosen.

The target reads the output one token per pass, in the loop of standard decoding. At each position, the logit of the
output's token is compared with the largest logit; their difference is the gap. A method that verifies several tokens
per pass rounds otherwise than single passes, which moves logits by a few units in the last place: a gap of that size
is a near-tie. Where a gap is larger, the target reads the output again, in blocks of several tokens. By how much this
changes the target's own gaps is noise; only a gap beyond the noise is a fault of the method.
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
    """One unit in the last place: the distance between neighbouring numbers of `dtype` at the magnitude of `value`."""
    info = torch.finfo(dtype)
    return float(info.eps) * 2.0 ** math.floor(math.log2(max(abs(value), float(info.tiny))))


class _Position(NamedTuple):
    """What the target says at one position of the output. All but `own` in logits.

    own: the token that the target would choose. gap: its logit minus that of the output's token. units: two units in
    the last place. noise: the difference that the self-check measured. most: the largest change of a gap by blocks
    that is taken for noise; a model in which blocks change logits by more is refused when it is loaded.
    """

    own: int
    gap: float
    units: float
    noise: float
    most: float

    def allowed(self, block_noise: float | None) -> float:
        """The largest gap that is a near-tie. block_noise: how much blocks change gaps; None if not measured."""
        return max(self.units + min(block_noise or 0.0, self.most), self.noise)


class _Forced(LogitsProcessor):
    """Records what the target says at each position, then leaves it only the output's token to choose."""

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
        most = 2 * tolerance(self.dtype) * largest  # the gap is between two logits
        self.positions.append(_Position(int(own), float(top - row[token]), units, self.noise * largest, most))
        forced = torch.full_like(scores, -math.inf)
        forced[0, token] = 0.0
        return forced

    def beyond(self, block_noise: float | None = None) -> list[int]:
        """The positions whose gap is too large for a near-tie, or NaN."""
        return [i for i, at in enumerate(self.positions) if not at.gap <= at.allowed(block_noise)]


def judge_output(
    model: Any, inputs: dict[str, Any], tokens: Sequence[int], reference: Sequence[int], *, noise: float = 0.0,
    limit: int, generation: Mapping[str, Any] = GREEDY,
) -> dict[str, Any]:  # fmt: skip
    """Compare an output (new token ids) with that of the reference. Both were decoded greedily.

    noise: the largest difference between logits of a verification and of full passes that the self-check found, as a
    share of the largest logit. limit: the token limit of both. generation: the options of `generate` for both.

    Returns `outcome` and, where the ids differ, the following. Gaps, epsilon and noise are in logits.
    index         the first violating token, or if there is none the first that differs from the reference
    token         the output's token there
    expected      the token that the target itself chooses there, after the output's tokens before it
    gap           the logit of `expected` minus that of `token`
    epsilon       the largest gap that is a near-tie: 2 units in the last place of the model's dtype at the magnitude
                  of the largest logit, or the noise if that is larger
    block_noise   only where a gap beyond the first token was larger: how much blocks change the target's gaps. It is
                  added to the 2 units, up to twice the self-check's tolerance (a gap is between two logits)
    An output of the wrong length, that is past an EOS or shorter than the limit without one, is a violation; `token`,
    `expected`, `gap` and `epsilon` are then None.
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
    if beyond and beyond[0] > 0:  # the first token comes from the prefill, never from a block
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
    """How much the target's gaps change, in logits, when it reads `tokens` in blocks instead of one by one.

    The blocks have 2, 4, 8, … and all tokens. gaps: at each position the largest logit minus that of the given token,
    from passes over one token. Returns the largest change over all block sizes and all positions but the first, which
    the prefill computes. None where the target cannot read in blocks or gives NaN there, since noise that was not
    measured excuses nothing.
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
