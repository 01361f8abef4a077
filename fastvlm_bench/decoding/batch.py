"""The decoding methods for several sequences at once: each row's output is what it would be alone.

The same loops as standard.py, fastvlm.py and early_exit.py over a `BatchSession`. Drafting is rectangular: a pass
costs the same whichever rows want it, so a row in doubt drafts on while others are sure, and each row accepts what
stands of its own. Passed to `generate` as `custom_generate`, with prompts padded on the left.
"""

from typing import Any

import torch
from torch import Tensor

from fastvlm_bench.drafts.imitation_head import Draft
from fastvlm_bench.engine.accept import accept_greedy
from fastvlm_bench.engine.batch_session import BatchSession, Row
from fastvlm_bench.engine.layer_gate import LayerGate, Mode
from fastvlm_bench.machine.clock import Clock
from fastvlm_bench.records.trace import BatchGeneration, Round

SURE_SHARE = 0.5
"""Chosen on the embedded model, batches of 4 to 16 of two suites: half was best or near best in most cells."""


class BatchStandard:
    """One full pass a token for all rows that are not finished. `last` holds the latest traces."""

    def __init__(self, *, clock: Clock | None = None) -> None:
        self.clock = clock or Clock()
        self.last: BatchGeneration | None = None

    def __call__(self, model: Any, input_ids: Tensor, **prepared: Any) -> Tensor:
        """Decode a batch, (B, T). `prepared` is what `generate` hands over. Returns all ids, padded on the right."""
        clock, began = self.clock, self.clock.synchronised()
        session = BatchSession(model, input_ids, clock=clock, **prepared)
        session.prefill()
        first = clock.now()
        while session.rows:
            self._token(session)
        self.last = _trace(session, clock.synchronised(), began, first)
        return session.sequences(input_ids)

    def _token(self, session: BatchSession) -> None:
        started = self.clock.now()
        outputs = session.forward_rows(1, None, session.kwargs)
        tokens = session.choose_rows(outputs.logits)
        seconds = self.clock.now() - started
        rows = list(session.rows)
        session.emit_rows(tokens)
        session.align(outputs, tokens, 1)
        session.settle(rows, [Round(0, 0, 0, 1, 0.0, seconds) for _ in rows], self.clock.now() - started)


class BatchEarlyExit:
    """The prompts pass all layers; every further token comes from the draft, never verified. Not lossless."""

    def __init__(self, draft: Draft, *, clock: Clock | None = None) -> None:
        self.draft, self.clock = draft, clock or Clock()
        self.last: BatchGeneration | None = None

    def __call__(self, model: Any, input_ids: Tensor, **prepared: Any) -> Tensor:
        """Decode a batch, (B, T). `prepared` is what `generate` hands over. Returns all ids, padded on the right."""
        clock, began = self.clock, self.clock.synchronised()
        gate = LayerGate.of(model, self.draft)
        session = BatchSession(model, input_ids, gate, clock=clock, **prepared)
        with gate.installed(self.draft.new_cache()):
            session.prefill()
            first = clock.now()
            gate.mode = Mode.DRAFT
            if session.rows:
                session.kwargs["past_key_values"] = gate.draft_view(session.cache)
            while session.rows:
                self._token(session, gate)
            ended = clock.synchronised()
        self.last = _trace(session, ended, began, first)
        return session.sequences(input_ids)

    def _token(self, session: BatchSession, gate: LayerGate) -> None:
        started = self.clock.now()
        outputs = session.forward_rows(1, None, session.kwargs)
        tokens = session.choose_rows(outputs.logits)
        seconds = self.clock.now() - started
        gate.kept.clear()
        rows = list(session.rows)
        session.emit_rows(tokens)
        session.align(outputs, tokens, 1)
        session.settle(rows, [Round(1, 0, 0, 1, seconds, 0.0) for _ in rows], self.clock.now() - started)


