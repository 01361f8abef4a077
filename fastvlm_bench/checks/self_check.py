"""The self-check on load: a verification must give the same logits as full passes, or the model is refused.

This makes "any VLM" safe without a list of architectures: a model that cannot be gated is found out at once.
"""

from typing import Any

import torch

from fastvlm_bench.drafts.imitation_head import Draft
from fastvlm_bench.engine.layer_gate import LayerGate, Mode
from fastvlm_bench.engine.recurrent_state import can_roll_back
from fastvlm_bench.engine.session import Session
from fastvlm_bench.errors import NonFiniteLogits, UsageError
from fastvlm_bench.machine.clock import Clock
from fastvlm_bench.models.layers import decoder_layers

TOKENS = 3
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.05}


def tolerance(dtype: torch.dtype) -> float:
    """How far verification's logits may lie from a full pass's, relative to the largest, in a model of `dtype`."""
    return TOLERANCE.get(dtype, 0.1)


def self_check(model: Any, inputs: dict[str, Any], exit_layer: int, draft: Draft | None = None) -> float:
    """Compare the logits of a verification at `exit_layer` with those of full passes over the same tokens.

    Both read the prompt, the first answer token and three fixed tokens. One side runs all layers, with one token per
    pass. The other runs these four tokens through the early layers, one per pass as in drafting, and verifies them in
    one pass; it does so twice, with a rollback in between. The logits of the second verification are compared. The
    draft's own logits are not: they need not be the target's.

    draft: its head runs while drafting, so that a head that this model cannot run is found out before any sample.
    Returns the largest difference as a share of the largest logit. UsageError above the tolerance of the model's
    dtype, where its logits are not finite, where its cache cannot be rolled back, or where a pass raises an error.
    """
    full, drafted = _Probe(None), _Probe(exit_layer, draft)
    for probe in (full, drafted):
        try:
            with torch.inference_mode():
                model.generate(
                    **inputs, max_new_tokens=TOKENS + 2, min_new_tokens=TOKENS + 2, do_sample=False,
                    custom_generate=probe,
                )  # fmt: skip
        except NonFiniteLogits:
            raise damaged(model) from None
        except (
            AttributeError,
            IndexError,
            KeyError,
            NotImplementedError,
            RuntimeError,
            TypeError,
            ValueError,
        ) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            head = f" with the {draft.manifest.head} head" if draft is not None and draft.manifest else ""
            raise UsageError(
                f"{type(model).__name__} cannot be decoded self-speculatively at exit {exit_layer}{head}: "
                f"{_reason(model, exit_layer, error)}"
            ) from error
    scale = full.logits.abs().max().clamp_min(1e-6)
    difference = float((full.logits - drafted.logits).abs().max() / scale)
    limit = tolerance(model.dtype)
    if not difference <= limit:  # also true for NaN
        raise UsageError(
            f"{type(model).__name__} cannot be decoded self-speculatively: verification differs from a full pass by "
            f"{difference:.1e} of the largest logit (limit {limit:.0e}) at exit {exit_layer}; use --method standard"
        )
    return difference


def damaged(model: Any) -> UsageError:
    """The refusal of a model whose own logits are not finite."""
    return UsageError(
        f"{type(model).__name__} gives logits that are not finite on the first sample: its weights are damaged, or "
        f"{str(model.dtype).removeprefix('torch.')} is too narrow for them; load it again, or try another --dtype"
    )


def _reason(model: Any, exit_layer: int, error: Exception) -> str:
    """Why the model cannot be decoded at this exit layer, and what would work."""
    text = model.config.get_text_config(decoder=True)
    if shared := getattr(text, "num_kv_shared_layers", 0):
        kinds = text.layer_types[:-shared]
        donor = min(len(kinds) - 1 - kinds[::-1].index(kind) for kind in set(text.layer_types[-shared:]))
        if exit_layer > donor:
            return (
                f"its last {shared} layers use the KV of layer {donor}, which verification would skip; "
                f"use an exit layer of at most {donor}, or --method standard"
            )
    return f"{one_line(error)}; use --method standard"


