"""How many texts pass a model together. The number is halved, for good, whenever memory runs out."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch

from fastvlm_bench.machine.failures import out_of_memory

Item = TypeVar("Item")
Made = TypeVar("Made")


class MicroBatch:
    """Does work on `size` texts at a time. `say` is told when memory ran out and `size` was halved."""

    def __init__(self, size: int, say: Callable[[str], None]) -> None:
        self.size, self.say = size, say

    def fit(self, work: Callable[[int], Made], doing: str) -> Made:
        """Call `work` with `size`; where memory runs out, halve `size` and do all of the work again.

        Where even one text does not fit, the error is raised. doing: what is done, for the message to `say`.
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
        """Yield what `work` makes of each item, `size` of them at a time; fewer where they do not fit into memory."""
        done = 0
        while done < len(items):
            made = self.fit(lambda size, start=done: work(items[start : start + size]), doing)  # type: ignore[misc]
            yield from made
            done += len(made)
