"""The self-check on load: a verification must give the same logits as full passes, or the model is refused.

This makes "any VLM" safe without a list of architectures: a model that cannot be gated is found out at once. How far
the two may differ is not a constant. It is what the plain model, read by transformers alone, differs between the same
tokens in blocks and one by one: in half precision much, in float32 next to nothing.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastvlm_bench.checks.plain_passes import FAULTS, read
from fastvlm_bench.checks.rounding import ULPS, rounding, ulp
from fastvlm_bench.drafts.imitation_head import Draft
from fastvlm_bench.engine.layer_gate import LayerGate, Mode
from fastvlm_bench.engine.recurrent_state import can_roll_back
from fastvlm_bench.engine.session import Session
from fastvlm_bench.errors import NonFiniteLogits, UsageError
from fastvlm_bench.machine.clock import Clock
from fastvlm_bench.models.checkpoint_settings import unstopped
from fastvlm_bench.models.layers import decoder_layers

TOKENS = 3
TIMES = 2
"""How many times the plain model's own difference verification may differ by: it runs some layers in blocks, some not,
and so rounds like neither."""


class Checked(NamedTuple):
    """What a self-check found, each as a share of the largest logit.

    difference: of verification from full passes. own: of the plain model's blocks from its single passes, on the same
    tokens. limit: the largest difference that is let in.
    """

    difference: float
    own: float
    limit: float


class Passes(NamedTuple):
    """What the plain model says of a text. logits: after each token, one by one, (tokens, vocab).

    moved: the largest change of a logit by blocks, at each token, of all block sizes. least: the same, of the block
    size that changes it least; zero where blocks could not be read.
    """

    logits: Tensor
    moved: Tensor
    least: Tensor


class Plain:
    """Reads texts after one prompt through the plain model, by transformers alone: one by one and in blocks.

    What was read is kept, since every exit layer is compared with the same.
    """

    def __init__(self, model: Any, inputs: Mapping[str, Any]) -> None:
        self.model, self.inputs = model, inputs
        self._known: dict[tuple[int, ...], Passes] = {}

    def __call__(self, text: Sequence[int]) -> Passes:
        key = tuple(text)
        if key not in self._known:
            single = self._read(text, 1)
            moved = torch.stack([self._moved(text, single, block) for block in sorted({2, len(text)})])
            self._known[key] = Passes(single, moved.amax(dim=0), moved.amin(dim=0))
        return self._known[key]

    def _read(self, text: Sequence[int], block: int) -> Tensor:
        rows: list[Tensor] = []
        # What follows the last token is chosen, but never read: any token will do.
        read(self.model, self.inputs, [[*text, text[-1]]], lambda _, __, row: rows.append(row), block=block, raw=True)
        return torch.stack(rows[1:])

    def _moved(self, text: Sequence[int], single: Tensor, block: int) -> Tensor:
        try:
            moved = (self._read(text, block) - single).abs().amax(dim=-1)
        except FAULTS as error:  # noise that was not measured excuses nothing
            if isinstance(error, torch.OutOfMemoryError):
                raise
            return single.new_zeros(len(single))
        return moved if bool(moved.isfinite().all()) else torch.zeros_like(moved)


def limit_of(own: float, scale: float, dtype: torch.dtype) -> float:
    """The largest difference that is let in, as a share of `scale`, the largest logit; `own` in logits."""
    return (TIMES * own + ULPS * ulp(scale, dtype)) / scale


def self_check(
    model: Any, inputs: dict[str, Any], exit_layer: int, draft: Draft | None = None, plain: Plain | None = None
) -> Checked:
    """Compare the logits of a verification at `exit_layer` with those of full passes over the same tokens.

    Both read the prompt, the first answer token and three fixed tokens. One side is the plain model, read by the loop
    of transformers, with one token per pass. The other runs these four tokens through the early layers, one per pass as
    in drafting, and verifies them in one pass; it does so twice, with a rollback in between. The logits of the second
    verification are compared. The draft's own logits are not: they need not be the target's.

    The limit is twice what the plain model's own blocks of these tokens differ from its single passes, and 2 units in
    the last place of the largest logit. draft: its head runs while drafting, so that a head that this model cannot run
    is found out before any sample. plain: of the same model and inputs, where several exits are checked.

    UsageError above the limit, where the plain model's own blocks change the logits at every place by more than
    rounding explains, where logits are not finite, where the cache cannot be rolled back, or where a pass
    raises an error.
    """
    plain, drafted = plain or Plain(model, inputs), _Probe(exit_layer, draft)
    try:
        with torch.inference_mode():
            unstopped(model)(
                **inputs, max_new_tokens=TOKENS + 2, min_new_tokens=TOKENS + 2, do_sample=False,
                custom_generate=drafted,
            )  # fmt: skip
        if not drafted.text:
            raise UsageError(loops_by_itself(model))
        passes = plain(drafted.text)
    except NonFiniteLogits:
        raise damaged(model) from None
    except FAULTS as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        head = f" with the {draft.manifest.head} head" if draft is not None and draft.manifest else ""
        raise UsageError(
            f"{type(model).__name__} cannot be decoded self-speculatively at exit {exit_layer}{head}: "
            f"{_reason(model, exit_layer, error)}"
        ) from error
    full, own = passes.logits, float(passes.moved.max())
    scale = float(full.abs().max().clamp_min(1e-6))
    if not scale < float("inf"):
        raise damaged(model)
    difference = float((full - drafted.logits).abs().max()) / scale
    found = Checked(difference, own / scale, limit_of(own, scale, model.dtype))
    if bool((passes.least > rounding(model.dtype) * scale).all()):
        raise UsageError(
            f"{type(model).__name__} cannot be decoded self-speculatively: verification differs from a full pass by "
            f"{difference:.1e} of the largest logit at exit {exit_layer}, and without any method the model reads no "
            f"block of tokens as it reads single ones ({found.own:.1e}); use --method standard"
        )
    if not difference <= found.limit:  # also true for NaN
        raise UsageError(
            f"{type(model).__name__} cannot be decoded self-speculatively: verification differs from a full pass by "
            f"{difference:.1e} of the largest logit (limit {found.limit:.1e}: the model's own blocks differ by "
            f"{found.own:.1e}) at exit {exit_layer}; use --method standard"
        )
    return found


def said(found: Checked) -> str:
    """What a self-check found, in words."""
    return (
        f"verification matches a full pass to {found.difference:.0e} of the largest logit "
        f"(the model's own blocks: {found.own:.0e}; limit {found.limit:.0e})"
    )


def damaged(model: Any) -> UsageError:
    """The refusal of a model whose own logits are not finite."""
    return UsageError(
        f"{type(model).__name__} gives logits that are not finite on the first sample: its weights are damaged, or "
        f"{str(model.dtype).removeprefix('torch.')} is too narrow for them; load it again, or try another --dtype"
    )


def loops_by_itself(model: Any) -> str:
    """The refusal of a model whose `generate` never calls the method that it is given, as diffusion models' do."""
    return (
        f"{type(model).__name__} generates in a loop of its own, which ignores custom_generate: no method can decode "
        "with it, and it cannot be measured; choose a model that answers token by token"
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
    """A `custom_generate` that drafts the first answer token and three fixed tokens, and verifies them, twice.

    text: the four tokens. logits: (1 + TOKENS, vocab), those after each of them, of the second verification.
    """

    def __init__(self, exit_layer: int, draft: Draft | None = None) -> None:
        self.exit_layer, self.draft = exit_layer, draft
        self.text: list[int] = []
        self.logits = torch.empty(0)

    def __call__(self, model: Any, input_ids: Tensor, **prepared: Any) -> Tensor:
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

    def _prefill(self, session: Session, input_ids: Tensor) -> list[int]:
        """Run the prefill. Returns the fixed tokens: the prompt's last ones. UsageError if the cache cannot roll back.

        An encoder-decoder's prompt is shorter than three tokens: there the first answer token fills up.
        """
        session.prefill()
        if not can_roll_back(session.cache, decoder_layers(session.model)):
            raise UsageError(
                f"{type(session.model).__name__} keeps state that cannot be rolled back "
                f"({type(session.cache).__name__}); use --method standard"
            )
        fixed = [*input_ids[0, -TOKENS:].tolist(), *session.new_tokens * TOKENS][:TOKENS]
        self.text = [*session.new_tokens, *fixed]
        return fixed

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
