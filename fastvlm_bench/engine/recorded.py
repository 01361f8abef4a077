"""A generation whose passes are recorded: the slots that it lies in, and which passes are recorded or repeated."""

import time
from collections.abc import Hashable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from fastvlm_bench.engine.layer_gate import Mode
from fastvlm_bench.engine.recordable import head_caches
from fastvlm_bench.engine.recorded_pass import Branches, Kind, Pass, cause, hand_over
from fastvlm_bench.engine.rows import Tokens
from fastvlm_bench.engine.slots import SlotLayer, Slots, seen

ALONG = ("token_type_ids", "mm_token_type_ids", "moe_mm_token_type_ids")
"""Arguments with one value for each token. A new token has the last one's, as transformers appends it."""

MOST_CAUGHT = 8
"""So many missed tokens are read in one pass at most; fewer by powers of two."""


class Store:
    """The slots of all generations of one size, and the passes that were recorded with them.

    own: the target's layers, by their index. heads: for each method the layers of each head that has KV.
    """

    def __init__(self, session: Any, capacity: int) -> None:
        self.slots = Slots(capacity, session.device, len(session.rows) if session.takes_several else None)
        with torch.inference_mode():
            self.own = self._slotted(session.cache)
        self.heads: WeakKeyDictionary[Any, list[dict[int, SlotLayer]]] = WeakKeyDictionary()
        self.passes: WeakKeyDictionary[Any, dict[Hashable, Pass]] = WeakKeyDictionary()

    def fill(self, method: Any, session: Any) -> list[tuple[Any, int, Any]]:
        """Take over what the prompt's pass has left in the session's caches. Returns cache, index and layer of each."""
        own, before = head_caches(session), list[tuple[Any, int, Any]]()
        if method not in self.heads:
            self.heads[method] = [self._slotted(cache) for cache in own]
        for cache, layers in [(session.cache, self.own), *zip(own, self.heads[method], strict=True)]:
            for index, layer in layers.items():
                before.append((cache, index, kept := cache.layers[index]))
                if session.takes_several:
                    layer.fill_rows(kept, [row.length - 1 for row in session.rows])
                else:
                    layer.fill(kept, seen(kept))
                cache.layers[index] = layer
        return before

    def layers(self, method: Any) -> list[SlotLayer]:
        """Those of the target and of the method's heads."""
        heads = self.heads.get(method, ())
        return [*self.own.values(), *(layer for head in heads for layer in head.values())]

    def _slotted(self, cache: Any) -> dict[int, SlotLayer]:
        """A layer with slots for each that has read something: a head's cache may have more layers than the head."""
        return {i: SlotLayer(self.slots, layer) for i, layer in enumerate(cache.layers) if layer.keys is not None}


