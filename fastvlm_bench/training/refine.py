"""Refinement from rejections: the positions at which a draft was rejected weigh more in further training.

"Rejected tokens are corrected by the full model and used to guide the draft model's refinement" (arXiv 2510.22641). The
corrections are simply the target's own text, and the positions that needed one have the most to teach.
"""

import random
from collections.abc import Mapping, Sequence

from fastvlm_bench.training.answers import Example
from fastvlm_bench.training.prediction import Checked, simulate

BOOST = 4.0
CAPACITY = 512
GAMMA, STOP_BELOW = 10, 0.0


Rows = dict[str, list[float]]
"""Recipe -> a weight for each taught position of one text."""


def rejection_weights(checked: Mapping[str, Sequence[Checked]], refining: Sequence[str]) -> list[Rows]:
    """The weights of each text: 1 + BOOST at positions where the loop would reject the recipe's draft, else 1.

    checked: recipe -> its guesses along each text. refining: the recipes that get weights. The rejections are those of
    real decoding: as long as a draft is right it stands on the target's text, so simulating the loop on the guesses
    along that text gives the same rounds (a test compares the two).
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
    """Holds the latest texts with their weights, at most `capacity` of them.

    What is drawn depends only on the texts held and on the seed, so that a resumed training draws the same.
    """

    def __init__(self, capacity: int = CAPACITY) -> None:
        self.capacity = capacity
        self.held: list[tuple[Example, Rows]] = []

    def add(self, examples: Sequence[Example], weights: Sequence[Rows]) -> None:
        self.held = [*self.held, *zip(examples, weights, strict=True)][-self.capacity :]

    def draw(self, count: int, seed: int) -> list[tuple[Example, Rows]]:
        """At most `count` texts, without replacement; the more rejections a text has, the likelier it is drawn."""
        rng = random.Random(seed)
        keyed = []
        for item in self.held:
            weight = sum(sum(row) for row in item[1].values()) or 1.0
            keyed.append((rng.random() ** (1.0 / weight), item))  # Efraimidis and Spirakis 2006
        keyed.sort(key=lambda pair: pair[0], reverse=True)
        return [item for _, item in keyed[:count]]
