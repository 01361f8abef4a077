"""Predicts a draft's speed-up: its rounds are simulated on held-out text, and priced with measured costs. No torch."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from fastvlm_bench.analysis.prediction import PassCosts

GAMMAS = (2, 3, 4, 6, 8, 10, 12, 16)
STOPS = (0.0, 0.3, 0.5, 0.7)
DRAFTS_OFTEN = 0.5


@dataclass(frozen=True)
class Checked:
    """A draft's guesses along one text of the target: for each token after the first, right or not, and how sure.

    right[i] and confidence[i] belong to answer token i + 2, counted from 1; the first token comes from prefill. A guess
    that is never drafted, such as an image's placeholder, has confidence -1. ended: whether the answer ends with EOS;
    else the token limit cut it. room: how many more tokens the limit would have allowed after EOS.
    """

    right: Sequence[bool]
    confidence: Sequence[float]
    ended: bool
    room: int = 10**6

    @property
    def reach(self) -> int:
        """How many tokens a round may draft."""
        return 10**6

    def guess(self, place: int, drafted: int) -> tuple[bool, float]:
        """Whether the guess at `place` is right, and how sure, where `drafted` tokens come before it in its round."""
        return self.right[place], self.confidence[place]


@dataclass(frozen=True)
class CheckedAhead(Checked):
    """The same of heads at the end, which guess all tokens of a round from the state before it.

    right and confidence are those of the first head; further has both of each head after it.
    """

    further: Sequence[tuple[Sequence[bool], Sequence[float]]] = ()

    @property
    def reach(self) -> int:
        return 1 + len(self.further)

    def guess(self, place: int, drafted: int) -> tuple[bool, float]:
        right, confidence = self.further[drafted - 1] if drafted else (self.right, self.confidence)
        return right[place], confidence[place]


@dataclass
class Outlook:
    """The counts that the decoding loop would have over all texts.

    passes: of the early layers, one for each drafted token and one more for the last of them, unless that is EOS; of
    heads at the end, one for each round that may draft.
    verified: number of positions -> how many verifications had as many. by_position: (accepted, tested) for each place
    in a draft. doubted: rounds that stopped drafting in doubt. rejected: for each text, the indices of the guesses that
    were rejected.
    """

    tokens: int = 0
    rounds: int = 0
    drafted: int = 0
    tested: int = 0
    accepted: int = 0
    passes: int = 0
    doubted: int = 0
    verified: dict[int, int] = field(default_factory=dict)
    by_position: list[list[int]] = field(default_factory=list)
    rejected: list[list[int]] = field(default_factory=list)

    @property
    def alpha(self) -> float:
        """Σ accepted / Σ tested."""
        return self.accepted / self.tested if self.tested else 0.0

    @property
    def tau(self) -> float:
        """Σ emitted / rounds."""
        return self.tokens / self.rounds if self.rounds else 0.0

    @property
    def alpha_by_position(self) -> list[float]:
        """The chance that the i-th token of a draft stands, given that those before it did."""
        return [accepted / tested for accepted, tested in self.by_position if tested]

    def speedup(self, costs: PassCosts) -> float:
        """Predicted decode speed-up: Σ tokens · c_1 / (Σ passes · c_d + Σ c_v(positions))."""
        own = self.passes * costs.draft_s + sum(n * costs.verification(k) for k, n in self.verified.items())
        return self.tokens * costs.standard_s / own if own else 0.0


def together(outlooks: Iterable[Outlook]) -> Outlook:
    """The counts of several sets of texts, added up."""
    found = Outlook()
    for one in outlooks:
        for name in ("tokens", "rounds", "drafted", "tested", "accepted", "passes", "doubted"):
            setattr(found, name, getattr(found, name) + getattr(one, name))
        for positions, count in one.verified.items():
            found.verified[positions] = found.verified.get(positions, 0) + count
        longest = max(len(found.by_position), len(one.by_position))
        columns = [list(x.by_position) + [[0, 0]] * (longest - len(x.by_position)) for x in (found, one)]
        found.by_position = [[a + c, b + d] for (a, b), (c, d) in zip(*columns, strict=True)]
        found.rejected += one.rejected
    return found


def simulate(texts: Iterable[Checked], gamma: int, stop_below: float) -> Outlook:
    """Simulate the loop of decoding/fastvlm.py on texts along which every guess of the draft is known.

    For heads at the end it is the chain of decoding/medusa.py, which stops by the product of confidences.

    As long as a draft is right, it stands on the target's own text, so its guesses are exactly those of the loop. What
    the loop would draft after a wrong token is not known. It is assumed to be as confident as along the target's text,
    and to end where that ends.
    """
    found = Outlook(by_position=[[0, 0] for _ in range(gamma)])
    for text in texts:
        at, end, rejected = 0, len(text.right), list[int]()
        while at < end:
            # The last token that the limit allows is never drafted. Where a text ends with EOS before the limit, the
            # loop cannot know that end: after a wrong token it may draft beyond it.
            most = min(gamma, text.reach, end - at - 1 + (text.room if text.ended else 0))
            drafted = accepted = 0
            finished, ahead, sure = False, isinstance(text, CheckedAhead), 1.0
            while drafted < most and not finished:
                place = min(at + drafted, end - 1)
                last = text.ended and at + drafted == end - 1
                right, confidence = text.guess(place, drafted)
                sure = sure * confidence if ahead else confidence
                if sure < stop_below:
                    found.doubted += 1
                    break
                if right and accepted == drafted:
                    accepted += 1
                finished = last and right  # the draft is EOS: nothing follows it
                drafted += 1
            tested = accepted + (accepted < drafted)
            for place in range(tested):
                found.by_position[place][0] += place < accepted
                found.by_position[place][1] += 1
            if tested > accepted:
                rejected.append(at + accepted)
            # Heads at the end are verified from the last token on; the other drafts from the states that they kept.
            positions = drafted + (ahead or not finished)
            found.rounds += 1
            found.drafted += drafted
            found.tested += tested
            found.accepted += accepted
            found.passes += min(most, 1) if ahead else positions
            found.verified[positions] = found.verified.get(positions, 0) + 1
            emitted = min(accepted + 1, end - at)
            found.tokens += emitted
            at += emitted
        found.rejected.append(rejected)
    return found


@dataclass(frozen=True)
class Advice:
    """The options with the best predicted decode speed-up, and what to expect of them."""

    gamma: int
    stop_below: float
    speedup: float
    alpha: float
    tau: float


def advise(texts: Sequence[Checked], costs: PassCosts, must_draft: bool = False) -> Advice:
    """Try every γ and stop_below of the grid; the fastest wins, the smaller γ on a tie.

    must_draft: pass over settings with which it drafts fewer than `DRAFTS_OFTEN` tokens a round, while another one
    drafts more. They are nearly as fast as standard decoding by doing the same: no advice for who has trained a draft.
    """
    best, drafting = None, None
    reach = min((text.reach for text in texts), default=max(GAMMAS))
    for gamma in sorted({min(gamma, reach) for gamma in GAMMAS}):
        for stop in STOPS:
            found = simulate(texts, gamma, stop)
            made = Advice(gamma, stop, found.speedup(costs), found.alpha, found.tau)
            if best is None or made.speedup > best.speedup:
                best = made
            if (
                must_draft
                and found.drafted >= DRAFTS_OFTEN * found.rounds > 0
                and (drafting is None or made.speedup > drafting.speedup)
            ):
                drafting = made
    assert best is not None
    return drafting or best
