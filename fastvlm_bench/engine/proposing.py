"""Methods whose drafts come from elsewhere than the target's first layers: the whole target verifies them in one pass.

Such a method says only how it drafts (`propose`), and what it takes from the verification (`verified`). Rounds, rows,
both acceptance rules and the roll-back are the same as for `fastvlm`, so that nothing but the draft differs.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

from transformers.modeling_outputs import BaseModelOutputWithPast

from fastvlm_bench.engine.drafting import Drafts
from fastvlm_bench.engine.method import Method
from fastvlm_bench.engine.recurrent_state import undoable
from fastvlm_bench.engine.rows import Tokens
from fastvlm_bench.engine.session import Session
from fastvlm_bench.machine.clock import Clock
from fastvlm_bench.models.layers import decoder_layers
from fastvlm_bench.records.trace import Round


class Proposing(Method):
    """gamma: γ, most tokens drafted per round. ValueError below `least`."""

    least = 1

    def __init__(self, *, gamma: int = 10, clock: Clock | None = None) -> None:
        super().__init__(clock=clock)
        if gamma < self.least:
            raise ValueError(f"gamma must be at least {self.least}, not {gamma}")
        self.gamma = gamma

    def around(self, model: Any) -> AbstractContextManager[Any]:
        return undoable(decoder_layers(model))

    def begin(self, session: Session) -> None:
        session.record_past()  # else sliding windows and recurrent states could not be rolled back

    def propose(self, session: Session, drafts: Drafts) -> None:
        """Add drafts, by `session.draft` from logits or by `session.propose` as they are.

        Afterwards the target's cache must be as long as before.
        """
        raise NotImplementedError

    def verified(self, session: Session, outputs: Any, drafts: Drafts, standing: Tokens) -> None:
        """Called before the rejected drafts are rolled back. outputs: of the pass over the last token and the drafts.

        standing: for each row the drafts that stand, and the target's own next token.
        """

    def round(self, session: Session) -> list[Round]:
        """Draft, verify, accept, roll back."""
        drafts, began = session.new_drafts(self.gamma), self.clock.now()
        self.propose(session, drafts)
        draft_s = self.clock.now() - began
        outputs, accepted, standing, verify_s = self._verify(session, drafts)
        emitted = session.emit(standing)
        self.verified(session, outputs, drafts, standing)
        session.keep(outputs, standing, drafts.count + 1)
        return drafts.rounds(accepted, emitted, draft_s, verify_s)

    def _verify(self, session: Session, drafts: Drafts) -> tuple[Any, Sequence[int], Tokens, float]:
        """One pass over the last token and all drafts. Returns its output, what stands of each row, and its seconds."""
        started, kwargs = self.clock.now(), dict(session.kwargs)
        if drafts.count:
            read = BaseModelOutputWithPast(past_key_values=session.cache)
            session.advance_kwargs(read, kwargs, drafts.count)
        outputs = session.forward(drafts.count + 1, drafts.columns, kwargs)
        accepted, standing = session.accept(drafts, outputs.logits)
        return outputs, accepted, standing, self.clock.now() - started
