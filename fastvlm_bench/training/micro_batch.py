"""How many texts pass a model together: fewer, for good, once the memory has run out."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch

from fastvlm_bench.machine.failures import out_of_memory

Item = TypeVar("Item")
Made = TypeVar("Made")


class MicroBatch:
    """`size` texts at a time; `say` is told when memory made them fewer."""

    def __init__(self, size: int, say: Callable[[str], None]) -> None:
        self.size, self.say = size, say

    def fit(self, work: Callable[[int], Made], doing: str) -> Made:
        """Do the work with `size` texts at a time; where memory runs out, all of it again with half of them.

        The error itself where one text alone does not fit.
        """
        while True:
            try:
                return work(self.size)
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error) or self.size == 1:
                    raise
            self.size //= 2  # outside the except block, so that the traceback no longer holds the tensors
            self.say(f"out of memory {doing}: micro-batch halved to {self.size}")
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def over(self, items: Sequence[Item], work: Callable[[Sequence[Item]], list[Made]], doing: str) -> Iterator[Made]:
        """What the work makes of each item, `size` of them at a time; what does not fit is done in halves."""
        done = 0
        while done < len(items):
            made = self.fit(lambda size, start=done: work(items[start : start + size]), doing)  # type: ignore[misc]
            yield from made
            done += len(made)