class BatchFastVLM:
    """Self-speculative decoding with ragged acceptance. `last` holds the latest traces.

    gamma, stop_below: as in FastVLM; drafting stops once less than `SURE_SHARE` of the rows that draft are still sure.
    """

    def __init__(self, draft: Draft, *, gamma: int = 10, stop_below: float = 0.0, clock: Clock | None = None) -> None:
        if gamma < 1 or not 0.0 <= stop_below < 1.0:
            raise ValueError(f"gamma must be at least 1 and stop_below within 0 .. 1, not {gamma} and {stop_below}")
        self.draft, self.gamma, self.stop_below = draft, gamma, stop_below
        self.clock = clock or Clock()
        self.last: BatchGeneration | None = None

    def __call__(self, model: Any, input_ids: Tensor, **prepared: Any) -> Tensor:
        """Decode a batch, (B, T). `prepared` is what `generate` hands over. Returns all ids, padded on the right."""
        clock, began = self.clock, self.clock.synchronised()
        gate = LayerGate.of(model, self.draft)
        session = BatchSession(model, input_ids, gate, clock=clock, **prepared)
        with gate.installed(self.draft.new_cache()):
            session.prefill()
            first = clock.now()
            if session.rows:
                session.record_past()  # else sliding windows could not be rolled back
            while session.rows:
                self._round(session, gate)
            ended = clock.synchronised()
        self.last = _trace(session, ended, began, first)
        return session.sequences(input_ids)

    def _round(self, session: BatchSession, gate: LayerGate) -> None:
        started = self.clock.now()
        gate.kept.clear()
        kwargs, rows = dict(session.kwargs), list(session.rows)
        drafted, ahead, draft_s = self._draft(session, gate, kwargs)
        predicted, outputs, verify_s = self._verify(session, gate, kwargs, ahead)
        accepted = [accept_greedy(mine, own) for mine, own in zip(drafted, predicted, strict=True)]
        standing = [mine[:k] + own[k : k + 1] for mine, own, k in zip(drafted, predicted, accepted, strict=True)]
        emitted = session.emit_rows(standing)
        session.align(outputs, standing, len(gate.kept))
        rounds = [
            Round(len(mine), k + (k < len(mine)), k, taken, draft_s, verify_s)
            for mine, k, taken in zip(drafted, accepted, emitted, strict=True)
        ]
        session.settle(rows, rounds, self.clock.now() - started)

    def _draft(
        self, session: BatchSession, gate: LayerGate, kwargs: dict[str, Any]
    ) -> tuple[list[list[int]], Tensor, float]:
        """Draft until γ, the token limit, or until most rows are in doubt.

        Returns the drafts of each row (up to its EOS or limit), all drafted columns, (rows, k), and seconds.
        """
        gate.mode, clock, seconds = Mode.DRAFT, self.clock, 0.0
        kwargs["past_key_values"] = gate.draft_view(session.cache)
        most = min(self.gamma, session.remaining - 1)
        drafted: list[list[int]] = [[] for _ in session.rows]
        sure, closed = [True] * len(drafted), [False] * len(drafted)
        ahead = torch.empty(len(drafted), 0, dtype=torch.long, device=session.device)
        while True:
            started = clock.now()
            outputs = session.forward_rows(1, ahead, kwargs)
            if ahead.shape[1] < most:
                tokens = session.choose_rows(outputs.logits, ahead, ahead.shape[1])
                if self.stop_below > 0:
                    chances = _confidences(outputs.logits)
                    sure = [ok and chance >= self.stop_below for ok, chance in zip(sure, chances, strict=True)]
                closed = [  # for good: at its EOS or limit, or before an image placeholder, which may not be read
                    done or not self._may_draft(session, row, mine) or token in session.placeholders
                    for done, row, mine, (token,) in zip(closed, session.rows, drafted, tokens, strict=True)
                ]
            seconds += clock.now() - started
            open_rows = [i for i, done in enumerate(closed) if not done]
            gain = sum(sure[i] for i in open_rows)
            if ahead.shape[1] >= most or not open_rows or gain < SURE_SHARE * len(open_rows):
                return drafted, ahead, seconds
            for i in open_rows:
                drafted[i] += tokens[i]
            # Columns that are no row's draft are read, too: of a closed row any token of its own will do.
            column = [[(mine or row.tokens)[-1]] for row, mine in zip(session.rows, drafted, strict=True)]
            ahead = torch.cat([ahead, ahead.new_tensor(column)], dim=1)
            if all(mine and session.is_eos(mine[-1]) for mine in drafted):
                return drafted, ahead, seconds
            session.advance_kwargs(outputs, kwargs, 1)

    def _may_draft(self, session: BatchSession, row: Row, drafted: list[int]) -> bool:
        """Whether the row has not drafted its EOS, and its limit leaves room beside verification's own token."""
        return len(drafted) < session.remaining_of(row) - 1 and not (drafted and session.is_eos(drafted[-1]))

    def _verify(
        self, session: BatchSession, gate: LayerGate, kwargs: dict[str, Any], ahead: Tensor
    ) -> tuple[list[list[int]], Any, float]:
        """One pass of the layers from the exit on, over all kept states: the target's choice at each position."""
        gate.mode = Mode.VERIFY
        count = len(gate.kept)
        view = {**kwargs, "past_key_values": session.cache_view(gate.exit_layer, count)}
        started = self.clock.now()
        outputs = session.forward_rows(count, ahead[:, : count - 1], view)
        predicted = session.choose_rows(outputs.logits, ahead[:, : count - 1])
        seconds = self.clock.now() - started
        outputs["past_key_values"] = session.cache
        return predicted, outputs, seconds


def _confidences(logits: Tensor) -> list[float]:
    """Each row's probability of the draft's likeliest next token, before any logits processor."""
    found: list[float] = torch.softmax(logits[:, -1].float(), dim=-1).amax(dim=-1).tolist()
    return found


def _trace(session: BatchSession, ended: float, began: float, first: float) -> BatchGeneration:
    return BatchGeneration(session.generations(first - began), first - began, None, ended - first)
