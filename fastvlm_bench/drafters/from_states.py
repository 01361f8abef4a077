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
from fastvlm_bench.drafters.target_states import TargetStates
from fastvlm_bench.drafts.state_heads import StateHead
from fastvlm_bench.engine.batch_cache import Move, move_layer
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


class Reader:
    """Feeds a head with the target's states and keeps its cache, for one generation.

    states, positions: of the head's last column, (rows, 1, width) and (rows, 1) or (3, rows, 1).
    """

    def __init__(self, head: StateHead, target: TargetStates, images: frozenset[int]) -> None:
        self.head, self.target = head, target
        self.cache, self.device = head.new_cache(), next(head.parameters()).device
        self.states = self.positions = torch.empty(0)
        self._images = images
        self._places: list[int] = []  # of the rows in the cache
        self._passed: list[int] = []  # of the rows in the target's latest pass
        self._lengths: list[int] = []  # how many of the last columns of the cache are each row's
        self._new: dict[int, list[int]] = {}  # place -> tokens that the target has emitted and the head has not read
        self._columns: list[int] | None = None  # which columns of the target's latest pass stand; None for the first
        self._before: tuple[list[Tensor], Tensor] | None = None  # the last column of the prompt's pass
        target.after = self._prompt

    def _prompt(self) -> None:
        """Fill the cache with a pass over the prompt, or over a part of it, all but its last column.

        That column needs the token that follows, which is not known yet.
        """
        target, head = self.target, self.head
        states, positions = self._given()
        embeds = self._embeds().to(self.device)
        if self._before is not None:
            last, place = self._before
            states = [torch.cat([one, more], dim=1) for one, more in zip(last, states, strict=True)]
            positions = torch.cat([place, positions], dim=-1)
        else:
            embeds = embeds[:, 1:]
        self._before = [one[:, -1:] for one in states], positions[..., -1:]
        rows, count = embeds.shape[:2]
        seen = self._cached
        lengths = [seen + count] * rows
        if rows > 1 and target.mask is not None:
            lengths = [max(length - 1, 0) for length in target.mask.sum(dim=1).tolist()]
        self._places = self._passed = list(range(rows))
        self._lengths = lengths
        if count:
            read = head.fuse([one[:, :-1] for one in states])
            mask = self._mask(count, seen + count)
            head(embeds.to(read), read, positions[..., :-1], self.cache, mask, fill=True)

    def _given(self) -> tuple[list[Tensor], Tensor]:
        """States and positions of the target's latest pass, on the head's device: layers may lie on several."""
        return [one.to(self.device) for one in self.target.states], self.target.positions.to(self.device)

    def _embeds(self) -> Tensor:
        """What the head reads as embeddings of the prompt's tokens."""
        ids, merged = self.target.ids, self.target.embeds
        if ids is None or (self.head.merged and not self.head.own_embeddings):
            return merged
        own = self.head.embed(ids).to(merged)
        if not self.head.merged or not self._images:
            return own
        of_image = torch.isin(ids, torch.tensor(sorted(self._images), device=ids.device))
        return torch.where(of_image[..., None], merged, own)

    def begun(self, first: dict[int, list[int]]) -> None:
        """The prompt has been read. first: place -> the first token, of the rows that go on."""
        self.target.after = None
        if self._before is None:
            raise UsageError(f"{type(self.target.model).__name__} does not run its text layers in its own pass, where "
                             "a head could read their states; use another method")  # fmt: skip
        self.target.states, self.target.positions = self._before
        self._before = None
        self._new = first

    def told(self, new: dict[int, list[int]], columns: list[int] | None = None) -> None:
        """After a verification. columns: which columns of its pass stand, in a tree.

        new: place -> the tokens that stand and the target's own, of all rows of the pass, in their order.
        """
        self._new, self._columns, self._passed = new, columns, list(new)

    def read(self, places: list[int]) -> Tensor:
        """Read what is new of these rows, of which there may be fewer than before. Returns the logits after it."""
        rows = [self._passed.index(place) for place in places]
        states, positions = self._given()
        new = [self._new[place] for place in places]
        counts = [len(tokens) for tokens in new]
        most = max(counts)
        columns = self._columns or list(range(most))
        if self._places != places:
            kept = torch.tensor([self._places.index(place) for place in places], device=self.device)
            self.cache.batch_select_indices(kept)
            self._lengths = [self._lengths[i] for i in kept.tolist()]
            self._places = places
        if self._passed != places:
            chosen = torch.tensor(rows, device=self.device)
            states, positions = [one[chosen] for one in states], positions.index_select(-2, chosen)
        if self._columns:
            where = torch.tensor(columns, device=self.device)
            states, positions = [one[:, where] for one in states], positions[..., where]
        else:
            states, positions = [one[:, :most] for one in states], positions[..., :most]
        read = self.head.fuse(states)
        tokens = torch.tensor([row + row[-1:] * (most - len(row)) for row in new], device=self.device)
        before = self._cached
        mask = self._mask(most, before + most, before)
        own = self.head(self.head.embed(tokens).to(read), read, positions, self.cache, mask)
        self._settle(own, positions, counts, before)
        return self.head.logits(self.states)

    def _settle(self, own: Tensor, positions: Tensor, counts: list[int], before: int) -> None:
        """Move each row of the cache until its last column that is read is the last of all, and keep its state."""
        most = max(counts)
        self._lengths = [length + count for length, count in zip(self._lengths, counts, strict=True)]
        width = max(self._lengths)
        if min(counts) == most and width == before + most:
            self.states, self.positions = own[:, -1:], positions[..., -1:]
            return
        ends = torch.tensor([before + count for count in counts], device=self.device)
        move = Move(torch.arange(len(counts), device=self.device), ends, width)
        for layer in self.cache.layers:
            move_layer(layer, move)
        last = torch.tensor(counts, device=self.device) - 1
        self.states = own[torch.arange(len(counts), device=self.device), last][:, None]
        index = last.expand(*positions.shape[:-1])[..., None]
        self.positions = positions.gather(-1, index)

    def go_on(self, columns: Tokens) -> Tensor:
        """Read the last draft of each row, after the head's own state. Returns the logits after it."""
        tokens = torch.tensor([row[-1:] for row in columns], device=self.device)
        self.positions = self.positions + 1
        width = self._cached + 1
        embeds = self.head.embed(tokens).to(self.states)
        self.states = self.head(embeds, self.states, self.positions, self.cache, self._mask(1, width, self._width))
        return self.head.logits(self.states)

    def forget(self, drawn: int) -> None:
        """Forget the last columns, which were drafted."""
        for layer in self.cache.layers:
            layer.crop(-drawn)

    @property
    def _cached(self) -> int:
        """Columns of the cache."""
        return int(self.cache.layers[0].get_seq_length())

    @property
    def _width(self) -> int:
        """Columns of the longest row in the cache that come from the target's states."""
        return max(self._lengths, default=0)

    def _mask(self, count: int, columns: int, before: int | None = None) -> Tensor | None:
        """Which columns the last `count` of them read, (rows, 1, count, columns); None where no row is padded.

        before: how many columns there were when `_lengths` was true; all columns by default.
        """
        padding = [(columns if before is None else before) - length for length in self._lengths]
        if not any(padding):
            return None
        there = torch.arange(columns, device=self.device)
        mine = torch.arange(columns - count, columns, device=self.device)[:, None]
        first = torch.tensor(padding, device=self.device)[:, None, None]
        return (((there >= first) & (there <= mine)) | (there == mine))[:, None]
