"""The batch's self-check on load: each row of a batch must give the logits that it gives alone, or batches are refused.

One drafting, one verification and one more pass exercise padding, several images at once, a rollback of a different
length for each row, and the masks after that.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastvlm_bench.checks.self_check import TOKENS, tolerance
from fastvlm_bench.drafts.imitation_head import Draft
from fastvlm_bench.engine.batch_inputs import collate
from fastvlm_bench.engine.batch_session import BatchSession
from fastvlm_bench.engine.layer_gate import LayerGate, Mode
from fastvlm_bench.engine.session import Session
from fastvlm_bench.errors import UsageError
from fastvlm_bench.machine.clock import Clock

FAULTS = (AttributeError, AssertionError, IndexError, KeyError, NotImplementedError, RuntimeError, TypeError,
          ValueError)  # fmt: skip


def batch_self_check(
    model: Any, singles: Sequence[dict[str, Any]], draft: Draft | None, pad_token_id: int = 0
) -> float:
    """Compare the logits of each row of a batch with those of the same sample decoded alone.

    Both read the prompt, the first answer token and three fixed tokens of the sample. Alone, all layers run, with one
    token per pass. In the batch, the tokens are drafted and verified; then each row keeps another number of the fixed
    tokens than the next row, and one more full pass follows. The logits of the verification and of that pass are
    compared. With `draft` None, the batch reads the tokens by full passes only, and all of their logits are compared.

    singles: inputs of single samples, best of different lengths. draft: the exit layer and the head. Returns the
    largest difference of a row as a share of its largest logit. UsageError, in one line with the remedy, above the
    tolerance of the model's dtype, or where the batch cannot be decoded at all.
    """
    name = type(model).__name__
    alone = [_Alone() for _ in singles]
    try:
        for probe, single in zip(alone, singles, strict=True):
            _generate(model, single, probe)
        together = _Together([probe.tokens for probe in alone], draft)
        _generate(model, collate(singles, pad_token_id), together)
    except FAULTS as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        lines = str(error).strip().splitlines()
        reason = lines[0][:160] if lines else "no message"
        raise UsageError(
            f"{name} cannot be decoded in a batch: {type(error).__name__}: {reason}; use --batch-size 1"
        ) from error
    worst = 0.0
    for probe, rows in zip(alone, together.logits, strict=True):
        for place, row in rows:
            scale = probe.logits.abs().max().clamp_min(1e-6)
            worst = max(worst, float((probe.logits[place] - row).abs().max() / scale))
            if not bool(torch.isfinite(row).all()):
                worst = float("inf")
    limit = tolerance(model.dtype)
    if not worst <= limit:
        raise UsageError(
            f"{name} cannot be decoded in a batch: a row's logits differ from those of the row alone by {worst:.1e} "
            f"of the largest (limit {limit:.0e}); use --batch-size 1"
        )
    return worst


def _generate(model: Any, inputs: dict[str, Any], probe: Any) -> None:
    with torch.inference_mode():
        model.generate(
            **inputs, max_new_tokens=TOKENS + 2, min_new_tokens=TOKENS + 2, do_sample=False, custom_generate=probe
        )


class _Alone:
    """Decodes one sample alone: the first answer token and three fixed ones, `tokens`, one per full pass.

    logits: (1 + TOKENS, vocab), those after each of these tokens.
    """

    def __init__(self) -> None:
        self.logits, self.tokens = torch.empty(0), [0]

    def __call__(self, model: Any, input_ids: Tensor, **prepared: Any) -> Tensor:
        session = Session(model, input_ids, clock=Clock(), **prepared)
        session.prefill()
        # The prompt's last tokens. An encoder-decoder's prompt is shorter: there the first answer token fills up.
        self.tokens = [*input_ids[0, -TOKENS:].tolist(), *session.new_tokens * TOKENS][:TOKENS]
        found = []
        for i in range(TOKENS + 1):
            outputs = session.forward(1, [self.tokens[:i]], session.kwargs)
            session.advance_kwargs(outputs, session.kwargs, 1)
            found.append(outputs.logits[0].float())
        self.logits = torch.cat(found)
        return session.sequences


class _Together:
    """Decodes the same tokens in a batch. With a draft, row i keeps 1 + i % TOKENS of the fixed ones and goes on.

    logits: for each row, pairs (place, logits after that many of the fixed tokens).
    """

    def __init__(self, tokens: list[list[int]], draft: Draft | None) -> None:
        self.tokens, self.draft = tokens, draft
        self.logits: list[list[tuple[int, Tensor]]] = [[] for _ in tokens]

    def __call__(self, model: Any, input_ids: Tensor, **prepared: Any) -> Tensor:
        if self.draft is None:
            session = _endless(BatchSession(model, input_ids, clock=Clock(), **prepared))
            session.prefill()
            for place in range(TOKENS + 1):
                self._single_pass(session, [place] * len(self.tokens))
            return input_ids
        gate = LayerGate.of(model, self.draft)
        session = _endless(BatchSession(model, input_ids, gate, clock=Clock(), **prepared))
        with gate.installed(self.draft.new_cache()):
            session.prefill()
            session.record_past()
            kwargs, gate.mode = dict(session.kwargs), Mode.DRAFT
            kwargs["past_key_values"] = gate.draft_view(session.cache)
            for i in range(TOKENS + 1):
                outputs = session.forward(1, [row[:i] for row in self.tokens], kwargs)
                if i < TOKENS:
                    session.advance_kwargs(outputs, kwargs, 1)
            gate.mode = Mode.VERIFY
            view = {**kwargs, "past_key_values": session.cache_view(gate.exit_layer, TOKENS + 1)}
            outputs = session.forward(TOKENS + 1, self.tokens, view)
            outputs["past_key_values"] = session.cache
            for row, logits in enumerate(outputs.logits.float()):
                self.logits[row] += list(enumerate(logits))
            kept = [1 + row % TOKENS for row in range(len(self.tokens))]
            standing = [tokens[:count] for tokens, count in zip(self.tokens, kept, strict=True)]
            session.emit(standing)
            session.keep(outputs, standing, TOKENS + 1)
            gate.mode = Mode.FULL
            self._single_pass(session, kept)
        return input_ids

    def _single_pass(self, session: BatchSession, places: list[int]) -> None:
        outputs = session.forward(1, (), session.kwargs)
        for row, place in enumerate(places):
            self.logits[row].append((place, outputs.logits[row, -1].float()))
        following = [[tokens[min(place, TOKENS - 1)]] for tokens, place in zip(self.tokens, places, strict=True)]
        session.emit(following)
        session.keep(outputs, following, 1)


def _endless(session: BatchSession) -> BatchSession:
    """Let no token end a row, because any token may be among the fixed ones."""
    session.end_tokens = frozenset()
    return session
