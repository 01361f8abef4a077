"""The memory in which recorded passes on a CPU make what they need for a moment only.

What a pass makes is dead once the last operation that reads it has run, and passes run one at a time. So what lives at
different times may lie in the same place, within a pass and among passes. They then hold what the largest of them needs
at once, not all that all of them make, and more of it stays in the processor's cache.
"""

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, UntypedStorage
from torch.utils._pytree import tree_leaves, tree_map_only

Call = tuple[Any, tuple[Any, ...], dict[str, Any], Any]
"""An operation, its arguments by position and by name, and what it returned."""


class Scratch:
    """Memory that recorded passes share. nbytes: its size."""

    def __init__(self) -> None:
        self._known: defaultdict[int, list[UntypedStorage]] = defaultdict(list)  # by their size, a power of two
        self.nbytes = 0

    def lay_out(self, calls: list[Call], movable: set[int]) -> list[Call]:
        """The same calls, but what they make lies here, each from the call that makes it to the last that reads it.

        movable: the places, as `place` names them, of what the calls make and nobody else reads.
        """
        touched = [{place(one): one for one in tensors(call[1:])} for call in calls]
        last = {where: number for number, own in enumerate(touched) for where in own}
        free = {size: list(known) for size, known in self._known.items()}
        here, moved, laid = dict[int, UntypedStorage](), dict[int, Tensor](), list[Call]()

        def move(one: Tensor) -> Tensor:
            if (there := here.get(place(one))) is None:
                return one
            if id(one) not in moved:
                lies = one.storage_offset(), one.size(), one.stride()
                moved[id(one)] = torch.empty(0, dtype=one.dtype).set_(there, *lies)
            return moved[id(one)]

        for number, ((func, *rest), own) in enumerate(zip(calls, touched, strict=True)):
            for where in own:
                if where in movable and where not in here:
                    here[where] = self._free(own[where].untyped_storage().nbytes(), free)
            laid.append((func, *tree_map_only(Tensor, move, rest)))
            for where in own:
                if last[where] == number and where in here:
                    free[here[where].nbytes()].append(here[where])
        return laid

    def _free(self, nbytes: int, free: dict[int, list[UntypedStorage]]) -> UntypedStorage:
        size = 1 << max(nbytes - 1, 63).bit_length()
        if not (known := free.setdefault(size, [])):
            known.append(torch.empty(size, dtype=torch.uint8).untyped_storage())
            self._known[size].append(known[0])
            self.nbytes += size
        return known.pop()


def place(tensor: Tensor) -> int:
    """Names the memory in which it lies, as long as that lives."""
    return int(tensor.untyped_storage()._cdata)


def tensors(found: Any) -> list[Tensor]:
    """All that stand in it."""
    return [leaf for leaf in tree_leaves(found) if isinstance(leaf, Tensor)]
