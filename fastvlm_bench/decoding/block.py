"""Drafts blocks: one pass of the first layers and a block head gives several tokens, so drafting is not sequential.

COrAL (arXiv 2410.09675) predicts a window of positions from each position. Here the target verifies what such a window
says, so the output is the target's own. A head that `train --head block` made stands at an exit; its first place is the
next token, as an attention head's, and the further ones follow from the same state. The drafts then pass the first
layers together, which gives the states for verification and, where more may be drafted, the next block.

    model.generate(**inputs, custom_generate=Block.from_pretrained("drafts/my-block"))
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from operator import mul
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastvlm_bench.decoding.fastvlm import FastVLM
from fastvlm_bench.decoding.medusa import product_tree
from fastvlm_bench.drafters.exit_tree import NODES, verified_tree
from fastvlm_bench.drafts.heads import BlockHead
from fastvlm_bench.drafts.imitation_head import Draft
from fastvlm_bench.engine.drafting import Drafts
from fastvlm_bench.engine.layer_gate import Mode
from fastvlm_bench.engine.session import Session
from fastvlm_bench.engine.tree import Tree, read_tree
from fastvlm_bench.errors import UsageError
from fastvlm_bench.machine.clock import Clock
from fastvlm_bench.method_spec import BLOCK_DRAFT, EXIT_LAYER, MAX_GAMMA, MethodKind, Option
from fastvlm_bench.models.load import Target
from fastvlm_bench.records.trace import Round

METHOD = MethodKind(
    "drafts several tokens from one pass of the first layers, with a block head", lossless=True, group="ours",
    options={
        "draft": BLOCK_DRAFT,
        "exit_layer": EXIT_LAYER,
        "gamma": Option(int, None, "most tokens drafted per round; by default one block", low=1, high=MAX_GAMMA),
        "topk": Option(int, None, "tokens of each place that a tree of one block is made of; by default a chain",
                       low=1, high=32),
        "nodes": Option(int, None, "most tokens of a tree; by default 16", low=2, high=256),
        "least": Option(float, 0.0, "leaves out a draft where its probability times those before it is less", low=0,
                        below=1),
    },
)  # fmt: skip


class Block(FastVLM):
    """gamma: None for one block; more takes several passes. topk, nodes: of a tree, which is made of one block.

    least: a draft is left out where the product of probabilities down to it is less. UsageError for a draft of another
    kind. For single sequences.
    """

    takes_batches = False

    def __init__(
        self, draft: Draft | Path, *, gamma: int | None = None, topk: int | None = None, nodes: int | None = None,
        least: float = 0.0, target: Target | None = None, clock: Clock | None = None,
    ) -> None:  # fmt: skip
        super().__init__(draft, gamma=gamma or 1, stop_below=least, topk=topk, nodes=nodes, target=target, clock=clock)
        self.branch_above = None
        self._one_block = gamma is None
        if target is not None:
            self.draft_for(target.model)

    @property
    def priced(self) -> bool:
        return False

    def draft_for(self, model: Any) -> Draft:
        draft = super().draft_for(model)
        if not isinstance(draft.head, BlockHead):
            kind = draft.manifest.head if draft.manifest else type(draft.head).__name__
            raise UsageError(f"the draft has a head of kind {kind}, not block; use fastvlm, or train block")
        if self._one_block:
            self.gamma = draft.head.places
        return draft

    def round(self, session: Session) -> list[Round]:
        if self.topk:
            return [verified_tree(session, lambda: self._tree(session), self.clock)]
        gate = session.gate
        gate.mode = Mode.DRAFT
        gate.kept.clear()
        halves = self.clock.halves()
        drafts, read = self._blocks(session)
        halves.drafted()
        gate.mode = Mode.VERIFY
        view = session.kwargs_ahead(read - 1) | {"past_key_values": session.cache_view(gate.exit_layer, read)}
        outputs = session.forward(read, drafts.ahead(read - 1), view)
        accepted, standing = session.accept(drafts, outputs.logits)
        seconds = halves.seconds()
        outputs["past_key_values"] = session.cache  # the next round goes on with the cache itself, not with the view
        emitted = session.emit(standing)
        session.keep(outputs, standing, ran=read)
        return drafts.rounds(accepted, emitted, *seconds)

    def _blocks(self, session: Session) -> tuple[Drafts, int]:
        """Draft block after block. Returns the drafts, and how many columns have passed the early layers.

        These are the last emitted token and all drafts, but for an EOS.
        """
        drafts, read, more = session.new_drafts(self.gamma), 0, True
        while (upto := drafts.count + (not drafts.ended)) > read:
            more = more and drafts.wanted
            kwargs = session.kwargs_ahead(upto - 1) | {"past_key_values": session.draft_view()}
            logits = self._pass(session, upto - read, drafts.ahead(upto - 1), kwargs, wide=more)
            read = upto
            more = more and self._take(session, drafts, logits)
        return drafts, read

    def _pass(self, session: Session, count: int, ahead: Sequence[Sequence[int]], kwargs: Any, wide: bool) -> Tensor:
        """Read `count` columns. wide: returns the logits of the block after the last one, (1, places, vocabulary)."""
        if not wide:
            logits: Tensor = session.forward(count, ahead, kwargs, logits=1).logits
            return logits
        with self._window(session) as places:
            return self._said(session, session.forward(count, ahead, kwargs, logits=places).logits[:, -places:])

    def _said(self, session: Session, logits: Tensor) -> Tensor:
        """What a block says, (1, places, vocabulary)."""
        return logits

    @contextmanager
    def _window(self, session: Session) -> Iterator[int]:
        """The time in which a pass gives a block. Yields how many places it has."""
        head: Any = session.gate.head
        head.window = min(head.places, max(session.remaining - 1, 1))
        try:
            yield head.window
        finally:
            head.window = None

    def _take(self, session: Session, drafts: Drafts, logits: Tensor) -> bool:
        """Take a block's tokens as drafts. False where one is doubtful or may not be drafted, so that none follows."""
        sure = [1.0] * logits.shape[1]
        if self.stop_below:  # of unprocessed logits, before a token is drawn: see FastVLM._in_doubt
            sure = list(accumulate(torch.softmax(logits[0].float(), dim=-1).amax(dim=-1).tolist(), mul))
        for place, chance in enumerate(sure):
            if not drafts.wanted:
                return True
            if chance < self.stop_below or not session.draft(logits[:, place : place + 1], drafts):
                return False
        return True

    def _tree(self, session: Session) -> Tree:
        """The most probable paths of one block. Every node passes the early layers, in the order of the tree."""
        logits = self._pass(session, 1, (), session.kwargs | {"past_key_values": session.draft_view()}, wide=True)
        depth = min(self.gamma, session.remaining - 1, logits.shape[1])
        if depth < 1:
            return Tree([], [])
        if len(session.processors):  # all see the output so far; acceptance gives each node its own prefix
            logits = torch.stack([session.processed(logits[:, place : place + 1]) for place in range(depth)], dim=1)
        likeliest = torch.softmax(logits[0, :depth].float(), dim=-1).topk(min(self.topk or 1, logits.shape[-1]), dim=-1)
        ids, chances = torch.stack([likeliest.indices.float(), likeliest.values]).tolist()
        candidates = [
            [(int(token), chance) for token, chance in zip(*row, strict=True) if int(token) not in session.placeholders]
            for row in zip(ids, chances, strict=True)
        ]
        tree = product_tree(candidates, self.nodes or NODES, self.stop_below, session.end_tokens)
        if len(tree):
            read_tree(session, tree, 1, session.kwargs_ahead(len(tree)) | {"past_key_values": session.draft_view()})
        return tree
