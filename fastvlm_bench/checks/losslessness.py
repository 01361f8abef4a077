"""Why an output differs from the reference's: rounding, the target's own unsteadiness, or a fault of the method.

The plain target reads the output one token per pass, in the loop of transformers. At each position, the logit of the
output's token is compared with the largest logit; their difference is the gap. A method that verifies several tokens
per pass rounds otherwise than single passes, which moves logits by a few units in the last place: a gap of that size
is a near-tie. Where a gap is larger, the plain target reads the output again, in blocks of several tokens, and in the
batch if there was one. By how much this changes the target's own gaps is noise. It excuses a gap; nothing that the
method itself computed does.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastvlm_bench.checks.plain_passes import FAULTS, read
from fastvlm_bench.checks.rounding import ULPS, rounding, ulp
from fastvlm_bench.engine.measure import GREEDY

IDENTICAL, NEAR_TIE, VIOLATION, UNCHECKED = "identical", "near-tie", "violation", "unchecked"
UNSTEADY = "unsteady"
"""The output's token is the target's own choice where it reads several tokens at once, and not where it reads one, by
more than rounding: a sparse attention has chosen other tokens, say. That is the model's doing."""


class Batch(NamedTuple):
    """The batch in which a row was decoded: its inputs, the outputs of all rows, and the row's number."""

    inputs: Mapping[str, Any]
    texts: Sequence[Sequence[int]]
    row: int


class _Position(NamedTuple):
    """What the target says at one position of the output. All but `own` in logits.

    own: the token that the target would choose. gap: its logit minus that of the output's token. units: two units in
    the last place. most: the largest change of a gap that rounding explains.
    """

    own: int
    gap: float
    units: float
    most: float


