"""Linear maps of a few rows on a CPU: recorded passes compute each in the fastest of a few orders.

A verification maps γ + 1 states at once. For one state, a CPU library reads the weights as they lie. For two or more
it may first copy them into another order, every time, and that takes about as long as the product of one state. But
x Wᵀ is also (W xᵀ)ᵀ, of which the few rows are what is copied; and a number of rows that the library knows well may be
faster than the exact one. Which is fastest depends on library, processor and shape. So each is timed once, on the
weights themselves, for all methods of a run alike. Numbers change by rounding only, as between one row and two.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _disable_current_modes

from fastvlm_bench.machine.clock import Clock

Product = Callable[[Tensor, Tensor], Tensor]
"""(rows, in) and (out, in) -> (rows, out)."""

linear = torch.nn.functional.linear
MOST_ROWS = 16
"""Products of more rows stay as they are."""
GAIN, ROUNDS = 1.1, 5
"""Another order must be so many times as fast to be taken. How often each is timed; the least counts."""
CACHE = 64 * 2**20
"""Bytes that a cache of a processor may hold. Between two timings so many are written, if the model has as many."""


def turned(width: int) -> Product:
    """(W xᵀ)ᵀ, with rows of zeros up to `width`."""

    def product(states: Tensor, weight: Tensor) -> Tensor:
        rows = len(states)
        filled = states if rows == width else torch.cat((states, states.new_zeros(width - rows, states.shape[1])))
        return torch.mm(weight, filled.t())[:, :rows].t().contiguous()

    return product


def orders(rows: int) -> Sequence[Product]:
    """The ways in which a product of so many rows may be computed: as it is, first."""
    powers = (2**power for power in range(1, MOST_ROWS.bit_length()))
    widths = {rows, *(width for width in powers if rows < width < 2 * rows)}
    return linear, *(turned(width) for width in sorted(widths))


class FewRows(TorchFunctionMode):
    """While it is active, linear maps of 2 to MOST_ROWS rows of floats on a CPU are computed in their fastest order.

    nbytes: of all weights of the model. known: (rows, out, in) -> the order that was found to be the fastest.
    """

    def __init__(self, nbytes: int, clock: Clock | None = None) -> None:
        super().__init__()
        self.known: dict[tuple[int, ...], Product] = {}
        self._clock = clock or Clock()
        self._others = torch.zeros(min(nbytes, CACHE) // 4)

    @property
    def turned(self) -> int:
        """How many kinds of products are computed in another order than the model's."""
        return sum(order is not linear for order in self.known.values())

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not linear or kwargs or not _fits(*args[:2]):
            return func(*args, **(kwargs or {}))
        states, weight, *bias = args
        rows = states.reshape(-1, states.shape[-1])
        key = (len(rows), *weight.shape)
        if key not in self.known:
            with _disable_current_modes():  # a recorder must not see it
                self.known[key] = self._fastest(rows.clone(), weight)
        if (order := self.known[key]) is linear:
            return linear(*args)
        found = order(rows, weight).view(*states.shape[:-1], len(weight))
        return found + bias[0] if bias and bias[0] is not None else found

    def _fastest(self, rows: Tensor, weight: Tensor) -> Product:
        """By the least seconds of each, with the weights as far from the processor as in a pass of the model."""
        least = dict.fromkeys(orders(len(rows)), float("inf"))
        for _ in range(ROUNDS):
            for order in least:
                self._others.add_(1)
                started = self._clock.now()
                order(rows, weight)
                least[order] = min(least[order], self._clock.now() - started)
        best = min(least, key=lambda order: least[order])
        return best if least[best] * GAIN <= least[linear] else linear


def _fits(states: Any, weight: Any) -> bool:
    plain = type(states) is Tensor and type(weight) in (Tensor, torch.nn.Parameter)
    return (plain and states.device.type == "cpu" and states.is_floating_point() and states.dtype == weight.dtype
            and weight.ndim == 2 and 2 <= states.numel() // states.shape[-1] <= MOST_ROWS)  # fmt: skip
