"""Which token is chosen, drafted and accepted: the part of a session that turns logits into tokens.

The most likely token, or one that is drawn, after the user's logits processors, each place with its own prefix. Drafts
and target go through the same code, so that both see the same processors.
"""

import math
from typing import Any

import torch
from torch import Tensor

from fastvlm_bench.engine.accept import accept_greedy, accept_sampled, draw
from fastvlm_bench.engine.drafting import Drafts
from fastvlm_bench.engine.rows import Row, Tokens
from fastvlm_bench.errors import NonFiniteLogits
from fastvlm_bench.models.layers import vocabulary


class Choosing:
    """What `Session` is for its logits. `_drawn_from`: the distribution of each draft of the round, where drawn."""

    takes_several = False
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

    @property
    def remaining(self) -> int:
        """How many more tokens may be emitted."""
        raise NotImplementedError

    def remaining_of(self, row: Row) -> int:
        """How many more tokens this row may emit."""
        raise NotImplementedError

    def write_ahead(self, tokens: Any) -> int:
        """Let tokens follow the only row's output. Returns the length with them."""
        raise NotImplementedError

    def choose(self, logits: Tensor, ahead: Tokens = (), first: int = 0) -> list[list[int]]:
        """Choose the token at each position of `logits`, (rows, k, vocab), after the user's logits processors.

        It is the most likely one or, where `generate` samples, one drawn with torch's own generator, as `generate`
        draws. Position i follows the output and the first `first + i` tokens of `ahead`, so that a repetition penalty,
        say, sees the right prefix for draft and target alike. Ties go to the lowest id, for every method. Raises
        NonFiniteLogits.
        """
        if self.samples:
            return [[draw(weights) for weights in self.probabilities(logits, first)]]
        top, ids = self.processed(logits, first).max(dim=-1)
        if not all(map(math.isfinite, top.tolist())):  # `max` and `argmax` alike give the index of a NaN
            raise self._not_finite(first)
        return [ids.tolist()]

    def new_drafts(self, gamma: int) -> Drafts:
        """A round's empty `Drafts`: at most γ tokens per row, and one below the limit, for verification adds one."""
        rooms = [self.remaining_of(row) - 1 for row in self.rows]
        return Drafts(self.rows, rooms, min(gamma, self.remaining - 1), self.end_tokens, self.placeholders)

    def draft(self, logits: Tensor, drafts: Drafts) -> bool:
        """Choose each row's next draft from logits (rows, 1, vocab) and add it to `drafts`. False if none is added."""
        if len(self.processors) and not self.takes_several:
            self.write_ahead(drafts.columns[0])  # processors must see the drafts, whichever model has read them
        if not self.samples:
            return drafts.take(self.choose(logits, drafts.columns, drafts.count))
        (weights,) = self.probabilities(logits, drafts.count)
        if self.placeholders:  # excluded before the draw: to drop one after it was drawn would favour other tokens
            kept = weights.clone()
            kept[[token for token in self.placeholders if token < len(kept)]] = 0  # Mllama's is beyond its LM head
            weights = kept / kept.sum() if bool(kept.sum() > 0) else weights
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
        predicted = self.choose(logits, drafts.columns)
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
        start = self.length + first
        return torch.cat([
            self.processors(self._ids[:, : start + i], logits[:, i].to(torch.float32, copy=True))
            for i in range(logits.shape[1])
        ])  # fmt: skip

    def _not_finite(self, first: int) -> NonFiniteLogits:
        emitted = self.length - self.prompt_length
        return NonFiniteLogits(f"the largest logit is not finite, {emitted + first} tokens on")