class Recorded:
    """One generation whose passes are recorded: what `Session.forward` hands over to. engine: the `Graphs`."""

    def __init__(self, engine: Any, store: Store, session: Any, method: Any) -> None:
        self.engine, self.store, self.session, self.method = engine, store, session, method
        self.passing = engine.passing(method)
        self.passing.begin()
        self.carriers: Sequence[Any] = method.carriers()
        self._passes = store.passes.setdefault(method, {})
        with torch.inference_mode():
            self._before = store.fill(method, session)  # until a first pass has run
            self._along = self._of_each_token()

    @property
    def capacity(self) -> int:
        """How many slots there are."""
        return self.store.slots.capacity

    def _of_each_token(self) -> dict[str, Tensor]:
        """Arguments that grow with the text, as they are for the next token: positions less its slot, and types."""
        kwargs, slot = self.session.kwargs, self.session.length - 1
        found = {name: kwargs[name][..., -1:].clone() for name in ALONG if kwargs.get(name) is not None}
        if (positions := kwargs.get("position_ids")) is not None:
            found["position_ids"] = positions[..., -1:] - slot
        return found

    def hand_back(self, kwargs: dict[str, Any], ahead: Tokens) -> None:
        """Give the session its own caches again: no pass has run on the slots, and `eager` runs this one.

        kwargs, ahead: of the pass. Recorded passes need no arguments for `ahead`, so these lack them still.
        """
        session = self.session
        for cache, index, layer in self._before:
            cache.layers[index] = layer
        session.recorded = None
        gated = session._gate is not None and self.method.drafting
        session.advance_kwargs(
            BaseModelOutputWithPast(past_key_values=session.cache), kwargs, len(ahead[0]) if ahead else 0
        )
        kwargs["past_key_values"] = session.draft_view() if gated else session.cache

    def forward(
        self, count: int, ahead: Tokens, logits: int, branches: Branches | None = None, back: int = 0
    ) -> Any:  # fmt: skip
        """As `Session.forward`: one pass over the last `count` tokens of the output and `ahead`, less the last `back`.

        branches: where these tokens are a part of a tree. None where the first pass of all cannot be recorded: see
        `hand_back`.
        """
        ids = self._open(count, ahead, back)
        with torch.inference_mode():
            given = (ids, *self._along.values(), *(branches or ()))
            given += tuple(one for carrier in self.carriers for one in carrier.given())
            return self._repeat(Kind(self, count, logits, branches is not None), given)

    def _open(self, count: int, ahead: Tokens, back: int) -> Tensor:
        """Say where the next pass begins. Returns the ids that it reads, (rows, count)."""
        end = self.session.write_ahead(ahead[0] if ahead else ()) - back
        self.store.slots.begin([end - count])
        ids: Tensor = self.session._ids[:, end - count : end]
        return ids

    def catch_up(self) -> None:
        """Let the gate's head read the tokens that it has missed, in passes of few widths, so that few are recorded."""
        gate, (carrier, *_) = self.session.gate, self.carriers
        gate.mode = Mode.CATCH_UP
        while left := len(gate.missed):
            count = min(1 << (left.bit_length() - 1), MOST_CAUGHT)
            carrier.catch(count)
            self.forward(count, (), 1, back=1 + left - count)

    def _repeat(self, kind: Kind, given: tuple[Tensor, ...]) -> Any:
        """Run a pass: repeat it where one of its kind was recorded, else record it, or run it as it is."""
        watching, mode = self.engine.watching, self.method.pass_key()
        if mode is None:
            return self._plain(kind, given)
        key = (mode, kind.key, tuple((one.shape, one.dtype) for one in given))
        known, comes_again = self._passes.get(key), not self.method.passes_by
        if known is None and not comes_again and not self.passing.worth(key):
            return self._passed_by(kind, given)
        if known is None:
            return self._first(key, kind, given)
        if not comes_again:
            self.passing.repeated()
        if watching is not None:
            watching.pass_began(self.session.model)
        outputs = known(given, self.carriers)
        if watching is not None:
            watching.pass_ended()
        self._before = []
        return outputs

    def _passed_by(self, kind: Kind, given: tuple[Tensor, ...]) -> Any:
        """A pass of a kind that is not worth a recording. Where most are, the next generation is `eager`'s."""
        share = self.passing.hopeless
        if share is not None and self.engine.refusal(self.method) is None:
            self.engine.gives_up(self.method, f"{type(self.method).__name__} changes the layers that it skips so often "
                                              f"that {share:.0%} of its drafting passes were repetitions")  # fmt: skip
        return self._plain(kind, given)

    def _first(self, key: Hashable, kind: Kind, given: tuple[Tensor, ...]) -> Any:
        """A pass of a kind that was not recorded yet: record it, if it can be."""
        began = time.perf_counter()
        try:
            made = Pass(kind, given)
        except Exception as error:  # a family's own code may not know such a cache, in whatever way
            self._give_up(error)
            return None if self._before else self._plain(kind, given)
        self._before = []
        self._passes[key] = made
        self.engine.made(1, time.perf_counter() - began, made.nbytes)
        return made(given, self.carriers)

    def _plain(self, kind: Kind, given: tuple[Tensor, ...]) -> Any:
        """The same pass by a call of the model, on the same slots. None as for `forward`."""
        try:
            said, *taken = kind.call(given)()
        except Exception as error:
            if not self._before:
                raise
            self._give_up(error)
            return None
        self._before = []
        hand_over(self.carriers, kind.counts, taken)
        return CausalLMOutputWithPast(logits=said, past_key_values=self.session.cache)

    def _give_up(self, error: Exception) -> None:
        """A pass failed: nothing of it is kept, and from the next generation on the method is decoded by `eager`."""
        for carrier in self.carriers:
            carrier.undo()
        self.engine.gives_up(self.method, f"{type(self.session.model).__name__}: {cause(error)}")


class RecordedRows(Recorded):
    """The same for a batch. Each row begins in its own first slot, so that to roll one back moves no other."""

    def _of_each_token(self) -> dict[str, Tensor]:
        session = self.session
        kwargs, slots = session.kwargs, torch.tensor([[row.length - 1] for row in session.rows], device=session.device)
        found = {name: kwargs[name][..., -1:].clone() for name in ALONG if kwargs.get(name) is not None}
        if (positions := kwargs.get("position_ids")) is not None:
            found["position_ids"] = positions[..., -1:] - slots
        return found

    def _open(self, count: int, ahead: Tokens, back: int) -> Tensor:
        session, drafted = self.session, len(ahead[0]) if ahead else 0
        self.store.slots.begin([row.length + drafted - count for row in session.rows])
        ids: Tensor = session.ids_with(ahead)[:, -count:]
        return ids

    def keep_rows(self, rows: Tensor) -> None:
        """Only these rows, (n,), go on."""
        with torch.inference_mode():
            for layer in self.store.layers(self.method):
                layer.keep_rows(rows)
            self._along = {name: one.index_select(-2, rows) for name, one in self._along.items()}
