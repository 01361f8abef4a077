"""A model of another vocabulary drafts: its text is encoded in the target's vocabulary, and the target verifies.

TokenTiming (arXiv 2510.15545). The draft model writes in its own vocabulary. The text that it adds to the answer is
encoded in the target's vocabulary, as a continuation of the very tokens that the target has emitted: those never
change. Dynamic time warping aligns both series of tokens and maps the draft model's probabilities to the target's
tokens. After verification the draft model is told the answer in its own tokens: its cache is rolled back to where they
begin to differ.

Any output is exact, greedy or sampled, because a draft counts as certain (probability 1) in the rejection rule: it
stands with the target's own probability p of it, else the next token is drawn from what p has left. That gives p
whatever was proposed, if only the proposal does not depend on the verification's own chances. Mapped probabilities are
no distribution over the target's vocabulary, so they may not stand in that rule. They decide how far to draft. For the
same reason the draft model drafts its likeliest tokens: a certain draft is accepted most often if it is the likeliest.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from fastvlm_bench.drafters.following import Follower, SecondModel, all_rows
from fastvlm_bench.drafters.time_warping import align, mapped
from fastvlm_bench.drafters.wording import Wording
from fastvlm_bench.engine.drafting import Drafts
from fastvlm_bench.engine.rows import Tokens
from fastvlm_bench.engine.session import Session
from fastvlm_bench.machine.clock import Clock
from fastvlm_bench.method_spec import GAMMA, STOP_BELOW, MethodKind, Option
from fastvlm_bench.models.draft_model import tokenizer_of
from fastvlm_bench.models.load import Target

METHOD = MethodKind(
    "drafts with a model of another vocabulary, whose text is encoded anew", lossless=True, group="drafts",
    options={
        "model": Option(str, None, "the model that drafts", source=True, needed=True), "gamma": GAMMA,
        "stop_below": STOP_BELOW,
    },
)  # fmt: skip
LONGER = 8
"""How many tokens the draft model may need for one of the target's, at most, before it stops drafting."""


class TokenTiming(SecondModel):
    """As `SecondModel`; γ counts tokens in either vocabulary. In a batch each row drafts alone."""

    def __init__(
        self, model: str | Target, *, target: Target, gamma: int = 10, stop_below: float = 0.0,
        clock: Clock | None = None,
    ) -> None:  # fmt: skip
        super().__init__(model, target=target, gamma=gamma, stop_below=stop_below, clock=clock)
        self.own, self.other = Wording(tokenizer_of(target)), Wording(tokenizer_of(self.second))
        eos = self.second.model.generation_config.eos_token_id
        ends = {*([eos] if isinstance(eos, int) else eos or []), self.other.tokenizer.eos_token_id} - {None}
        self.ends = frozenset(ends)
        self.tellers: dict[int, Teller] = {}

    def open(self, shown: Sequence[dict[str, Any]], most: int) -> None:
        for place, inputs in enumerate(shown):
            follower = Follower(self.second.model, inputs, LONGER * most, self.clock)
            self.tellers[place] = Teller(follower, self.other, self.ends)

    def followers(self) -> Sequence[Follower]:
        return [teller.follower for teller in self.tellers.values()]

    def close(self) -> None:
        self.tellers.clear()

    def begin(self, session: Session) -> None:
        super().begin(session)
        for row in all_rows(session):
            if not row.stop:
                self.tellers[row.place].begin(self.own.complete(row.tokens))

    def propose(self, session: Session, drafts: Drafts) -> None:
        found = [self.drafted(session, row.place, row.tokens, drafts.room(i)) for i, row in enumerate(session.rows)]
        for place in range(max(map(len, found))):
            if not session.propose([row[place : place + 1] for row in found], drafts):
                break

    def drafted(self, session: Session, place: int, said: Sequence[int], room: int) -> list[int]:
        """Up to `room` tokens of the target's vocabulary that follow `said`, the row's output."""
        teller = self.tellers[place]
        words, chances, ended = teller.draft(room, self.stop_below)
        if not words and not ended:
            return []
        text = self.other.added(teller.tokens, words)
        found = self.own.continued(said, text)
        if self.stop_below and found:
            pairs = align(self.other.pieces(words), self.own.pieces(found))
            likely = mapped(chances, pairs, len(found))
            sure = next((i for i, chance in enumerate(likely) if chance < self.stop_below), len(found))
            found, ended = found[:sure], ended and sure == len(found)
        if ended and (found or not words) and (end := self.end(session.end_tokens)) is not None:
            found = [*found, end]
        return found[:room]

    def end(self, ends: Collection[int]) -> int | None:
        """The target's token for the end of an answer; None where none ends it."""
        own = self.own.tokenizer.eos_token_id
        return own if own in ends else min(ends, default=None)

    def verified(self, session: Session, outputs: Any, drafts: Drafts, standing: Tokens) -> None:
        for row in session.rows:
            if not row.stop:
                self.tellers[row.place].tell(self.own.complete(row.tokens))