def judge_output(
    model: Any, inputs: dict[str, Any], tokens: Sequence[int], reference: Sequence[int], *,
    limit: int, generation: Mapping[str, Any] = GREEDY, passes: Sequence[int] = (), batch: Batch | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Compare an output (new token ids) with that of the reference. Both were decoded greedily.

    inputs: of the sample alone. limit: the token limit of both. generation: the options of `generate` for both.
    passes: how many tokens the method emitted in each round. batch: the batch in which it decoded the output, if it
    did.

    Returns `outcome` and, where the ids differ, the following. Gaps, epsilon and noise are in logits.
    index         the first violating token; or the first unsteady one; or the first that differs from the reference
    token         the output's token there
    expected      the token that the target itself chooses there, after the output's tokens before it
    gap           the logit of `expected` minus that of `token`
    epsilon       the largest gap that is a near-tie: 2 units in the last place of the model's dtype at the magnitude
                  of the largest logit, and the largest noise that rounding explains
    block_noise   only where a gap was larger than 2 units: the most that blocks change one of the plain target's gaps
    batch_noise   likewise, for a batch: the most that the plain target's own batch changes one
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
    positions: list[_Position] = []
    read(model, inputs, [tokens], lambda _, i, row: positions.append(_position(row, tokens[i], model.dtype)),
         generation=generation, limit=limit)  # fmt: skip
    # What precedes the first difference is the reference's own, so only what follows is on trial.
    trial = range(first, len(tokens))
    blocks = rows = None
    if any(not positions[i].gap <= positions[i].units for i in trial):
        gaps = [at.gap for at in positions]
        blocks = block_noise(model, inputs, tokens, gaps, generation, limit, passes) if len(tokens) > 1 else None
        rows = batch_noise(model, batch, gaps, generation, limit) if batch is not None else None
    # The first token comes from the prefill, never from a block, so no noise of blocks excuses it.
    rounded = [at.units + _rounding(blocks, positions) * (i > 0) + _rounding(rows, positions)
               for i, at in enumerate(positions)]  # fmt: skip
    beyond = [i for i in trial if not positions[i].gap <= rounded[i]]
    # Where the target itself moves this very gap, by more than rounding can, the choice is the target's own.
    turned = {i: [noise[i] for noise in (blocks, rows) if noise and noise[i] > positions[i].most] for i in beyond}
    wrong = [i for i in beyond if not positions[i].gap <= rounded[i] + sum(turned[i])]
    index = next(iter([*wrong, *beyond]), first)
    at = positions[index]
    return {
        "outcome": VIOLATION if wrong else UNSTEADY if beyond else NEAR_TIE, "index": index, "token": tokens[index],
        "expected": at.own, "gap": at.gap, "epsilon": rounded[index],
        **({"block_noise": max(blocks)} if blocks else {}), **({"batch_noise": max(rows)} if rows else {}),
    }  # fmt: skip


def _rounding(noise: Sequence[float] | None, positions: Sequence[_Position]) -> float:
    """The largest change of a gap that rounding explains. noise: the change at each position; None if not measured."""
    return max((by for by, at in zip(noise or [], positions, strict=False) if by <= at.most), default=0.0)


def _position(row: Tensor, token: int, dtype: torch.dtype) -> _Position:
    top, own = row.max(dim=-1)
    known = bool(torch.isfinite(top))
    largest = float(row[torch.isfinite(row)].abs().max()) if known else math.nan
    units = ULPS * ulp(float(top), dtype) if known else math.nan
    return _Position(int(own), float(top - row[token]), units, 2 * rounding(dtype) * largest)  # between two logits


def block_noise(
    model: Any, inputs: Mapping[str, Any], tokens: Sequence[int], gaps: Sequence[float],
    generation: Mapping[str, Any], limit: int | None = None, passes: Sequence[int] = (),
) -> list[float] | None:  # fmt: skip
    """By how many logits each of the plain target's gaps changes at most when it reads `tokens` in blocks.

    The blocks have 2, 4, 8, … and all tokens, and as many as the method's `passes`. gaps: at each position the largest
    logit minus that of the given token, from passes over one token. The first token comes from the prefill, never from
    a block, and does not count. None where the target cannot read in blocks or gives NaN there, since noise that was
    not measured excuses nothing.
    """
    sizes: list[int | Sequence[int]] = [passes] if max(passes, default=1) > 1 else []
    block = 1
    while block < len(tokens) - 1:
        block = min(2 * block, len(tokens) - 1)
        sizes.append(block)
    at = [0.0] * len(tokens)
    for size in sizes:
        moved = _moved(model, inputs, [tokens], 0, gaps, generation, limit, size)
        if moved is None:
            return None
        at = [0.0, *(max(pair) for pair in zip(at[1:], moved[1:], strict=True))]
    return at


def batch_noise(
    model: Any, batch: Batch, gaps: Sequence[float], generation: Mapping[str, Any], limit: int | None = None
) -> list[float] | None:
    """By how many logits each of the plain target's gaps in one row changes when it reads the row in its batch.

    gaps: of the row alone, from passes over one token. None where transformers cannot read the batch, or gives NaN.
    """
    return _moved(model, batch.inputs, batch.texts, batch.row, gaps, generation, limit, 1)


def _moved(
    model: Any, inputs: Mapping[str, Any], texts: Sequence[Sequence[int]], row: int, gaps: Sequence[float],
    generation: Mapping[str, Any], limit: int | None, block: int | Sequence[int],
) -> list[float] | None:  # fmt: skip
    moved: list[float] = []

    def see(place: int, index: int, logits: Tensor) -> None:
        if place == row:
            moved.append(abs(float(logits.max() - logits[texts[row][index]]) - gaps[index]))

    try:
        read(model, inputs, texts, see, block=block, generation=generation, limit=limit)
    except FAULTS:
        return None
    return moved if all(map(math.isfinite, moved)) else None


def _eos(ids: int | list[int] | None) -> frozenset[int]:
    return frozenset([ids] if isinstance(ids, int) else ids or [])
