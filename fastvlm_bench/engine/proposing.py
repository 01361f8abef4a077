"""Methods whose drafts come from elsewhere than the target's first layers: the whole target verifies them in one pass.

Such a method says only how it drafts (`propose`), and what it takes from the verification (`verified`). Rounds, rows,
both acceptance rules and the roll-back are the same as for `fastvlm`, so that nothing but the draft differs.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

from fastvlm_bench.engine.drafting import Drafts
from fastvlm_bench.engine.method import Method
from fastvlm_bench.engine.recurrent_state import undoable
from fastvlm_bench.engine.rows import Tokens
from fastvlm_bench.engine.session import Session
from fastvlm_bench.engine.tree import ONE_AT_A_TIME, Tree, keep_tree, round_of, verify_tree
from fastvlm_bench.errors import UsageError
from fastvlm_bench.machine.clock import Clock
from fastvlm_bench.models.layers import decoder_layers
from fastvlm_bench.records.trace import Round


class Proposing(Method):
    """gamma: γ, most tokens drafted per round. ValueError below `least`.

    stop_below: drafting stops where the likeliest next token is less probable than this (0 = never), in a method that
    gives `drafts.doubt` to `session.draft`. ValueError outside of 0 .. 1.
    """

    least = 1

    def __init__(self, *, gamma: int = 10, stop_below: float = 0.0, clock: Clock | None = None) -> None:
        super().__init__(clock=clock)
        if gamma < self.least:
            raise ValueError(f"gamma must be at least {self.least}, not {gamma}")
        if not 0.0 <= stop_below < 1.0:
            raise ValueError(f"stop_below must be within 0 .. 1, not {stop_below}")
        self.gamma, self.stop_below = gamma, stop_below

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
        drafts, halves = session.new_drafts(self.gamma), self.clock.halves()
        self.propose(session, drafts)
        halves.drafted()
        outputs = session.forward_block(drafts.columns)  # the last token and all drafts
        accepted, standing = session.accept(drafts, outputs.logits)
        seconds = halves.seconds()
        emitted = session.emit(standing)
        self.verified(session, outputs, drafts, standing)
        session.keep(outputs, standing, drafts.count + 1)
        return drafts.rounds(accepted, emitted, *seconds)


class ProposingTrees(Proposing):
    """A method that drafts a chain (`propose`, `verified`) or, with `topk` above 1, a tree (`tree`, `branch`).

    A tree is verified for a single sequence. ValueError for a topk below 1.
    """

    def __init__(
        self, *, gamma: int = 10, topk: int = 1, stop_below: float = 0.0, clock: Clock | None = None
    ) -> None:  # fmt: skip
        super().__init__(gamma=gamma, stop_below=stop_below, clock=clock)
        if topk < 1:
            raise ValueError(f"topk must be at least 1, not {topk}")
        self.topk = topk

    def tree(self, session: Session) -> Tree:
        """The tree that follows the output. It may be empty; its depth is at most one below the limit."""
        raise NotImplementedError

    def branch(self, session: Session, tree: Tree, path: Sequence[int], standing: Sequence[int]) -> None:
        """What `verified` is for a chain. path: the nodes that stand; standing: their tokens and the target's own."""

    def begin(self, session: Session) -> None:
        super().begin(session)
        if self.topk > 1 and session.takes_several:
            raise UsageError(ONE_AT_A_TIME)

    def round(self, session: Session) -> list[Round]:
        if self.topk == 1:
            return super().round(session)
        halves = self.clock.halves()
        tree = self.tree(session)
        halves.drafted()
        outputs, path, standing = verify_tree(session, tree)
        seconds = halves.seconds()
        (emitted,) = session.emit([standing])
        self.branch(session, tree, path, standing)
        keep_tree(session, outputs, path, emitted)
        return [round_of(tree, path, emitted, *seconds)]