@dataclass
class Teller:
    """The draft model's side of one row. `mute`: it knows nothing of the answer yet, or has no room for more.

    lead: "" or " ", what the answer begins with for the draft model. wording, ends: of its vocabulary.
    """

    follower: Follower
    wording: Wording
    ends: Collection[int]
    lead: str = ""
    mute: bool = True

    def __post_init__(self) -> None:
        self._begun, self._drafts = False, list[int]()

    @property
    def tokens(self) -> list[int]:
        """The answer so far in the draft model's vocabulary."""
        return self.follower.session.rows[0].tokens

    def begin(self, text: str) -> None:
        """The target's first token is known, with its complete text."""
        self.lead = self._leading(text)
        tail = self._spelt((), text)
        first = tail or self._anything()
        self.follower.begin([first[:1]], [""])
        if len(first) > 1:
            self.follower.retell(first, [])
        self.mute = not tail

    def _leading(self, text: str) -> str:
        """Whether answers begin with a space for the draft model: its prompt's last logits tell, if it has a choice.

        Some tokenizers write the space after the prompt's last word with the answer's first word; others do not.
        """
        starts = {lead: self.wording.encode(lead + text.lstrip(" "))[:1] for lead in ("", " ")}
        if not text.strip() or starts[""] == starts[" "]:
            return ""
        logits = self.follower.outputs.logits[0, -1]
        return max(starts, key=lambda lead: float(logits[starts[lead][0]]))

    def _anything(self) -> list[int]:
        """A token that stands for an answer of which nothing is known. It is replaced before anything is drafted."""
        return self.follower.readable(self.wording.encode("\n")[-1:] or [0])

    def _spelt(self, before: Sequence[int], text: str) -> list[int]:
        """The tokens that follow `before` so that both say `text`, the whole answer."""
        whole, said = self.lead + text.lstrip(" "), self.wording.decode(before)
        rest = whole[len(said) :]
        return self.wording.continued(before, rest) or self.wording.encode(rest)

    def draft(self, most: int, stop_below: float) -> tuple[list[int], list[float], bool]:
        """The likeliest next tokens, their probabilities, and whether the answer then ends.

        Drafting stops before a token that stands for no text, and before one that is less probable than `stop_below`.
        """
        words, chances = self._drafts, list[float]()
        words.clear()
        while len(words) < most and not self.mute and not self.follower.full:
            logits = self.follower.read([words])
            scores = self.follower.drawable(logits, logits.shape[-1])[0, -1]
            best, word = scores.float().max(dim=-1)
            chance = torch.exp(best - scores.float().logsumexp(dim=-1)) if stop_below else best
            told = torch.stack([word.double(), chance.double()]).tolist()  # one transfer for both
            if stop_below and told[1] < stop_below:
                break
            if int(told[0]) in self.ends or int(told[0]) in self.wording.special:
                return words, chances, int(told[0]) in self.ends
            words.append(int(told[0]))
            chances.append(told[1])
        return words, chances, False

    def tell(self, text: str) -> None:
        """The answer has grown to `text`: bring the draft model's tokens and its cache in step."""
        if not self.follower.session.rows:
            self.mute = True
            return
        kept = len(self.tokens) - self.follower.session.unread
        tail = self._spelt(self.tokens[:kept], text)
        self.mute = not tail and not kept
        self.follower.retell(tail or self.tokens[kept:], self._drafts)
        self._drafts.clear()
