"""Drafts with Medusa heads (arXiv 2401.10774), which `train --head medusa` makes: all drafts of a round at once.

Verification leaves the state that entered the LM head at the last token that stands. From this one state each head
drafts a token, one place further ahead each. Chain: each head's likeliest token. Tree (`topk` above 1): of all
combinations of the heads' likeliest tokens, the most probable ones, verified in one pass.

    model.generate(**inputs, custom_generate=Medusa.from_pretrained("drafts/my-medusa"))
"""

import heapq
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from operator import mul
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastvlm_bench.drafters.last_states import LastStates
from fastvlm_bench.drafts.heads import MedusaHeads
from fastvlm_bench.drafts.imitation_head import Draft
from fastvlm_bench.engine.drafting import Drafts
from fastvlm_bench.engine.engine import Carrier
from fastvlm_bench.engine.proposing import ProposingTrees
from fastvlm_bench.engine.rows import Tokens
from fastvlm_bench.engine.session import Session
from fastvlm_bench.engine.tree import ROOT, Tree, check_takes_trees
from fastvlm_bench.errors import UsageError
from fastvlm_bench.machine.clock import Clock
from fastvlm_bench.method_spec import AT_THE_END_DRAFT, MAX_GAMMA, MethodKind, Option
from fastvlm_bench.models.load import Target

METHOD = MethodKind(
    "drafts all at once with Medusa heads on the last state, in a chain or a tree", lossless=True, group="drafts",
    options={
        "draft": AT_THE_END_DRAFT,
        "gamma": Option(int, None, "places drafted per round; by default one for each head", low=1, high=MAX_GAMMA),
        "topk": Option(int, 1, "tokens of each head that a tree is made of; 1 is a chain", low=1, high=32),
        "nodes": Option(int, None, "most tokens of a tree; by default 16", low=2, high=256),
        "stop_below": Option(
            float, 0.0, "leaves out a draft where its probability times those before it is less; 0 is never", low=0,
            below=1,
        ),
    },
)  # fmt: skip
NODES = 16


