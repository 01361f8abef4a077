"""Methods that draft with a head which reads states of the target's own passes: EAGLE and multi-token prediction.

The head has a cache of its own. It is filled with the prompt within the prefill, so that this counts as time to first
token. After each verification the head reads, in one pass, the verified states of all tokens that were accepted, and
goes on from its own states. What it drafted is then forgotten: its cache is always that of a head which has read the
text so far from the target's states, and nothing else.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from fastvlm_bench.drafters.draft_tree import grow
from fastvlm_bench.drafters.recorded_reader import recorded
from fastvlm_bench.drafters.state_reader import Reader
from fastvlm_bench.drafters.target_states import TargetStates
from fastvlm_bench.drafts.state_heads import StateHead
from fastvlm_bench.engine.choosing import chance, read_together
from fastvlm_bench.engine.drafting import Drafts
from fastvlm_bench.engine.engine import Carrier
from fastvlm_bench.engine.proposing import ProposingTrees
from fastvlm_bench.engine.rows import Tokens
from fastvlm_bench.engine.session import Session, placeholders
from fastvlm_bench.engine.tree import Tree, check_takes_trees
from fastvlm_bench.machine.clock import Clock


class FromStates(ProposingTrees):
    """A subclass loads its head in `head_for`.

    gamma: γ, most tokens drafted per round. topk: 1 drafts a chain; more drafts a tree (one sequence at a time), each
    of whose `topk` best nodes is expanded by `topk` tokens, down to `depth` levels (γ by default), of which the `nodes`
    most probable are verified. stop_below: a chain ends before a token that the head finds less probable.
    """

    def __init__(
        self, *, gamma: int = 5, topk: int = 1, depth: int | None = None, nodes: int = 59, stop_below: float = 0.0,
        clock: Clock | None = None,
    ) -> None:  # fmt: skip
        super().__init__(gamma=gamma, topk=topk, stop_below=stop_below, clock=clock)
        if nodes < 1 or (depth is not None and depth < 1):
            raise ValueError("depth and nodes must be at least 1")
        self.depth, self.nodes = depth or gamma, nodes
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

    @property
    def beyond(self) -> int:
        return self.nodes if self.topk > 1 else 0

    def carriers(self) -> list[Carrier]:
        return [self._reader.target]

    @contextmanager
    def around(self, model: Any) -> Iterator[None]:
        self.check(model)
        head = self.head_for(model)
        self._reader = Reader(head, TargetStates(model, head.reads), placeholders(model))
        with super().around(model), self._reader.target.installed():
            yield

    def begin(self, session: Session) -> None:
        super().begin(session)
        self._reader.begun({row.place: row.tokens[-1:] for row in session.rows})

    def record_beside(self, session: Session) -> str | None:
        if session.takes_several or self.topk > 1:
            return "a head that drafts a tree, or for several rows, runs passes of its own"
        known, capacity = self.engine.beside(self), session.recorded.capacity
        found = recorded(self._reader, known, self.engine, session.model, capacity)
        if isinstance(found, str):
            return found
        self._reader = found
        return None

    def propose(self, session: Session, drafts: Drafts) -> None:
        reader = self._reader
        if not drafts.wanted:
            return
        logits = reader.read([row.place for row in session.rows])
        drawn = 0
        while self._draft(session, logits, drafts):
            if not drafts.wanted or drafts.ended:
                break
            logits = reader.go_on(drafts.columns)
            drawn += 1
        reader.forget(drawn)

    def _draft(self, session: Session, logits: Tensor, drafts: Drafts) -> bool:
        head, doubt = self._reader.head, drafts.doubt(self.stop_below)
        if session.samples or len(session.processors):
            return session.draft(head.spread(logits), drafts, doubt)
        # Nothing changes the order of the logits, so the best of the head's own vocabulary is the best of all.
        best = head.target_ids(logits[:, -1].argmax(dim=-1))
        tokens, chances = read_together(best, None if doubt is None else chance(logits))
        if doubt is not None and doubt(chances):
            return False
        return session.propose([[token] for token in tokens], drafts)

    def verified(self, session: Session, outputs: Any, drafts: Drafts, standing: Tokens) -> None:
        self._reader.told({row.place: list(new) for row, new in zip(session.rows, standing, strict=True)})

    def branch(self, session: Session, tree: Tree, path: Sequence[int], standing: Sequence[int]) -> None:
        (row,) = session.rows
        self._reader.told({row.place: list(standing)}, [0, *(node + 1 for node in path)])

    def tree(self, session: Session) -> Tree:
        depth = min(self.depth, session.remaining - 1)
        if depth < 1:
            return Tree([], [])
        reader = self._reader
        logits = reader.read([row.place for row in session.rows])
        return grow(
            reader.head, reader.cache, reader.states, logits, reader.positions, topk=self.topk, depth=depth,
            nodes=self.nodes, never=session.placeholders, ends=session.end_tokens,
        )  # fmt: skip
