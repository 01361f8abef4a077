"""The control arm: drafts with the whole target, then verifies. What differs from standard decoding is rounding alone.

Every draft is the target's own token, computed one at a time; verification computes the same positions as a block. A
draft that does not stand has met a near-tie that fell otherwise, with no draft model to blame: this is how often any
method that verifies in blocks must be expected to differ in this dtype, on this device. γ = 0 drafts nothing: it is
standard decoding once more, and shows whether the device repeats itself at all.
"""

from typing import Any

from torch import Tensor

from fastvlm_bench.engine.recurrent_state import undoable
from fastvlm_bench.engine.session import Session
from fastvlm_bench.machine.clock import Clock
from fastvlm_bench.models.layers import decoder_layers
from fastvlm_bench.records.trace import Generation, Round


class Control:
    """A decoding method, to be passed to `generate` as `custom_generate`. `last` holds the latest trace."""

    def __init__(self, *, gamma: int = 10, clock: Clock | None = None) -> None:
        if gamma < 0:
            raise ValueError(f"gamma must be at least 0, not {gamma}")
        self.gamma, self.clock = gamma, clock or Clock()
        self.last: Generation | None = None

    def __call__(self, model: Any, input_ids: Tensor, **prepared: Any) -> Tensor:
        """Decode one sequence. `prepared` is what `generate` hands to every custom method. Returns all ids, (1, T)."""
        clock, began = self.clock, self.clock.synchronised()
        session = Session(model, input_ids, clock=clock, **prepared)
        rounds: list[Round] = []
        session.prefill()
        first = clock.now()
        session.record_past()
        with undoable(decoder_layers(model)):
            while not session.stop:
                rounds.append(self._round(session))
        ended = clock.synchronised()
        self.last = Generation(
            session.new_tokens, session.stop, first - began, None, first - began, ended - first, rounds
        )
        return session.sequence

    def _round(self, session: Session) -> Round:
        kwargs, drafted, began = dict(session.kwargs), list[int](), self.clock.now()
        most = min(self.gamma, session.remaining - 1)
        while len(drafted) < most and not (drafted and session.is_eos(drafted[-1])):
            outputs = session.forward(1, drafted, kwargs)
            drafted.append(session.draft(outputs.logits, session.length + len(drafted)))
            session.advance_kwargs(outputs, kwargs, 1)
        drafted_at = self.clock.now()
        session.roll_back(len(drafted))  # as if nothing had been drafted
        started = self.clock.now()
        outputs = session.forward(len(drafted) + 1, drafted, kwargs)
        accepted, following = session.accept(drafted, outputs.logits)
        verify_s = self.clock.now() - started
        emitted = session.emit(drafted[:accepted] + following)
        session.roll_back(len(drafted) - accepted)
        session.advance_kwargs(outputs, session.kwargs, accepted + 1)
        tested = accepted + (accepted < len(drafted))
        return Round(len(drafted), tested, accepted, emitted, drafted_at - began, verify_s)
