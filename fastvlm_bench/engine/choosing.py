"""Which token is chosen, drafted and accepted: the part of a session that turns logits into tokens.

The most likely token, or one that is drawn, after the user's logits processors, each place with its own prefix. Drafts
and target go through the same code, so that both see the same processors.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastvlm_bench.engine.accept import accept_greedy, accept_sampled, draw
from fastvlm_bench.engine.drafting import UNREAD, Doubt, Drafts
from fastvlm_bench.engine.processors import at_each_place
from fastvlm_bench.engine.rows import Row, Tokens
from fastvlm_bench.errors import NonFiniteLogits
from fastvlm_bench.models.layers import vocabulary

FEW = 16
"""So many tokens are written one by one. More are sent as a list, for which the host waits."""
NOT_FINITE = -1
"""Stands for the token at a place where no logit, or one that is infinite, is the largest."""


class Choosing:
    """What `Session` is for its logits. `_drawn_from`: the distribution of each draft of the round, where drawn.

    To read a number from the device is to wait for it, so what is decided together is read together: see `docs`'
    page on engines. defers: whether drafts that no rule looks at stay on the device until the verification is read.
    """

    takes_several = False
    defers: bool
    model: Any
    processors: Any
    samples: bool
    rows: list[Row]
    length: int
    prompt_length: int
    placeholders: frozenset[int]
    end_tokens: frozenset[int]
    _ids: Tensor
    _drawn_from: list[Tensor]
    _ahead: list[int]
    _ahead_of: int

    @property
    def remaining(self) -> int:
        """How many more tokens may be emitted."""
        raise NotImplementedError

    def remaining_of(self, row: Row) -> int:
        """How many more tokens this row may emit."""
        raise NotImplementedError

    def write_ahead(self, tokens: Sequence[int]) -> int:
        """Let tokens follow the only row's output, for the next pass or processor. Returns the length with them."""
        end = self.length + len(tokens)
        if end > self._ids.shape[1]:  # a tree has more tokens than the output may still take
            self._ids = torch.nn.functional.pad(self._ids, (0, end - self._ids.shape[1]))
        if UNREAD in tokens:  # they are on the device already
            return end
        new = self._written(tokens)
        if len(tokens) - new > FEW:
            self._ids[:, self.length + new : end] = torch.tensor(tokens[new:], device=self._ids.device)
        else:
            for place in range(new, len(tokens)):  # a number is filled in by the device; a list would be sent to it
                self._ids[0, self.length + place] = tokens[place]
        self._ahead, self._ahead_of = list(tokens), self.length
        return end

    def _written(self, tokens: Sequence[int]) -> int:
        """How many of the tokens stand after the output already, so that the device need not be told."""
        if self._ahead_of != self.length:
            return 0
        pairs = enumerate(zip(self._ahead, tokens, strict=False))
        return next((place for place, (mine, new) in pairs if mine != new), min(len(self._ahead), len(tokens)))

    def choose(self, logits: Tensor, ahead: Tokens = (), first: int = 0) -> list[list[int]]:
        """Choose the token at each position of `logits`, (rows, k, vocab), after the user's logits processors.

        It is the most likely one or, where `generate` samples, one drawn with torch's own generator, as `generate`
        draws. Position i follows the output and the first `first + i` tokens of `ahead`, so that a repetition penalty,
        say, sees the right prefix for draft and target alike. Ties go to the lowest id, for every method. Raises
        NonFiniteLogits.
        """
        if self.samples:
            return [[draw(weights) for weights in self.probabilities(logits, first)]]
        return [self._finite(finite_argmax(self.processed(logits, first)).tolist(), first)]

    def new_drafts(self, gamma: int) -> Drafts:
        """A round's empty `Drafts`: at most γ tokens per row, and one below the limit, for verification adds one."""
        rooms = [self.remaining_of(row) - 1 for row in self.rows]
        return Drafts(self.rows, rooms, min(gamma, self.remaining - 1), self.end_tokens, self.placeholders)

    def draft(self, logits: Tensor, drafts: Drafts, doubt: Doubt | None = None, unread: bool = False) -> bool:
        """Choose each row's next draft from logits (rows, 1, vocab) and add it to `drafts`. False if none is added.

        doubt: none is added where it says so. It is told the probability of the likeliest token, before any logits
        processor. The token that is then drawn must not matter: to drop a draft because of what was drawn would change
        the distribution of the output. unread: whether a draft may stay on the device where nothing asks for it: that
        is so where the passes that read it are the target's own.
        """
        if len(self.processors) and not self.takes_several and not drafts.unread:
            self.write_ahead(drafts.columns[0])  # processors must see the drafts, whichever model has read them
        if doubt is not None and not self.samples and not self.takes_several:
            known, chances = read_together(finite_argmax(self.processed(logits, drafts.count)), chance(logits))
            return not doubt(chances) and drafts.take([self._finite(known, drafts.count)])
        if doubt is not None and doubt(chance(logits).tolist()):
            return False
        if doubt is None and unread and self.defers and len(drafts.unread) == drafts.count:
            self.write_unread(finite_argmax(self.processed(logits, drafts.count)), drafts)
            return True
        if not self.samples:
            return drafts.take(self.choose(logits, drafts.columns, drafts.count))
        (weights,) = self.probabilities(logits, drafts.count)
        if self.placeholders:  # excluded before the draw: to drop one after it was drawn would favour other tokens
            kept = weights.clone()
            kept[[token for token in self.placeholders if token < len(kept)]] = 0  # Mllama's is beyond its LM head
            weights = torch.where(kept.sum() > 0, kept / kept.sum(), weights)
        taken = drafts.take([[draw(weights)]])
        if taken:
            self._drawn_from.append(weights)
        return taken

    def propose(self, tokens: Tokens, drafts: Drafts) -> bool:
        """Add to `drafts` tokens that were not drawn: one for each row, or none where it has stopped drafting.

        For the acceptance rule such a draft has probability 1: it stands with the target's own probability of it. False
        if no row takes one.
        """
        taken = drafts.take(tokens)
        if taken and self.samples:
            weights = torch.zeros(vocabulary(self.model), device=self._ids.device)
            weights[tokens[0][0]] = 1.0
            self._drawn_from.append(weights)
        return taken

    def held(self, tokens: list[int], chances: list[Tensor]) -> Drafts:
        """The `Drafts` of the only row that hold these tokens, to be accepted next.

        chances: where `generate` samples, the distribution, (vocab,), that each of them was drawn from.
        """
        drafts = self.new_drafts(len(tokens))
        for token in tokens:
            drafts.take([[token]])
        self._drawn_from = list(chances)
        return drafts

    def accept(self, drafts: Drafts, logits: Tensor) -> tuple[list[int], list[list[int]]]:
        """For each row: how many drafts stand, and these drafts followed by the target's own next token.

        logits: the target's, (rows, k, vocab), for the place after the output so far and after each draft. No token
        follows where all drafts stand and there are no logits after the last one, because it is an EOS.
        """
        if self.samples:
            (mine,), p, q = drafts.tokens, self.probabilities(logits, 0), self._drawn_from
            self._drawn_from = []
            accepted, token = accept_sampled(mine, torch.stack(q) if q else p[:0], p)
            return [accepted], [mine[:accepted] + ([] if token is None else [token])]
        predicted = self._choose_and_read(logits, drafts) if drafts.unread else self.choose(logits, drafts.columns)
        stand = [accept_greedy(mine, own) for mine, own in zip(drafts.tokens, predicted, strict=True)]
        return stand, [
            mine[:count] + own[count : count + 1]
            for mine, own, count in zip(drafts.tokens, predicted, stand, strict=True)
        ]

    def probabilities(self, logits: Tensor, first: int) -> Tensor:
        """(k, vocab): the probabilities at each position of `logits`, (1, k, vocab), after the logits processors."""
        weights = self.processed(logits, first).float()
        if not bool(weights.amax(dim=-1).isfinite().all()):  # a draw from NaN fails a GPU for good
            raise self._not_finite(first)
        return torch.softmax(weights, dim=-1)

    def processed(self, logits: Tensor, first: int = 0) -> Tensor:
        """(k, vocab): `logits`, (1, k, vocab), after the user's logits processors, with the prefixes of `choose`."""
        if not len(self.processors):
            return logits[0]
        return at_each_place(self.processors, self._ids, self.length + first, logits)

    def write_unread(self, ids: Tensor, drafts: Drafts) -> None:
        """Let a draft follow the output and the drafts so far, and read neither. ids: (1,), of which -1 is none.

        A token that must not be drafted is not read by a pass, either: the last token of the prompt is, in its place.
        """
        readable = ids
        for token in (NOT_FINITE, *self.placeholders):
            readable = torch.where(readable == token, self._ids[0, self.prompt_length - 1], readable)
        self._ids[:, self.length + drafts.count], self._ahead = readable, []
        drafts.take_unread(ids)

    def _choose_and_read(self, logits: Tensor, drafts: Drafts) -> list[list[int]]:
        """As `choose` for the places of a verification. The drafts that are unread are read with it, at once."""
        count = len(drafts.unread)
        read: list[int] = torch.cat([*drafts.unread, finite_argmax(self.processed(logits))]).tolist()
        drafts.read(self._finite(read[:count], 0))
        return [self._finite(read[count:], 0)]

    def _finite(self, tokens: list[int], first: int) -> list[int]:
        """The tokens. NonFiniteLogits if there was none to choose."""
        if NOT_FINITE in tokens:
            raise self._not_finite(first)
        return tokens

    def _not_finite(self, first: int) -> NonFiniteLogits:
        emitted = self.length - self.prompt_length
        return NonFiniteLogits(f"the largest logit is not finite, {emitted + first} tokens on")


def finite_argmax(logits: Tensor) -> Tensor:
    """(…, vocab) -> (…): the most likely token, or `NOT_FINITE` where the largest logit is NaN or infinite."""
    top, ids = logits.max(dim=-1)  # `max` and `argmax` alike give the index of a NaN
    return torch.where(top.isfinite(), ids, NOT_FINITE)


def chance(logits: Tensor) -> Tensor:
    """(rows,): the probability of the likeliest token at the last place of (rows, k, vocab), in float32.

    One softmax is one pass over the vocabulary: measured, it takes less time than any way around it.
    """
    return torch.softmax(logits[:, -1], dim=-1, dtype=torch.float32).amax(dim=-1)


def read_together(ids: Tensor, chances: Tensor | None) -> tuple[list[int], list[float]]:
    """Token ids and probabilities, (n,) each, read from the device at once. float64 holds both exactly."""
    if chances is None:
        return ids.tolist(), []
    known, sure = torch.stack([ids.double(), chances.double()]).tolist()
    return [int(token) for token in known], sure
