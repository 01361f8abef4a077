"""The batch's self-check on load: a batch must give the logits of the plain model's batch, or batches are refused.

One drafting, one verification and one more pass exercise padding, several images at once, a rollback of a different
length for each row, and the masks after that. The plain model is read by transformers alone, each row alone and all
rows in a batch: so a model that answers otherwise in a batch by its own doing is told from a fault of the decoding.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fastvlm_bench.checks.plain_passes import FAULTS, read
from fastvlm_bench.checks.rounding import ULPS, rounding, ulp
from fastvlm_bench.checks.self_check import TIMES, TOKENS, Plain
from fastvlm_bench.drafts.imitation_head import Draft
from fastvlm_bench.engine.batch_inputs import collate
from fastvlm_bench.engine.batch_session import BatchSession
from fastvlm_bench.engine.layer_gate import LayerGate, Mode
from fastvlm_bench.engine.session import Session
from fastvlm_bench.errors import UsageError
from fastvlm_bench.machine.clock import Clock
from fastvlm_bench.models.checkpoint_settings import unstopped


def batch_self_check(
    model: Any, singles: Sequence[dict[str, Any]], draft: Draft | None, pad_token_id: int = 0,
    plains: Sequence[Plain] | None = None,
) -> float:  # fmt: skip
    """Compare the logits of each row of a batch with those of the plain model's batch.

    Both read the prompt, the sample's first answer token and three fixed tokens of it. The plain model reads one token
    per pass. In our batch, the tokens are drafted and verified; then each row keeps another number of the fixed tokens
    than the next row, and one more full pass follows. The logits of the verification and of that pass are compared.
    With `draft` None, the batch reads the tokens by full passes only, and all of their logits are compared.

    The limit of a row is what the plain model itself differs by: twice the largest change that blocks make to the row
    alone, or the change that the batch makes to it, if that is larger; and 2 units in the last place of its largest
    logit. A model whose own batch changes a row by more than rounding can (`ROUNDING`) is refused, too.

    singles: inputs of single samples, best of different lengths. draft: the exit layer and the head. plains: of these
    singles, where several drafts are checked. Returns the largest difference of a row as a share of its largest logit.
    UsageError, in one line with the remedy, above the limit, or where the batch cannot be decoded at all.
    """
    name, plains = type(model).__name__, plains or [Plain(model, single) for single in singles]
    try:
        texts = [_text(model, single) for single in singles]
        alone = [plain(text) for plain, text in zip(plains, texts, strict=True)]
        batch = collate(singles, pad_token_id)
        own = _plain_batch(model, batch, texts)
        together = _Together(texts, draft)
        _generate(model, batch, together)
    except FAULTS as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        lines = str(error).strip().splitlines()
        reason = lines[0][:160] if lines else "no message"
        raise UsageError(
            f"{name} cannot be decoded in a batch: {type(error).__name__}: {reason}; use --batch-size 1"
        ) from error
    worst = 0.0
    for (single, moved, _), plain_row, rows in zip(alone, own, together.logits, strict=True):
        scale = float(single.abs().max().clamp_min(1e-6))
        by_batch = float((plain_row - single).abs().max())
        if not by_batch <= rounding(model.dtype) * scale:  # also true for NaN
            raise UsageError(
                f"{name} cannot be decoded in a batch: it gives a row other logits than the row alone, by "
                f"{by_batch / scale:.1e} of the largest, in the loop of transformers, too; use --batch-size 1"
            )
        limit = max(TIMES * float(moved.max()), by_batch) + ULPS * ulp(scale, model.dtype)
        difference = max(float((plain_row[place] - row).abs().max()) for place, row in rows)
        if not difference <= limit:
            raise UsageError(
                f"{name} cannot be decoded in a batch: a row's logits differ from those of the plain model's batch by "
                f"{difference / scale:.1e} of the largest (limit {limit / scale:.1e}); use --batch-size 1"
            )
        worst = max(worst, difference / scale)
    return worst


def _generate(model: Any, inputs: Mapping[str, Any], probe: Any) -> None:
    with torch.inference_mode():
        unstopped(model)(
            **inputs, max_new_tokens=TOKENS + 2, min_new_tokens=TOKENS + 2, do_sample=False, custom_generate=probe
        )


def _text(model: Any, single: Mapping[str, Any]) -> list[int]:
    """What is read of a sample: its first answer token and three fixed tokens, as in the self-check of one row."""
    found: list[int] = []

    def probe(model: Any, input_ids: Tensor, **prepared: Any) -> Tensor:
        session = Session(model, input_ids, clock=Clock(), **prepared)
        session.prefill()
        # The prompt's last tokens. An encoder-decoder's prompt is shorter: there the first answer token fills up.
        fixed = [*input_ids[0, -TOKENS:].tolist(), *session.new_tokens * TOKENS][:TOKENS]
        found.extend([*session.new_tokens, *fixed])
        return session.sequences

    _generate(model, single, probe)
    return found


def _plain_batch(model: Any, batch: Mapping[str, Any], texts: Sequence[Sequence[int]]) -> list[Tensor]:
    """For each row the logits, (1 + TOKENS, vocab), after each token of its text, in the plain model's batch."""
    rows: list[list[Tensor]] = [[] for _ in texts]
    read(model, batch, [[*text, text[-1]] for text in texts], lambda row, _, logits: rows[row].append(logits), raw=True)
    return [torch.stack(row[1:]) for row in rows]


class _Together:
    """Decodes the texts in a batch. With a draft, row i keeps 1 + i % TOKENS of the fixed tokens and goes on.

    logits: for each row, pairs (place, logits after that many of the fixed tokens).
    """

    def __init__(self, texts: Sequence[Sequence[int]], draft: Draft | None) -> None:
        self.firsts, self.tokens, self.draft = [[t[0]] for t in texts], [list(t[1:]) for t in texts], draft
        self.logits: list[list[tuple[int, Tensor]]] = [[] for _ in texts]

    def __call__(self, model: Any, input_ids: Tensor, **prepared: Any) -> Tensor:
        if self.draft is None:
            session = self._fixed(BatchSession(model, input_ids, clock=Clock(), **prepared))
            session.prefill()
            for place in range(TOKENS + 1):
                self._single_pass(session, [place] * len(self.tokens))
            return input_ids
        gate = LayerGate.of(model, self.draft)
        session = self._fixed(BatchSession(model, input_ids, gate, clock=Clock(), **prepared))
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

    def _fixed(self, session: BatchSession) -> BatchSession:
        """Let no token end a row, and let the prefill choose the texts' first tokens, whatever its near-ties say."""
        session.end_tokens = frozenset()
        session.choose = lambda *_: self.firsts  # type: ignore[method-assign]
        return session
