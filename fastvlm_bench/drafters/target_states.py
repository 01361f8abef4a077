"""Reads states of the target's passes by hooks on its decoder layers, for heads that draft from them.

A state is numbered as in `drafts/formats.py`: i is what enters layer i. It is taken where the layer gets it, so that
what a model adds between two layers (DeepStack) is in it.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from fastvlm_bench.drafts.state_heads import LAST
from fastvlm_bench.engine.engine import Watcher
from fastvlm_bench.errors import UsageError
from fastvlm_bench.models.layers import decoder_layers, owner


class TargetStates(Watcher):
    """What the latest pass of the target gave: `states`, (rows, k, width) for each number in `reads`; `embeds`, which
    entered the first layer; `positions`, (rows, k), or (3, rows, k) with three axes; `ids` and `mask`, which the model
    was called with, or None.

    after: called at the end of each pass, while it is not None.
    """

    def __init__(self, model: Any, reads: Sequence[int]) -> None:
        self.model, self.reads = model, tuple(reads)
        self.layers = decoder_layers(model)
        self.text = owner(model, self.layers)
        self.states: list[Tensor] = []
        self.embeds = self.positions = torch.empty(0)
        self.ids: Tensor | None = None
        self.mask: Tensor | None = None
        self.after: Callable[[], None] | None = None
        self._found: dict[int, Tensor] = {}

    @contextmanager
    def installed(self) -> Iterator["TargetStates"]:
        """Watch the passes of one generation, and leave the model as it was."""
        count = len(self.layers)
        with ExitStack() as hooks:
            hooks.callback(self.model.register_forward_pre_hook(self._begin, with_kwargs=True).remove)
            hooks.callback(self.text.register_forward_hook(self._end, with_kwargs=True).remove)
            for number in sorted({0, *self.reads} - {LAST}):
                if number < count:
                    hook = self.layers[number].register_forward_pre_hook(self._entering(number), with_kwargs=True)
                else:
                    hook = self.layers[count - 1].register_forward_hook(self._leaving(number))
                hooks.callback(hook.remove)
            yield self

    def taken(self) -> tuple[Tensor, ...]:
        return (*self.states, self.embeds, self.positions)

    def take(self, found: tuple[Tensor, ...]) -> None:
        *self.states, self.embeds, self.positions = found

    def _begin(self, _: nn.Module, given: Any, kwargs: dict[str, Any]) -> None:
        self.ids = kwargs.get("input_ids", given[0] if given else None)
        mask = kwargs.get("attention_mask")
        self.mask = mask if isinstance(mask, Tensor) and mask.ndim == 2 else None

    def _entering(self, number: int) -> Callable[..., None]:
        def keep(_: nn.Module, given: Any, kwargs: dict[str, Any]) -> None:
            self._found[number] = given[0] if given else kwargs["hidden_states"]

        return keep

    def _leaving(self, number: int) -> Callable[..., None]:
        def keep(_: nn.Module, __: Any, found: Any) -> None:
            self._found[number] = found[0] if isinstance(found, tuple) else found

        return keep

    def _end(self, _: nn.Module, __: Any, kwargs: dict[str, Any], found: Any) -> None:
        self._found[LAST] = found[0]
        if self._found[0].ndim != 3:
            raise UsageError(f"{type(self.model).__name__} passes several states of each token from layer to layer, "
                             "which no head reads; use another method")  # fmt: skip
        self.states, self.embeds = [self._found[number] for number in self.reads], self._found[0]
        self.positions = self._positions(kwargs.get("position_ids"), kwargs.get("past_key_values"))
        self._found = {}
        if self.after is not None:
            self.after()

    def _positions(self, told: Any, cache: Any) -> Tensor:
        rows, count, _ = self.embeds.shape
        if not isinstance(told, Tensor):  # the model counts from its cache, which has taken up this pass by now
            seen = cache.get_seq_length() if cache is not None else count
            if isinstance(seen, Tensor):  # slots, which count the tokens before the pass
                return (seen + torch.arange(count, device=self.embeds.device)).expand(rows, count)
            return torch.arange(seen - count, seen, device=self.embeds.device).expand(rows, count)
        if told.ndim == 2:
            return told.expand(rows, count)
        return told[-3:].expand(3, rows, count)  # a fourth, in front, is the place in the text, for masks
