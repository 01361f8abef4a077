"""The frame of methods whose draft is the target itself, with some of its sub-layers skipped.

While drafting, the layers that run append to the target's own KV cache. That is rolled back before the whole target
verifies the drafts in one pass, which writes the KV of every layer anew. So a skip set decides what a draft costs and
how often it stands, and never what is said.
"""

from collections.abc import Hashable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from fastvlm_bench.drafters.layer_skipping import LayerSkipper
from fastvlm_bench.drafts.skip_set import SkipSet
from fastvlm_bench.engine.drafting import Drafts
from fastvlm_bench.engine.proposing import Proposing
from fastvlm_bench.engine.session import Session
from fastvlm_bench.machine.clock import Clock
from fastvlm_bench.models.layers import decoder_layers


class SkipDrafting(Proposing):
    """gamma: γ, most tokens drafted per round. stop_below: as for `fastvlm`. ValueError for values out of range."""

    def __init__(self, *, gamma: int = 10, stop_below: float = 0.0, clock: Clock | None = None) -> None:
        super().__init__(gamma=gamma, stop_below=stop_below, clock=clock)
        self._skipper: LayerSkipper | None = None

    @property
    def skipper(self) -> LayerSkipper:
        """The skipper of the model that decodes. RuntimeError before the first generation."""
        if self._skipper is None:
            raise RuntimeError("no model has been decoded yet")
        return self._skipper

    @property
    def drafting(self) -> bool:
        return self._skipper is not None and self._skipper.drafting

    def pass_key(self) -> Hashable:
        skipper = self.skipper
        return None if skipper.watch is not None else skipper.in_force

    def around(self, model: Any) -> AbstractContextManager[Any]:
        if self._skipper is None or self._skipper.layers is not decoder_layers(model):
            self._skipper = LayerSkipper(model)  # its look at the layers is not repeated for each generation
        return self._skipper.installed()

    def skip_set(self, session: Session) -> SkipSet:
        """What is skipped while this round drafts."""
        raise NotImplementedError

    def propose(self, session: Session, drafts: Drafts) -> None:
        kwargs, passes, skipped = dict(session.kwargs), 0, self.skip_set(session)
        with self.skipper.skipping(skipped):
            while drafts.wanted:
                outputs = session.forward(1, drafts.columns, kwargs)
                passes += 1
                if not session.draft(outputs.logits, drafts, drafts.doubt(self.stop_below), unread=True):
                    break
                session.advance_kwargs(outputs, kwargs, 1)
        self.skipper.roll_back(session, skipped, passes)


def spread(units: Sequence[SkipSet], count: int) -> list[int]:
    """Indices of evenly spread units that skip `count` sub-layers, or fewer where the units do not add up to it.

    Whole layers are preferred, as their norms are saved, too: where attention and MLP may be skipped apart, both of
    every second layer, say, are.
    """
    layers: dict[int, list[int]] = {}
    for index, unit in enumerate(units):
        layers.setdefault(min(unit.attention | unit.mlp), []).append(index)
    places = list(layers)
    wanted = min(len(places), -(-count // 2))
    taken = [places[int((i + 0.5) * len(places) / wanted)] for i in range(wanted)]
    found, left = list[int](), count
    for place in taken:
        for index in layers[place]:
            if len(units[index]) <= left:
                found.append(index)
                left -= len(units[index])
    return found
