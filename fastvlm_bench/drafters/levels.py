"""What the levels of a hierarchy have drafted in one round, and how far each has read it.

Columns are the last emitted token (0) and the drafts after it. Before and after each step, what a level holds was read
by this level and by those below: every column but that of the last token, or that one, too (`ahead`).
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastvlm_bench.engine.accept import accept_greedy, accept_sampled, draw
from fastvlm_bench.engine.cache_view import text_cache
from fastvlm_bench.engine.drafting import Drafts
from fastvlm_bench.engine.level_gate import LevelGate
from fastvlm_bench.engine.session import Session


class Levels:
    """One round of a session. most: tokens that may be drafted in all. stop_below: as for `fastvlm`, at every level.

    tokens: drafted so far. read: how many columns the level at work, and those below it, have read. counts: for each
    level but the lowest, what it checked: drafted, tested, accepted.
    """

    def __init__(self, session: Session, gate: LevelGate, stop_below: float) -> None:
        self.session, self.gate, self.stop_below = session, gate, stop_below
        self.most = session.remaining - 1
        self.tokens: list[int] = []
        self.chances: list[Tensor] = []  # where tokens are drawn, the distribution that each is one of
        self.read = 0
        self.closed = False  # a level was in doubt, so that it adds nothing more before the next one has checked
        self.counts = [[0, 0, 0] for _ in gate.levels[1:]]
        self._never = torch.tensor([token for token in sorted(session.placeholders)], dtype=torch.long)

    @property
    def full(self) -> bool:
        """Whether nothing may follow the last token."""
        return len(self.tokens) >= self.most or self.ended

    @property
    def ended(self) -> bool:
        return bool(self.tokens) and self.tokens[-1] in self.session.end_tokens

    def fill(self, level: int, wanted: int, each: Sequence[int]) -> None:
        """Let a level add tokens until there are `wanted`, or it is in doubt, or nothing may follow.

        Afterwards this level and those below have read all tokens, but for an EOS. each: how many tokens a level adds
        before the next one checks them.
        """
        if level == 0:
            self._draft(wanted)
            return
        while len(self.tokens) < wanted and not self.full:
            base = len(self.tokens)
            self.fill(level - 1, base + each[level - 1], each)
            self._check(level, base)
            if self.closed:
                break
        if not self.ended and self.read == len(self.tokens):
            self._pass(None, level, 1)

    def _draft(self, wanted: int) -> None:
        """The lowest level adds tokens one by one. The last one passes its layers, too, unless it is an EOS."""
        while True:
            logits = self._pass(None, 0, 1)
            if len(self.tokens) >= wanted or self.full or self._doubts(logits)[0]:
                return
            if self.session.samples:
                (weights,) = self._weights(logits, len(self.tokens))
                self.chances.append(weights)
                self.tokens.append(draw(weights))
            else:
                self.tokens += self._chosen(logits, len(self.tokens))
            if self.ended:
                return

    def _check(self, level: int, base: int) -> None:
        """A level checks what was added to its first `base` tokens, and adds its own."""
        logits, drafted = self._pass(level - 1, level, self.read - base), self.tokens[base:]
        doubts = self._doubts(logits)
        if self.session.samples:
            p = self._weights(logits, base)
            q = torch.stack(self.chances[base:]) if drafted else p[:0]
            accepted, own = accept_sampled(drafted, q, p)
            made = drafted[:accepted] + ([] if own is None else [own])
            self.chances[base:] = list(p[: len(made)])
        else:
            chosen = self._chosen(logits, base)
            accepted = accept_greedy(drafted, chosen)
            made = drafted[:accepted] + chosen[accepted : accepted + 1]
        count = self.counts[level - 1]
        for place, value in enumerate((len(drafted), accepted + (accepted < len(drafted)), accepted)):
            count[place] += value
        # A doubtful place ends what the level says, whether its token stood or not: a rule that looked at the token
        # would change the distribution of the output.
        sure = doubts.index(True) if True in doubts else len(doubts)
        self.closed = sure < len(made)
        kept = min(base + min(sure, len(made)), self.most)
        read = min(self.read, base + accepted + 1, kept + 1)
        self.tokens[base:] = made[: kept - base]
        del self.chances[kept:]
        self._forget(level, read)

    def _pass(self, start: int | None, end: int, count: int) -> Tensor:
        """Read the next column from the embedding on, or the last `count` columns from level `start` on."""
        session, gate = self.session, self.gate
        ahead = self.read if start is None else self.read - 1
        first = self.read if start is None else self.read - count
        gate.aim(start, end, first)
        view = session.cache if start is None else session.cache_view(gate.levels[start].exit_layer, count)
        kwargs = session.kwargs_ahead(ahead) | {"past_key_values": view}
        outputs = session.forward(count, [self.tokens[:ahead]], kwargs)
        if start is None:
            self.read += 1
        logits: Tensor = outputs.logits
        return logits

    def verify(self) -> tuple[Any, Drafts]:
        """The target reads all columns from the last level's states on. Returns its output, and what it is to test."""
        session, gate, top = self.session, self.gate, len(self.gate.levels) - 1
        gate.aim(top, None, 0)
        view = session.cache_view(gate.levels[top].exit_layer, self.read)
        kwargs = session.kwargs_ahead(self.read - 1) | {"past_key_values": view}
        outputs = session.forward(self.read, [self.tokens[: self.read - 1]], kwargs)
        outputs["past_key_values"] = session.cache  # the next round goes on with the cache itself, not with the view
        return outputs, session.held(self.tokens, self.chances)

    def _forget(self, level: int, columns: int) -> None:
        """Drop columns that do not stand from the levels that have read them."""
        gate = self.gate
        gate.crop_levels(level, columns, self.read)
        if columns < self.read:
            for index, layer in enumerate(text_cache(self.session.cache).layers[: gate.levels[level].exit_layer]):
                if index not in self.session.fixed:
                    layer.crop(columns - self.read)
        self.read = columns

    def _doubts(self, logits: Tensor) -> list[bool]:
        """For each place whether the level's likeliest token is too improbable."""
        if not self.stop_below:
            return [False] * logits.shape[1]
        chances = torch.softmax(logits[0].float(), dim=-1).amax(dim=-1)
        return [chance < self.stop_below for chance in chances.tolist()]

    def _chosen(self, logits: Tensor, first: int) -> list[int]:
        """The likeliest token at each place, never a placeholder of an image."""
        (tokens,) = self.session.choose(logits, first=first)
        if not self.session.placeholders.isdisjoint(tokens):
            logits = logits.index_fill(-1, self._barred(logits), -torch.inf)
            (tokens,) = self.session.choose(logits, first=first)
        return tokens

    def _weights(self, logits: Tensor, first: int) -> Tensor:
        """(places, vocabulary): what a level draws from, and is tested against: no placeholders of images."""
        weights = self.session.probabilities(logits, first)
        if not len(self._never):
            return weights
        kept = weights.index_fill(-1, self._barred(logits), 0.0)
        total = kept.sum(dim=-1, keepdim=True)
        return torch.where(total > 0, kept / total, weights)

    def _barred(self, logits: Tensor) -> Tensor:
        return self._never[self._never < logits.shape[-1]].to(logits.device)  # Mllama's is beyond its LM head
