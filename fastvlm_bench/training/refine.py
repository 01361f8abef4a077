"""Refinement from rejections: "rejected tokens are corrected by the full model and used to guide the draft model's
refinement" (arXiv 2510.22641). The text after a rejection is the target's; what teaches most is where it was needed.
"""

import random
from collections.abc import Mapping, Sequence

from fastvlm_bench.training.answers import Example
from fastvlm_bench.training.prediction import Checked, simulate

BOOST = 4.0
CAPACITY = 512
GAMMA, STOP_BELOW = 10, 0.0


Rows = dict[str, list[float]]
"""Recipe -> one weight a taught position of a text."""


def rejection_weights(checked: Mapping[str, Sequence[Checked]], refining: Sequence[str]) -> list[Rows]:
    """For each text: recipe -> one weight a taught position, 1 + BOOST where the loop rejected that recipe's draft.

    The rejections are the loop's own: while a draft is right it stands on the target's text, so playing the loop on
    the guesses along that text gives the very rounds that decoding would (a test compares the two).
    """
    texts = max((len(found) for found in checked.values()), default=0)
    out: list[Rows] = [{} for _ in range(texts)]
    for name in refining:
        rejected = simulate(checked[name], GAMMA, STOP_BELOW).rejected
        for row, text, places in zip(out, checked[name], rejected, strict=True):
            row[name] = [1.0] * len(text.right)
            for place in places:
                row[name][place] += BOOST
    return out


class ReplayBuffer:
    """The latest texts with their weights; the oldest leave. A draw depends on what is held and on its seed."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self.capacity = capacity
        self.held: list[tuple[Example, Rows]] = []

    def add(self, examples: Sequence[Example], weights: Sequence[Rows]) -> None:
        self.held = [*self.held, *zip(examples, weights, strict=True)][-self.capacity :]

    def draw(self, count: int, seed: int) -> list[tuple[Example, Rows]]:
        """Texts with more rejections are drawn more often; without replacement."""
        rng = random.Random(seed)
        keyed = []
        for item in self.held:
            weight = sum(sum(row) for row in item[1].values()) or 1.0
            keyed.append((rng.random() ** (1.0 / weight), item))  # Efraimidis and Spirakis 2006
        keyed.sort(key=lambda pair: pair[0], reverse=True)
        return [item for _, item in keyed[:count]]
