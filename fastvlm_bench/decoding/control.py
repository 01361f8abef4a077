"""The control arm: drafts with the whole target, then verifies. Only rounding can differ from standard decoding.

Every draft is the target's own token, computed in a pass of its own; verification computes the same positions again
as one block. So a draft is rejected only where rounding decided a near-tie otherwise, and no draft model is to blame.
This shows how often any method that verifies in blocks must be expected to differ in this dtype, on this device.
With γ = 0 nothing is drafted. That is standard decoding once more, and shows whether the device repeats its results.
"""

from contextlib import AbstractContextManager
from typing import Any

from fastvlm_bench.engine.method import Method
from fastvlm_bench.engine.recurrent_state import undoable
from fastvlm_bench.engine.session import Session
from fastvlm_bench.machine.clock import Clock
from fastvlm_bench.method_spec import MAX_GAMMA, MethodKind, Option
from fastvlm_bench.models.layers import decoder_layers
from fastvlm_bench.records.trace import Round

METHOD = MethodKind(
    "drafts with the whole target: what differs then is rounding alone; gamma=0 is standard once more", lossless=True,
    options={"gamma": Option(int, 10, "tokens decoded one by one, then verified as a block", low=0, high=MAX_GAMMA)},
)  # fmt: skip


class Control(Method):
    """gamma: how many tokens per round are decoded one by one, then once more as a block. ValueError below 0."""

    def __init__(self, *, gamma: int = 10, clock: Clock | None = None) -> None:
        super().__init__(clock=clock)
        if gamma < 0:
            raise ValueError(f"gamma must be at least 0, not {gamma}")
        self.gamma = gamma

    def around(self, model: Any) -> AbstractContextManager[Any]:
        return undoable(decoder_layers(model))

    def begin(self, session: Session) -> None:
        session.record_past()

    def round(self, session: Session) -> list[Round]:
        kwargs, drafts, passes, began = dict(session.kwargs), session.new_drafts(self.gamma), 0, self.clock.now()
        while drafts.wanted:
            outputs = session.forward(1, drafts.columns, kwargs)
            passes += 1
            if not session.draft(outputs.logits, drafts):
                break
            session.advance_kwargs(outputs, kwargs, 1)
        draft_s = self.clock.now() - began
        session.roll_back(passes)  # the cache is again as if nothing had been drafted
        started = self.clock.now()
        outputs = session.forward(drafts.count + 1, drafts.columns, kwargs)
        accepted, standing = session.accept(drafts, outputs.logits)
        verify_s = self.clock.now() - started
        emitted = session.emit(standing)
        session.keep(outputs, standing, drafts.count + 1)
        return [Round(len(mine), stand + (stand < len(mine)), stand, count, draft_s, verify_s)
                for mine, stand, count in zip(drafts.tokens, accepted, emitted, strict=True)]  # fmt: skip
