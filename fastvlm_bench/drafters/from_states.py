"""Methods that draft with a head which reads states of the target's own passes: EAGLE and multi-token prediction.

The head has a cache of its own. It is filled with the prompt within the prefill, so that this counts as time to first
token. After each verification the head reads, in one pass, the verified states of all tokens that were accepted, and
goes on from its own states. What it drafted is then forgotten: its cache is always that of a head which has read the
text so far from the target's states, and nothing else.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from fastvlm_bench.drafters.draft_tree import grow
from fastvlm_bench.drafters.state_reader import Reader
from fastvlm_bench.drafters.target_states import TargetStates
from fastvlm_bench.drafts.state_heads import StateHead
from fastvlm_bench.engine.drafting import Drafts
from fastvlm_bench.engine.proposing import Proposing
from fastvlm_bench.engine.rows import Tokens
from fastvlm_bench.engine.session import Session, placeholders
from fastvlm_bench.engine.tree import Tree, check_takes_trees, keep_tree, verify_tree
from fastvlm_bench.errors import UsageError
from fastvlm_bench.machine.clock import Clock
from fastvlm_bench.records.trace import Round


class FromStates(Proposing):
    """A subclass loads its head in `head_for`.

    gamma: γ, most tokens drafted per round. topk: 1 drafts a chain; more drafts a tree (one sequence at a time), each
    of whose `topk` best nodes is expanded by `topk` tokens, down to `depth` levels (γ by default), of which the `nodes`
    most probable are verified. stop_below: a chain ends before a token that the head finds less probable.
    """

    def __init__(
        self, *, gamma: int = 5, topk: int = 1, depth: int | None = None, nodes: int = 59, stop_below: float = 0.0,
        clock: Clock | None = None,
    ) -> None:  # fmt: skip
        super().__init__(gamma=gamma, clock=clock)
        if topk < 1 or nodes < 1 or (depth is not None and depth < 1) or not 0 <= stop_below < 1:
            raise ValueError("topk, depth and nodes must be at least 1, and stop_below from 0 to below 1")
        self.topk, self.depth, self.nodes, self.stop_below = topk, depth or gamma, nodes, stop_below
        self.head: StateHead | None = None

    def head_for(self, model: Any) -> StateHead:
        """The head, which is loaded for `model` if it was not yet."""
        raise NotImplementedError

    def check(self, model: Any) -> None:
        """UsageError if the model cannot verify what the method would draft."""
        if self.topk > 1:
            check_takes_trees(model, "leave topk out, to draft a chain")

    @property
    def weight_bytes(self) -> int:
        return self.head.weight_bytes if self.head is not None else 0

    @contextmanager
    def around(self, model: Any) -> Iterator[None]:
        self.check(model)
        head = self.head_for(model)
        self._reader = Reader(head, TargetStates(model, head.reads), placeholders(model))
        with super().around(model), self._reader.target.installed():
            yield

    def begin(self, session: Session) -> None:
        super().begin(session)
        if self.topk > 1 and session.takes_several:
            raise UsageError("a tree of drafts is verified for one sequence at a time; use --batch-size 1, or leave "
                             "topk out")  # fmt: skip
        self._reader.begun({row.place: row.tokens[-1:] for row in session.rows})

    def propose(self, session: Session, drafts: Drafts) -> None:
        reader = self._reader
        if not drafts.wanted:
            return
        logits = reader.read([row.place for row in session.rows])
        drawn = 0
        while not self._in_doubt(drafts, logits) and self._draft(session, logits, drafts):
            if not drafts.wanted or drafts.ended:
                break
            logits = reader.go_on(drafts.columns)
            drawn += 1
        reader.forget(drawn)

    def _draft(self, session: Session, logits: Tensor, drafts: Drafts) -> bool:
        head = self._reader.head
        if session.samples or len(session.processors):
            return session.draft(head.spread(logits), drafts)
        # Nothing changes the order of the logits, so the best of the head's own vocabulary is the best of all.
        return session.propose(head.target_ids(logits.argmax(dim=-1)).tolist(), drafts)

    def _in_doubt(self, drafts: Drafts, logits: Tensor) -> bool:
        if not self.stop_below:
            return False
        return drafts.doubted(torch.softmax(logits[:, -1].float(), -1).amax(-1).tolist(), self.stop_below)

    def verified(self, session: Session, outputs: Any, drafts: Drafts, standing: Tokens) -> None:
        self._reader.told({row.place: list(new) for row, new in zip(session.rows, standing, strict=True)})

    def round(self, session: Session) -> list[Round]:
        return super().round(session) if self.topk == 1 else self._round_of_a_tree(session)

    def _round_of_a_tree(self, session: Session) -> list[Round]:
        began = self.clock.now()
        tree = self._tree(session)
        started = self.clock.now()
        outputs, path, standing = verify_tree(session, tree)
        ended = self.clock.now()
        (place,) = (row.place for row in session.rows)
        (emitted,) = session.emit([standing])
        self._reader.told({place: standing}, [0, *(node + 1 for node in path)])
        keep_tree(session, outputs, path, emitted)
        refused = bool(tree.children(path[-1] if path else -1))  # the target's own token was none of the children
        return [Round(len(tree), len(path) + refused, len(path), emitted, started - began, ended - started)]

    def _tree(self, session: Session) -> Tree:
        depth = min(self.depth, session.remaining - 1)
        if depth < 1:
            return Tree([], [])
        reader = self._reader
        logits = reader.read([row.place for row in session.rows])
        return grow(
            reader.head, reader.cache, reader.states, logits, reader.positions, topk=self.topk, depth=depth,
            nodes=self.nodes, never=session.placeholders, ends=session.end_tokens,
        )  # fmt: skip
