"""In which order the methods decode a sample: a Williams design, so that no method always follows the same one.

In the rows of the design each method stands equally often at each place and follows each other method equally often
(Williams 1949). An even number of methods needs as many rows, an odd number twice as many. Every block of that many
samples uses each row once, in an order drawn from the run's seed. So the order of a sample depends on nothing that was
measured before, and a resumed run goes on with the same design.
"""

import random
from functools import lru_cache

NAME = "williams"
"""What `order` in run.json says. Records without it rotated the methods by one from sample to sample."""


@lru_cache(maxsize=64)
def rows(count: int) -> tuple[tuple[int, ...], ...]:
    """The design of `count` methods: rows of places 0 .. count - 1. For an odd count both squares, one mirrored."""
    first = [(i + 1) // 2 if i % 2 else (count - i // 2) % count for i in range(count)]
    square = [tuple((place + shift) % count for place in first) for shift in range(count)]
    mirrored = [row[::-1] for row in square] if count % 2 and count > 1 else []
    return (*square, *mirrored)


def order(count: int, number: int, *parts: object) -> tuple[int, ...]:
    """The order of `count` methods for the sample (or batch) of this number within its suite, from 0.

    parts: what the draw depends on, such as the run's seed, the suite and the repeat.
    """
    design = rows(count)
    block, place = divmod(number, len(design))
    drawn = list(design)
    random.Random(repr((*parts, block))).shuffle(drawn)
    return drawn[place]
