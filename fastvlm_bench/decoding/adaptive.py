"""FastVLM that drafts only where it pays, and only as far: γ and the threshold follow from the rounds before.

`engine/pacing.py` has the rule. Where a round does not draft, the whole target reads one token in one pass, as in
standard decoding, and the head takes up what it missed before it drafts again.

What was learnt is kept from one generation to the next, until `reset`: so the time of a sample depends on the samples
before it, and on the clock, and its output does not. With sampling the output keeps the target's distribution, because
whether to draft on never depends on a token that was drawn in the same round.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from fastvlm_bench.decoding.fastvlm import FastVLM
from fastvlm_bench.drafts.imitation_head import Draft
from fastvlm_bench.engine.drafting import Doubt, Drafts
from fastvlm_bench.engine.layer_gate import Mode
from fastvlm_bench.engine.pacing import Pacing
from fastvlm_bench.engine.session import Session
from fastvlm_bench.machine.clock import Clock
from fastvlm_bench.method_spec import DRAFT, EXIT_LAYER, HEAD, MAX_GAMMA, MethodKind, Option
from fastvlm_bench.records.trace import Round

METHOD = MethodKind(
    "as fastvlm, but drafts only where it pays, and as far as it pays, by the rounds before", lossless=True,
    group="ours",
    options={
        "gamma": Option(int, 16, "most tokens drafted per round", low=1, high=MAX_GAMMA),
        "draft": DRAFT,
        "exit_layer": EXIT_LAYER,
        "head": HEAD,
        "explore": Option(int, 32, "one round in so many tries what looks slower", low=2),
    },
)  # fmt: skip


class Adaptive(FastVLM):
    """The same draft, verification and acceptance as FastVLM. For single sequences.

    explore: one round in so many tries what looks slower, so that a change is noticed. ValueError below 2.
    """

    takes_batches = False  # rows would have to agree on whether to draft

    def __init__(self, draft: Draft, *, gamma: int = 16, explore: int = 32, clock: Clock | None = None) -> None:
        if explore < 2:
            raise ValueError(f"explore must be at least 2, not {explore}")
        super().__init__(draft, gamma=gamma, clock=clock)
        self.explore = explore
        self.pacing = Pacing(explore)
        self._paced = True
        self._chances: list[float] = []

    @property
    def stops(self) -> bool:
        return self._paced

    @contextmanager
    def never_stopping(self) -> Iterator[None]:
        self._paced = False
        try:
            yield
        finally:
            self._paced = True

    def reset(self) -> None:
        self.pacing = Pacing(self.explore)

    def memory(self) -> Any:
        return copy.deepcopy(self.pacing)

    def recall(self, memory: Any) -> None:
        self.pacing = copy.deepcopy(memory)

    def round(self, session: Session) -> list[Round]:
        if not self._paced:
            return super().round(session)
        before = len(session.rows[0].tokens)
        if not self.pacing.drafts(before):
            return self._plain(session)
        (session.recorded or session.gate).catch_up()
        self.pacing.begin()
        self._chances = []
        (own,) = super().round(session)
        self.pacing.drafted(
            before, self._chances, own.tested, own.accepted, own.emitted, len(session.gate.kept), own.draft_s,
            own.verify_s,
        )  # fmt: skip
        return [own]

    def _plain(self, session: Session) -> list[Round]:
        """One token by one pass of the whole target."""
        session.gate.mode = Mode.PLAIN
        started = self.clock.now()
        outputs = session.forward(1, (), session.kwargs)
        tokens = session.choose(outputs.logits)
        seconds = self.clock.now() - started
        (emitted,) = session.emit(tokens)
        session.keep(outputs, tokens, 1)
        self.pacing.plain(seconds)
        return [Round(0, 0, 0, emitted, 0.0, seconds)]

    def _doubt(self, drafts: Drafts) -> Doubt | None:
        return self._not_worth if self._paced else None

    def _not_worth(self, chances: Sequence[float]) -> bool:
        (chance,) = chances
        if not self.pacing.worth(chance):
            return True
        self._chances.append(chance)
        return False