def one_line(error: Exception) -> str:
    """An unforeseen error in one line: its kind and the first line of its message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:160] if lines else 'no message'}"


class _Probe:
    """A `custom_generate` that reads the prompt, the first answer token and three fixed tokens, and keeps the logits.

    exit_layer: None for full passes; otherwise the tokens are drafted and verified, twice. logits: (1 + TOKENS, vocab),
    those after the first answer token and after each fixed token.
    """

    def __init__(self, exit_layer: int | None, draft: Draft | None = None) -> None:
        self.exit_layer, self.draft = exit_layer, draft
        self.logits = torch.empty(0)

    def __call__(self, model: Any, input_ids: torch.Tensor, **prepared: Any) -> torch.Tensor:
        if self.exit_layer is None:
            session = Session(model, input_ids, clock=Clock(), **prepared)
            tokens = self._prefill(session, input_ids)
            self.logits = torch.cat([self._full(session, tokens[:i]) for i in range(TOKENS + 1)])
            return session.sequences
        gate = LayerGate(decoder_layers(model), self.exit_layer, self.draft.head if self.draft else None)
        session = Session(model, input_ids, gate, clock=Clock(), **prepared)
        with gate.installed(self.draft.new_cache() if self.draft else None):
            tokens = self._prefill(session, input_ids)
            self._check_kinds(session)
            session.record_past()
            for attempt in range(2):  # the second shows whether the rollback of the first was complete
                gate.kept.clear()
                gate.mode, kwargs = Mode.DRAFT, dict(session.kwargs)
                kwargs["past_key_values"] = gate.draft_view(session.cache)
                for i in range(TOKENS + 1):
                    outputs = session.forward(1, [tokens[:i]], kwargs)
                    if i < TOKENS:
                        session.advance_kwargs(outputs, kwargs, 1)
                gate.mode = Mode.VERIFY
                view = {**kwargs, "past_key_values": session.cache_view(self.exit_layer, TOKENS + 1)}
                self.logits = session.forward(TOKENS + 1, [tokens], view).logits[0].float()
                if attempt == 0:
                    session.roll_back(TOKENS + 1)
                    gate.roll_back_head(TOKENS + 1)
        return session.sequences

    def _prefill(self, session: Session, input_ids: torch.Tensor) -> list[int]:
        """Run the prefill. Returns the fixed tokens: the prompt's last ones. UsageError if the cache cannot roll back.

        An encoder-decoder's prompt is shorter than three tokens: there the first answer token fills up.
        """
        session.prefill()
        if not can_roll_back(session.cache, decoder_layers(session.model)):
            raise UsageError(
                f"{type(session.model).__name__} keeps state that cannot be rolled back "
                f"({type(session.cache).__name__}); use --method standard"
            )
        return [*input_ids[0, -TOKENS:].tolist(), *session.new_tokens * TOKENS][:TOKENS]

    def _check_kinds(self, session: Session) -> None:
        """UsageError where the layers that a head of several layers replaces look back unequally far.

        All layers of such a head get the mask of its first one, which is wrong for the others in long answers.
        """
        depth = len(getattr(self.draft.head, "layers", ())) if self.draft else 0
        first = self.exit_layer or 0
        if len({session.kind(index) for index in range(first, first + depth)}) > 1:
            raise UsageError(
                f"{type(session.model).__name__}: a head of {depth} layers cannot follow exit {first}, because layers "
                f"{first} to {first + depth - 1} look back unequally far; use an attention head or another exit layer"
            )

    def _full(self, session: Session, ahead: list[int]) -> torch.Tensor:
        outputs = session.forward(1, [ahead], session.kwargs)
        session.advance_kwargs(outputs, session.kwargs, 1)
        logits: torch.Tensor = outputs.logits[0].float()
        return logits
