"""Feeds a head with the states of the target's passes, row by row of a batch, and keeps the head's cache.

The cache holds what the head has read of the target's states, in columns: each row's end in the last one, so that rows
of different lengths are padded on the left. What is drafted is appended, and forgotten before the next verification.
"""

import torch
from torch import Tensor

from fastvlm_bench.drafters.target_states import TargetStates
from fastvlm_bench.drafts.state_heads import StateHead
from fastvlm_bench.engine.batch_cache import Move, move_layer
from fastvlm_bench.engine.rows import Tokens
from fastvlm_bench.errors import UsageError


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
        seen = self.cached
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
        before = self.cached
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
        width = self.cached + 1
        embeds = self.head.embed(tokens).to(self.states)
        self.states = self.head(embeds, self.states, self.positions, self.cache, self._mask(1, width, self._width))
        return self.head.logits(self.states)

    def forget(self, drawn: int) -> None:
        """Forget the last columns, which were drafted."""
        for layer in self.cache.layers:
            layer.crop(-drawn)

    @property
    def cached(self) -> int:
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
