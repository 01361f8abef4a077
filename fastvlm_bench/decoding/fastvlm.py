"""FastVLM's self-speculative decoding (arXiv 2510.22641): draft, verify, accept, roll back. The heart of the project.

The first n layers and the imitation head draft up to γ tokens; the layers from n on verify them in one pass that
reuses the draft's hidden states and KV cache. Tokens that the target would have chosen stand; the first other one
is replaced by the target's own. With greedy decoding the output is the target's, token by token; with sampling it
has the target's distribution.

    model.generate(**inputs, custom_generate=FastVLM.from_pretrained("drafts/my-draft"))
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastvlm_bench.drafts.imitation_head import Draft
from fastvlm_bench.engine.layer_gate import LayerGate, Mode
from fastvlm_bench.engine.session import Session
from fastvlm_bench.machine.clock import Clock
from fastvlm_bench.records.trace import Generation, Round


class FastVLM:
    """A decoding method, to be passed to `generate` as `custom_generate`. `last` holds the latest trace.

    gamma: most tokens drafted per round. stop_below: drafting stops before a token whose draft probability is
    lower (0 = never, as in the paper; 0.5 on the command line): no verification is spent on a draft in doubt.
    """

    def __init__(
        self, draft: Draft | Path, *, gamma: int = 10, stop_below: float = 0.0, clock: Clock | None = None
    ) -> None:
        if gamma < 1 or not 0.0 <= stop_below < 1.0:
            raise ValueError(f"gamma must be at least 1 and stop_below within 0 .. 1, not {gamma} and {stop_below}")
        self.draft, self.gamma, self.stop_below = draft, gamma, stop_below
        self.clock = clock or Clock()
        self.last: Generation | None = None
        self.gate: LayerGate | None = None  # of the latest generation

    @classmethod
    def from_pretrained(cls, folder: str | Path, model: Any = None, **options: Any) -> "FastVLM":
        """A method with the draft in `folder`; options as in the constructor.

        The draft is loaded, and checked to be trained for the model, at once if it is given, else at the first call.
        """
        return cls(Path(folder) if model is None else Draft.load(Path(folder), model), **options)

    def draft_for(self, model: Any) -> Draft:
        """The draft, loaded for `model` if it was not yet."""
        if isinstance(self.draft, Path):
            self.draft = Draft.load(self.draft, model)
        return self.draft

    def __call__(self, model: Any, input_ids: Tensor, **prepared: Any) -> Tensor:
        """Decode one sequence. `prepared` is what `generate` hands to every custom method. Returns all ids, (1, T)."""
        clock, began = self.clock, self.clock.synchronised()
        draft = self.draft_for(model)
        gate = self.gate = LayerGate.of(model, draft)
        session = Session(model, input_ids, clock=clock, **prepared)
        rounds: list[Round] = []
        with gate.installed(draft.new_cache()):
            session.prefill()
            first = clock.now()
            session.record_past(gate.head_cache)  # else windows and recurrent states could not be rolled back
            while not session.stop:
                rounds.append(self._round(session, gate))
            ended = clock.synchronised()
        self.last = Generation(
            session.new_tokens, session.stop, first - began, None, first - began, ended - first, rounds
        )
        return session.sequence

    def _round(self, session: Session, gate: LayerGate) -> Round:
        gate.kept.clear()
        kwargs = dict(session.kwargs)
        drafted, draft_s = self._draft(session, gate, kwargs)
        accepted, following, outputs, verify_s = self._verify(session, gate, kwargs, drafted)
        emitted = session.emit(drafted[:accepted] + following)
        passed = len(gate.kept)
        kept = min(accepted + 1, passed)
        self._roll_back(session, gate, passed - kept)
        session.advance_kwargs(outputs, session.kwargs, kept)
        return Round(len(drafted), accepted + (accepted < len(drafted)), accepted, emitted, draft_s, verify_s)

    def _draft(self, session: Session, gate: LayerGate, kwargs: dict[str, Any]) -> tuple[list[int], float]:
        """Draft until γ, EOS, the token limit or doubt. Every token but a final EOS has passed the early layers."""
        gate.mode, clock, seconds = Mode.DRAFT, self.clock, 0.0
        kwargs["past_key_values"] = gate.draft_view(session.cache)
        drafted: list[int] = []
        most = min(self.gamma, session.remaining - 1)
        while True:
            started = clock.now()
            outputs = session.forward(1, drafted, kwargs)
            # In doubt by the likeliest token, not by the one drawn: to drop a draft for what it is would favour others.
            done = len(drafted) >= most or (self.stop_below > 0 and _confidence(outputs.logits) < self.stop_below)
            if not done:
                token = session.draft(outputs.logits, session.length + len(drafted))
                # An image placeholder has no words' embedding: a draft of one is never right, and may not be read.
                done = token in session.placeholders
            seconds += clock.now() - started
            # The pass of the last token, or of one whose successor is in doubt, was not in vain: verification
            # starts from its state and gives the token that follows it, whatever the draft thought.
            if done:
                return drafted, seconds
            drafted.append(token)
            if session.is_eos(token):
                return drafted, seconds
            session.advance_kwargs(outputs, kwargs, 1)

    def _verify(
        self, session: Session, gate: LayerGate, kwargs: dict[str, Any], drafted: list[int]
    ) -> tuple[int, list[int], Any, float]:
        """One pass of the layers from the exit on, over all kept states: which drafts stand, and what follows them."""
        gate.mode = Mode.VERIFY
        count = len(gate.kept)
        ahead = drafted[: count - 1]
        view = {**kwargs, "past_key_values": session.cache_view(gate.exit_layer, count)}
        started = self.clock.now()
        outputs = session.forward(count, ahead, view)
        accepted, following = session.accept(drafted, outputs.logits)
        seconds = self.clock.now() - started
        outputs["past_key_values"] = session.cache
        return accepted, following, outputs, seconds

    def _roll_back(self, session: Session, gate: LayerGate, rejected: int) -> None:
        """Forget the KV of the rejected tokens, in every layer and in the head."""
        session.roll_back(rejected)
        gate.roll_back_head(rejected)


def _confidence(logits: Tensor) -> float:
    """The probability of the draft's likeliest next token, before any logits processor."""
    return float(torch.softmax(logits[0, -1].float(), dim=-1).max())
