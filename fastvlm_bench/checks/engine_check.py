"""Whether the engine `graphs` says what `eager` says: tokens and logits of one answer, before anything is measured.

Methods are later compared with the reference, which the same engine decodes. So a fault that both share would not be
seen there: it must be seen here.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from fastvlm_bench.checks.losslessness import judge_output
from fastvlm_bench.checks.self_check import Plain, limit_of
from fastvlm_bench.decoding import hf_generate
from fastvlm_bench.decoding.standard import Standard
from fastvlm_bench.engine.batch_inputs import collate
from fastvlm_bench.engine.engine import Eager
from fastvlm_bench.engine.graphs import Graphs
from fastvlm_bench.engine.measure import measure
from fastvlm_bench.engine.method import Method
from fastvlm_bench.engine.session import Session
from fastvlm_bench.records.trace import Round

BLOCK = 4
"""So many tokens are read as one block, to know how far the model's own logits move by rounding."""
SAME = ("identical", "near-tie")
"""Outcomes of `judge_output` that rounding explains."""


class Compared(NamedTuple):
    """outcome: of the tokens, as `judge_output` says it. difference, limit: of logits, as a share of the largest."""

    outcome: str
    difference: float
    limit: float

    @property
    def passed(self) -> bool:
        return self.outcome in SAME and self.difference <= self.limit

    def __str__(self) -> str:
        return f"{self.outcome}, logits differ by {self.difference:.0e} of the largest (limit {self.limit:.0e})"


class Told(Standard):
    """Standard decoding that keeps its logits, (tokens - 1, vocab)."""

    def __init__(self) -> None:
        super().__init__()
        self.logits: list[Tensor] = []

    def round(self, session: Session) -> list[Round]:
        forward = session.forward

        def listened(*args: Any, **kwargs: Any) -> Any:
            outputs = forward(*args, **kwargs)
            self.logits.append(outputs.logits[0, -1].float().clone())
            return outputs

        session.forward = listened  # type: ignore[method-assign]
        try:
            return super().round(session)
        finally:
            del session.forward


def engine_check(model: Any, inputs: Mapping[str, Any], engine: Eager, limit: int) -> Compared:
    """Decode one answer of at most `limit` tokens by `eager` and by `engine`, and compare both.

    Logits are compared up to the first token that differs. They may differ by as much as verification may: by twice
    what the model's own blocks differ from its single passes, and by two units in the last place.
    """
    found = []
    for each in (Eager(), engine):
        method = Told()
        method.engine = each
        tokens = measure(method, model, dict(inputs), limit).rows[0].token_ids
        found.append((tokens, method.logits))
    (expected, plain), (said, own) = found
    outcome = judge_output(model, dict(inputs), said, expected, limit=limit)["outcome"]
    if not plain or not own:
        return Compared(outcome, 0.0, 0.0)
    same = next((i for i, (a, b) in enumerate(zip(expected, said, strict=False)) if a != b), len(expected))
    pairs = list(zip(plain, own, strict=False))[: max(same, 1)]
    scale = max(float(a.abs().max()) for a, _ in pairs)
    difference = max(float((a - b).abs().max()) for a, b in pairs) / scale
    # A short answer is read again and again: how far rounding moves logits does not depend on the text.
    block = (expected * BLOCK)[:BLOCK]
    moved = float(Plain(model, inputs)(block).moved.max())
    return Compared(outcome, difference, limit_of(moved, scale, model.dtype))


def rows_check(model: Any, singles: Sequence[Mapping[str, Any]], pad: int, engine: Eager, limit: int) -> str:
    """Decode a batch by `eager` and by `engine`. Returns the first outcome that rounding does not explain, or the last.

    singles: the inputs of each row. pad: the id that fills up shorter prompts.
    """
    said, outcome = [], SAME[0]
    for each in (Eager(), engine):
        method = Standard()
        method.engine = each
        batch = collate([dict(single) for single in singles], pad)
        said.append([row.token_ids for row in measure(method, model, batch, limit).rows])
    for single, expected, own in zip(singles, *said, strict=True):
        outcome = judge_output(model, dict(single), own, expected, limit=limit)["outcome"]
        if outcome not in SAME:
            break
    return outcome


def static_check(model: Any, inputs: Mapping[str, Any], method: Method, engine: Graphs, limit: int) -> None:
    """Let `hf-generate` decode one answer with a growing and a static cache; refuse the latter if they differ.

    Nothing is to be checked on devices on which it decodes with the growing one anyhow.
    """
    if model.device.type not in hf_generate.STATIC_ON:
        return
    said = []
    for each in (Eager(), engine):
        method.engine = each
        said.append(measure(method, model, dict(inputs), limit).rows[0].token_ids)
    outcome = judge_output(model, dict(inputs), said[1], said[0], limit=limit)["outcome"]
    if outcome not in SAME:
        engine.gives_up(method, f"hf-generate: transformers' static cache gives another text ({outcome}) than its "
                                f"growing one for {type(model).__name__}, which is used instead")  # fmt: skip
