"""Which examples an update sees. Only its number and the seed decide that, so that a resumed training sees the same."""

import random
from collections.abc import Sequence

from fastvlm_bench.training.answers import Example


class Order:
    """Batches of `size` examples, epoch after epoch. A batch has texts of similar length, so that little is padded."""

    def __init__(self, examples: Sequence[Example], size: int, seed: int) -> None:
        self.examples, self.size, self.seed = examples, min(size, len(examples)), seed
        self.groups = max(len(examples) // self.size, 1)
        self._epoch, self._order = -1, list[list[int]]()

    def batch(self, number: int) -> list[Example]:
        epoch, place = divmod(number, self.groups)
        if epoch != self._epoch:
            rng = random.Random(f"{self.seed}/{epoch}")
            indices = sorted(range(len(self.examples)), key=lambda i: (len(self.examples[i].answer) // 8, rng.random()))
            for place_left_out in sorted(rng.sample(range(len(indices)), len(indices) - self.groups * self.size))[::-1]:
                del indices[place_left_out]  # at random: dropping the last ones would always drop the longest texts
            chunks = [indices[i : i + self.size] for i in range(0, self.groups * self.size, self.size)]
            rng.shuffle(chunks)
            self._epoch, self._order = epoch, chunks
        return [self.examples[i] for i in self._order[place]]
