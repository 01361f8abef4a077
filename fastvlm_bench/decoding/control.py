"""The control arm: drafts with the whole target, then verifies. Only rounding can differ from standard decoding.

Every draft is the target's own token, computed in a pass of its own; verification computes the same positions again
as one block. So a draft is rejected only where rounding decided a near-tie otherwise, and no draft model is to blame.
This shows how often any method that verifies in blocks must be expected to differ in this dtype, on this device.
With γ = 0 nothing is drafted. That is standard decoding once more, and shows whether the device repeats its results.
"""

from fastvlm_bench.engine.drafting import Drafts
from fastvlm_bench.engine.proposing import Proposing
from fastvlm_bench.engine.session import Session
from fastvlm_bench.method_spec import MAX_GAMMA, MethodKind, Option

METHOD = MethodKind(
    "drafts with the whole target: what differs then is rounding alone; gamma=0 is standard once more", lossless=True,
    group="checks",
    options={"gamma": Option(int, 10, "tokens decoded one by one, then verified as a block", low=0, high=MAX_GAMMA)},
)  # fmt: skip


class Control(Proposing):
    """gamma: how many tokens per round are decoded one by one, then once more as a block. ValueError below 0."""

    least = 0

    def propose(self, session: Session, drafts: Drafts) -> None:
        kwargs, passes = dict(session.kwargs), 0
        while drafts.wanted:
            outputs = session.forward(1, drafts.columns, kwargs)
            passes += 1
            if not session.draft(outputs.logits, drafts, unread=True):
                break
            session.advance_kwargs(outputs, kwargs, 1)
        session.roll_back(passes)  # the cache is again as if nothing had been drafted