class Medusa(ProposingTrees):
    """A decoding method, to be passed to `generate` as `custom_generate`. Afterwards `last` holds the trace.

    draft: loaded, or a folder from which the first call loads it. gamma: most places drafted per round, None for as
    many as there are heads. topk, nodes: of a tree; with topk 1 drafts are a chain. stop_below: a draft is left out
    where the product of the heads' probabilities, down to it, is less. ValueError or UsageError for options that are
    out of range or do not fit together.
    """

    def __init__(
        self, draft: Draft | Path, *, gamma: int | None = None, topk: int = 1, nodes: int | None = None,
        stop_below: float = 0.0, target: Target | None = None, clock: Clock | None = None,
    ) -> None:  # fmt: skip
        super().__init__(
            gamma=MAX_GAMMA if gamma is None else gamma, topk=topk, stop_below=stop_below, clock=clock
        )  # fmt: skip
        if nodes is not None and topk == 1:
            raise UsageError(f"nodes={nodes} has no effect on a chain: give topk=2 or more for a tree, or leave it out")
        self.draft, self._all_heads = draft, gamma is None
        self.nodes = (nodes or NODES) if topk > 1 else None
        self._states: LastStates | None = None
        self._root = torch.empty(0)  # for each row the state that entered the LM head at its last kept token
        if target is not None:
            self._check(target.model)

    @classmethod
    def from_pretrained(cls, folder: str | Path, model: Any = None, **options: Any) -> "Medusa":
        """A method with the draft in `folder`. options: as in the constructor.

        The draft is loaded now if `model` is given, else at the first call. UsageError if it was made for another
        model, is damaged, or has no Medusa heads.
        """
        return cls(Path(folder) if model is None else Draft.load(Path(folder), model), **options)

    def draft_for(self, model: Any) -> Draft:
        if isinstance(self.draft, Path):
            self.draft = Draft.load(self.draft, model)
        draft: Draft = self.draft
        return draft

    def _check(self, model: Any) -> None:
        head, manifest = self.draft_for(model).head, self.draft_for(model).manifest
        if not isinstance(head, MedusaHeads):
            kind = manifest.head if manifest else type(head).__name__
            raise UsageError(f"the draft has a head of kind {kind}, not medusa heads; use fastvlm, or train medusa")
        if self._all_heads:
            self.gamma = len(head.blocks)
        if self.topk > 1:
            check_takes_trees(model, remedy="draft a chain: topk=1")

    @property
    def states(self) -> LastStates:
        assert self._states is not None, "the method has not been called"
        return self._states

    @property
    def heads(self) -> MedusaHeads:
        head = self.draft.head
        assert isinstance(head, MedusaHeads)
        return head

    @property
    def places(self) -> int:
        """How many places a round may draft."""
        return min(self.gamma, len(self.heads.blocks))

    @property
    def beyond(self) -> int:
        return self.nodes or 0

    def carriers(self) -> list[Carrier]:
        return [self.states]

    @contextmanager
    def around(self, model: Any) -> Iterator[None]:
        self._check(model)
        if self._states is None or self._states.model is not model:
            self._states = LastStates(model)
        with super().around(model), self.states.watched():
            yield
        self._root = torch.empty(0)

    def begin(self, session: Session) -> None:
        super().begin(session)
        seen = self.states.latest
        if seen is None or seen.ndim != 3:
            raise UsageError(f"{type(session.model).__name__} does not call its LM head with one state for each "
                             "position, so medusa heads cannot read it; use another method")  # fmt: skip
        self._root = self._taken([row.place for row in session.rows], [seen.shape[1] - 1] * len(session.rows))

    def verified(self, session: Session, outputs: Any, drafts: Drafts, standing: Tokens) -> None:
        seen = self.states.latest
        assert seen is not None
        before = seen.shape[1] - drafts.count - 1
        going = [number for number, row in enumerate(session.rows) if not row.stop]
        self._root = self._taken(going, [before + len(standing[number]) - 1 for number in going])

    def _taken(self, rows: Sequence[int], columns: Sequence[int]) -> Tensor:
        """(rows, width): the state that entered the LM head in the latest pass, for each row at a column of its own."""
        seen = self.states.latest
        assert seen is not None
        if len(seen) == 1:
            return seen[:1, columns[0]] if rows else seen[:0, 0]
        return seen[list(rows), list(columns)]

    def _logits(self) -> Tensor:
        """(rows, places, vocabulary), float32: what each head says of its place."""
        draft, states = self.draft, self.states
        ahead = self.heads.ahead(self._root, self.places)
        return states.logits(self.heads.through(ahead, draft.output or states.output_of))

    def propose(self, session: Session, drafts: Drafts) -> None:
        """A chain: each head's likeliest token or, where tokens are sampled, one drawn from its distribution."""
        if not drafts.wanted:
            return
        logits = self._logits()
        changed = session.samples or len(session.processors) > 0
        known, sure = list[list[int]](), list[list[float]]()
        if self.stop_below or not changed:
            chances, ids = torch.softmax(logits, dim=-1).max(dim=-1)
            found = torch.stack([ids.float(), chances]).tolist()  # one transfer; float32 holds ids up to 2^24
            known = [[int(token) for token in row] for row in found[0]]
            sure = [list(accumulate(row, mul)) for row in found[1]]
        for place in range(self.places):
            # What counts is the likeliest token, before any logits processor: see Session.draft.
            if not drafts.wanted or (self.stop_below and drafts.doubted([row[place] for row in sure], self.stop_below)):
                return
            if not changed:
                taken = session.propose([[row[place]] for row in known], drafts)
            else:
                taken = session.draft(logits[:, place : place + 1], drafts)
            if not taken:
                return

    def branch(self, session: Session, tree: Tree, path: Sequence[int], standing: Sequence[int]) -> None:
        last = path[-1] if path else ROOT
        self._root = self._taken([0], [-1 - len(tree) + last + 1])

    def tree(self, session: Session) -> Tree:
        """The most probable combinations of the heads' likeliest tokens, one place below the limit at most."""
        depth = min(self.places, session.remaining - 1)
        if depth < 1:
            return Tree([], [])
        logits = self._logits()[:, :depth]
        if len(session.processors):  # all see the output so far; the rule of acceptance gives each node its own prefix
            logits = torch.stack([session.processed(logits[:, place : place + 1]) for place in range(depth)], dim=1)
        likeliest = torch.softmax(logits[0], dim=-1).topk(min(self.topk, logits.shape[-1]), dim=-1)
        ids, chances = torch.stack([likeliest.indices.float(), likeliest.values]).tolist()
        candidates = [
            [(int(token), chance) for token, chance in zip(*row, strict=True) if int(token) not in session.placeholders]
            for row in zip(ids, chances, strict=True)
        ]
        return product_tree(candidates, self.nodes or NODES, self.stop_below, session.end_tokens)


def product_tree(
    candidates: Sequence[Sequence[tuple[int, float]]], most: int, least: float = 0.0, ends: Collection[int] = ()
) -> Tree:
    """The `most` paths with the largest products of chances, of all in the product of the candidates of each depth.

    candidates: for each depth (token, chance), the likeliest first. Paths less probable than `least`, or impossible,
    are left out, and nothing follows a token of `ends`. The paper calibrates one tree for all rounds; this one is made
    anew from each round's probabilities.
    """
    tokens, parents = list[int](), list[int]()
    queue: list[tuple[float, int, int, int, float]] = []  # minus its chance, depth, rank, parent, the parent's chance

    def offer(depth: int, rank: int, parent: int, before: float) -> None:
        if depth < len(candidates) and rank < len(candidates[depth]):
            chance = before * candidates[depth][rank][1]
            if chance > 0 and chance >= least:
                heapq.heappush(queue, (-chance, depth, rank, parent, before))

    offer(0, 0, ROOT, 1.0)
    while queue and len(tokens) < most:
        chance, depth, rank, parent, before = heapq.heappop(queue)
        token = candidates[depth][rank][0]
        offer(depth, rank + 1, parent, before)
        if token not in ends:
            offer(depth + 1, 0, len(tokens), -chance)
        tokens.append(token)
        parents.append(parent)
    return Tree(tokens, parents)
