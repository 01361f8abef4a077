"""When to draft, and how far: one more drafted token while it is worth its time. Pure bookkeeping, without torch.

Two questions are answered from what earlier rounds took and gave, within one task.

May this round draft at all? Rounds of either kind, drafting and plain (one pass of the whole target), are compared by
tokens per second. How much a drafting round gives depends on where in the answer it stands: next to the end of a short
answer there is nothing to draft. So drafting rounds are kept apart by the number of tokens before them, in groups that
double (1, 2-3, 4-7, ...).

May this round draft one more token? With ρ the tokens per second of late, one more draft pass pays if

    P(this one and all drafts before it stand) >= ρ · (seconds of a draft pass + what one more position is to verify)

which is optimal stopping by looking one step ahead: a token must come at least as cheaply as tokens come on average.
The chance that a draft stands is how often drafts of like confidence stood before.
"""

from collections import deque
from collections.abc import Sequence
from itertools import islice
from math import inf
from statistics import median

WINDOW = 64
"""How many of the latest rounds and passes count. Older ones may be of another state of the machine."""
FIRST = 2
"""Rounds of each kind that are tried before they are compared."""
BINS, PRIOR = 10, 2.0
"""Confidences are counted in so many classes. Before anything is known of a class, drafts stand as often as they are
sure; this counts as so many drafts."""


class Pacing:
    """What is known of one task.

    explore: one round in so many is of the kind that looks slower; one in 4 times as many where it is half as fast.
    """

    def __init__(self, explore: int) -> None:
        self.explore = explore
        self._plain_s: deque[float] = deque(maxlen=WINDOW)
        self._draft_s: deque[float] = deque(maxlen=WINDOW)
        self._verify_s: dict[int, deque[float]] = {}
        self._late: deque[tuple[int, float]] = deque(maxlen=WINDOW)
        self._drafting: dict[int, deque[tuple[int, float]]] = {}
        self._decided: dict[int, int] = {}
        self._stood = [PRIOR * (2 * n + 1) / (2 * BINS) for n in range(BINS)]
        self._tested = [PRIOR] * BINS
        self._standing, self._bar = 1.0, 0.0

    def drafts(self, before: int) -> bool:
        """Whether the next round, with `before` tokens of the answer before it, should draft."""
        group = before.bit_length()
        own = self._drafting.get(group, ())
        if len(own) < FIRST:
            return True
        if len(self._plain_s) < FIRST:
            return False
        self._decided[group] = decided = self._decided.get(group, 0) + 1
        ratio = _rate(own) * median(self._plain_s)
        again = self.explore * max(ratio, 1 / ratio) ** 2 if 0 < ratio < inf else self.explore
        return (ratio >= 1) != (decided % int(again) == 0)

    def begin(self) -> None:
        """A drafting round begins. What a token must be worth is computed here, for the round: medians take time."""
        self._standing = 1.0
        known = self._draft_s and self._late
        self._bar = _rate(self._late) * (median(self._draft_s) + self._rise()) if known else 0.0

    def worth(self, chance: float) -> bool:
        """Whether one more draft, of this confidence, is worth its time. What is told here is taken as drafted."""
        stands = self._standing * self._stood[_bin(chance)] / self._tested[_bin(chance)]
        if stands < self._bar:
            return False
        self._standing = stands
        return True

    def plain(self, seconds: float) -> None:
        """A round without drafts took so long."""
        self._plain_s.append(seconds)
        self._late.append((1, seconds))

    def drafted(
        self, before: int, chances: Sequence[float], tested: int, accepted: int, emitted: int, passes: int,
        draft_s: float, verify_s: float,
    ) -> None:  # fmt: skip
        """A drafting round is over. chances: of its drafts; passes: of the early layers, which verification took on."""
        for number, chance in enumerate(islice(chances, tested)):
            self._tested[_bin(chance)] += 1
            self._stood[_bin(chance)] += number < accepted
        self._draft_s.append(draft_s / passes)
        self._verify_s.setdefault(passes, deque(maxlen=WINDOW)).append(verify_s)
        took = emitted, draft_s + verify_s
        self._drafting.setdefault(before.bit_length(), deque(maxlen=WINDOW)).append(took)
        self._late.append(took)

    def _rise(self) -> float:
        """What one more position adds to the seconds of a verification: the slope between the fewest and the most."""
        few, many = min(self._verify_s), max(self._verify_s)
        if few == many:
            return 0.0
        return max(0.0, (median(self._verify_s[many]) - median(self._verify_s[few])) / (many - few))


def _bin(chance: float) -> int:
    return min(BINS - 1, int(chance * BINS))


def _rate(rounds: Sequence[tuple[int, float]]) -> float:
    """Tokens per second of some rounds; infinite where a clock that is too coarse saw no time pass."""
    seconds = sum(took for _, took in rounds)
    return sum(count for count, _ in rounds) / seconds if seconds > 0 else float("inf")
