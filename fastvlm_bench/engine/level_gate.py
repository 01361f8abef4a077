"""The layer gate for several exits: a pass runs the layers from one exit, or from the embedding, up to another.

Level i is an exit with a head, or without one; they lie one above the other, and the target is above the last. What
arrives at an exit is kept, so no pass computes layers again that have run for a token in this round. The heads' own KV
is filled as their exit is passed.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from fastvlm_bench.drafts.imitation_head import Draft
from fastvlm_bench.engine.head_cache import check_seen, like_cache
from fastvlm_bench.engine.layer_gate import Head, LayerGate, Mode, Output
from fastvlm_bench.errors import UsageError
from fastvlm_bench.models.layers import replaced
from fastvlm_bench.models.t5 import handing_on, shares_position_bias


class Level:
    """One exit. kept: the states that arrived there in this round, (1, columns, width); None before the first pass.

    cache: the KV of a head that attends. UsageError for a head that recurs: it reads its own state of the token before,
    which a pass over several tokens does not know.
    """

    def __init__(self, draft: Draft) -> None:
        if draft.head is not None and draft.head.recurs:
            kind = draft.manifest.head if draft.manifest else type(draft.head).__name__
            raise UsageError(f"the head at exit {draft.exit_layer} ({kind}) reads its own states one token after the "
                             "other, so it cannot check tokens in one pass; take another head, or raw")  # fmt: skip
        self.draft, self.exit_layer, self.head = draft, draft.exit_layer, draft.head
        self.fills = draft.head is not None and draft.head.attends
        self.kept: Tensor | None = None
        self.cache: Any = None

    def keep(self, states: Tensor) -> None:
        if states.ndim != 3:
            raise UsageError(f"states of {states.ndim} dimensions arrive at exit {self.exit_layer}, and levels take 3; "
                             "use fastvlm")  # fmt: skip
        self.kept = states if self.kept is None else torch.cat([self.kept, states], dim=1)

    def crop(self, columns: int, read: int) -> None:
        """Forget all but the first `columns` of the round's `read` columns."""
        self.kept = None if self.kept is None else self.kept[:, :columns]
        self.crop_head(read - columns)

    def crop_head(self, count: int) -> None:
        """Forget the last tokens in the head's KV."""
        for layer in getattr(self.cache, "self_attention_cache", self.cache).layers if self.cache is not None else ():
            if count and getattr(layer, "keys", None) is not None:
                layer.crop(-count)


class LevelGate(LayerGate):
    """Gates `layers` at the exits of `drafts`, which rise. Each pass is aimed before it is run.

    ValueError unless the exits rise within 1 .. L-1.
    """

    def __init__(self, layers: nn.ModuleList, drafts: Sequence[Draft]) -> None:
        exits = [draft.exit_layer for draft in drafts]
        if sorted(set(exits)) != exits:
            raise ValueError(f"exits must rise, unlike {exits}")
        for draft in drafts:
            super().__init__(layers, draft.exit_layer)
        self.levels = [Level(draft) for draft in drafts]
        self.start: Level | None = None
        self.end: Level | None = None
        self.first = 0
        self.fixed: Tensor | None = None  # where a recorded pass finds the states that it begins with

    @property
    def key(self) -> Hashable:
        """What tells a pass from others of its width: where it begins and ends."""
        return self.mode, *(None if level is None else level.exit_layer for level in (self.start, self.end))

    @property
    def drafts(self) -> list[tuple[Head | None, Output | None]]:
        return [(level.head, level.draft.output) for level in self.levels]

    @property
    def head_caches(self) -> list[Any]:
        return [level.cache for level in self.levels if level.cache is not None]

    @property
    def passed(self) -> list[Level]:
        """The levels at which states arrive in the pass that was aimed: those above its start, up to its end."""
        low = 0 if self.start is None else self.start.exit_layer
        high = len(self.layers) if self.end is None else self.end.exit_layer
        return [level for level in self.levels if low < level.exit_layer <= high]

    def entering(self) -> Tensor:
        """The states that a pass begins with which does not begin at the embedding."""
        assert self.start is not None and self.start.kept is not None
        return self.start.kept[:, self.first :]

    def aim(self, start: int | None, end: int | None, first: int) -> None:
        """The next pass begins with what level `start` has kept from column `first` on, or with tokens (None).

        It ends with the head of level `end`, or is the target's verification (None).
        """
        self.start = None if start is None else self.levels[start]
        self.end = None if end is None else self.levels[end]
        self.mode, self.first = Mode.VERIFY if end is None else Mode.DRAFT, first

    @contextmanager
    def installed(self, head_cache: Any = None) -> Iterator["LevelGate"]:
        """Replace each layer's `forward` for the time of one generation, and restore it exactly."""
        self.mode, self.start, self.end = Mode.FULL, None, None
        for level in self.levels:
            level.kept, level.cache = None, level.draft.new_cache()
        gated = [(layer, self._gated(index, layer.forward)) for index, layer in enumerate(self.layers)]
        if shares_position_bias(self.layers):
            gated = [(layer, handing_on(self.layers, forward)) for layer, forward in gated]
        outputs = {level.draft.output.replaces for level in self.levels if level.draft.output is not None}
        gated += [(output, self._of_end(output.forward)) for output in outputs]
        try:
            with replaced(gated):
                yield self
        finally:
            for level in self.levels:
                level.kept = level.cache = None

    def _of_end(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        """The LM head, reduced to what the level's own draft may say where the pass ends there."""

        def reduced(states: Tensor) -> Any:
            output = self.end.draft.output if self.end is not None else None
            return forward(states) if output is None else output(states)

        return reduced

    def _gated(self, index: int, forward: Callable[..., Any]) -> Callable[..., Any]:
        here = next((level for level in self.levels if level.exit_layer == index), None)

        def gated(states: Tensor, *args: Any, **kwargs: Any) -> Any:
            if self.start is not None and index < self.start.exit_layer:
                return self._handed_on(states)
            if self.end is not None and index > self.end.exit_layer:
                return self._handed_on(states)
            if here is not None and here is self.start:
                states = self.entering() if self.fixed is None else self.fixed
            elif here is not None:
                made = self._arrived(here, states, args, kwargs)
                if here is self.end:
                    return self._handed_on(made)
            result = forward(states, *args, **kwargs)
            self._further = (None,) * (len(result) - 1) if isinstance(result, tuple) else None
            return result

        return gated

    def _arrived(self, here: Level, states: Tensor, args: Any, kwargs: dict[str, Any]) -> Tensor:
        """Keep what arrives at an exit, and let its head read it. Returns what the head makes of it."""
        if self.mode is Mode.FULL:
            if here.fills:
                target = kwargs.get("past_key_values")
                here.cache = like_cache(target, here.exit_layer, here.cache)
                check_seen(target, here.exit_layer, here.cache)
        else:
            here.keep(states)
        if here.head is None or not (here.fills or here is self.end):
            return states
        return here.head(states, *args, **(kwargs | {"past_key_values": here.cache} if here.fills else kwargs))

    def crop_levels(self, top: int, columns: int, read: int) -> None:
        """Of the columns that levels up to `top` have read in this round, keep the first `columns` of `read`."""
        for level in self.levels[: top + 1]:
            level.crop(columns, read)

    def roll_back_head(self, count: int) -> None:
        """The round is over: forget the last `count` tokens in every head, and what was kept."""
        for level in self.levels:
            level.crop_head(count)
            level.kept = None
