"""The engine `graphs`: each kind of pass is recorded once, and repeated without the Python of the model.

The passes of a generation differ in little: their tokens, where they start, and what a carrier hands on. All else is
fixed, once the KV cache has a fixed size (slots.py). So a pass is recorded when one of its kind runs for the first
time (its mode, its width, the size of the cache): on CUDA as a CUDA graph, on a CPU as a tape. What is recorded is the
call of the whole gated model, so no architecture needs code of its own. A model or a method whose passes cannot be
recorded is decoded by `eager`, and the reason is told.
"""

import time
from collections.abc import Callable, Hashable, Sequence
from typing import Any
from unittest.mock import patch
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import Tensor
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils import import_utils

from fastvlm_bench.engine.cuda_graph import CudaGraph
from fastvlm_bench.engine.engine import Carrier, Eager
from fastvlm_bench.engine.recordable import head_cache, hidden, unfit, weights
from fastvlm_bench.engine.rows import Tokens
from fastvlm_bench.engine.slots import SlotLayer, Slots, seen
from fastvlm_bench.engine.tape import CannotRecord, Tape

BLOCK = 128
"""The slots of a generation are a multiple of this, so that generations of like lengths share recorded passes."""
ALONG = ("token_type_ids", "mm_token_type_ids", "moe_mm_token_type_ids")
"""Arguments with one value for each token. A new token has the last one's, as transformers appends it."""


class Graphs(Eager):
    """recorded: how many passes were recorded. record_s, record_bytes: what that took, and holds. reasons: why `eager`
    decoded instead, each once."""

    name = "graphs"

    def __init__(self) -> None:
        self.recorded, self.record_s, self.record_bytes = 0, 0.0, 0
        self.reasons: dict[str, None] = {}
        self.refused: str | None = None  # for all methods, as by the self-check
        self.checked = "not run"  # what the self-check said
        self.late = 0  # passes that were recorded after the warm-up
        self._stores: WeakKeyDictionary[Any, dict[Hashable, Store]] = WeakKeyDictionary()
        self._known: WeakSet[Any] = WeakSet()  # methods that `hidden` has looked at
        self._eager: WeakKeyDictionary[Any, str] = WeakKeyDictionary()  # methods whose passes cannot be recorded

    def take_over(self, session: Any, method: Any) -> None:
        """Give the session's caches slots, and let its passes be recorded ones; or do nothing, and tell why."""
        reason = self.refusal(method) or method.unrecordable(session) or unfit(session)
        if reason is None and method not in self._known:
            reason = hidden(session, method)
            self._known.add(method)
            if reason is not None:
                self._eager[method] = reason
        if reason is not None:
            self.reasons.setdefault(reason)
            return
        capacity = -(-(int(session.config.max_length) + 1) // BLOCK) * BLOCK
        stores = self._stores.setdefault(session.model, {})
        key = (capacity, session.device)
        if key not in stores:
            stores[key] = Store(session, capacity)
        session.recorded = Recorded(self, stores[key], session, method)
        if method.beside:
            self.reasons.setdefault(method.beside)

    def refusal(self, method: Any) -> str | None:
        """Why this method is decoded by `eager`, as far as is known; None where it is not."""
        return self.refused or self._eager.get(method)

    def made(self, passes: int, seconds: float) -> None:
        """A loop of transformers has compiled so many graphs, in a generation that took so long."""
        self.recorded += passes
        self.record_s += seconds

    def described(self) -> dict[str, Any]:
        """Its entry in run.json."""
        return {"passes": self.recorded, "record_s": self.record_s, "record_bytes": self.record_bytes,
                "late": self.late, "self_check": self.checked, "eager": list(self.reasons)}  # fmt: skip

    def notices(self) -> list[dict[str, str]]:
        """Warnings for run.json: what `eager` decoded, and what was recorded late."""
        told = [{"name": "EagerEngine", "message": f"{reason}: run by the engine eager, so that its times are not "
                                                   "those of graphs"} for reason in self.reasons]  # fmt: skip
        if self.late:
            told.append({"name": "RecordedLate", "message": f"{self.late} kinds of pass ran for the first time among "
                         "the measured samples, which were then decoded once more; warm up longer"})  # fmt: skip
        return told

    def refuse(self, reason: str) -> None:
        """From now on all methods are decoded by `eager`."""
        self.refused = reason
        self.reasons.setdefault(reason)

    def gives_up(self, method: Any, reason: str) -> None:
        """From now on this method is decoded by `eager`."""
        self._eager[method] = reason
        self.reasons.setdefault(reason)


def engine_named(name: str) -> Eager:
    """A new engine of a run, by the name that `--engine` takes."""
    return Graphs() if name == Graphs.name else Eager()


class Store:
    """The slots of all generations of one size, and the passes that were recorded with them.

    own: the target's layers, by their index. heads: for each method with a head that has KV, that KV's layers.
    """

    def __init__(self, session: Any, capacity: int) -> None:
        self.slots = Slots(capacity, session.device)
        with torch.inference_mode():
            self.own = self._slotted(session.cache)
        self.heads: WeakKeyDictionary[Any, dict[int, SlotLayer]] = WeakKeyDictionary()
        self.passes: WeakKeyDictionary[Any, dict[Hashable, Pass]] = WeakKeyDictionary()

    def fill(self, method: Any, session: Any) -> list[tuple[Any, int, Any]]:
        """Take over what the prompt's pass has left in the session's caches. Returns cache, index and layer of each."""
        caches, before = [(session.cache, self.own)], list[tuple[Any, int, Any]]()
        if (own := head_cache(session)) is not None:
            if method not in self.heads:
                self.heads[method] = self._slotted(own)
            caches.append((own, self.heads[method]))
        for cache, layers in caches:
            for index, layer in layers.items():
                before.append((cache, index, kept := cache.layers[index]))
                layer.fill(kept, seen(kept))
                cache.layers[index] = layer
        return before

    def _slotted(self, cache: Any) -> dict[int, SlotLayer]:
        """A layer with slots for each that has read something: a head's cache may have more layers than the head."""
        return {i: SlotLayer(self.slots, layer) for i, layer in enumerate(cache.layers) if layer.keys is not None}


class Recorded:
    """One generation whose passes are recorded: what `Session.forward` hands over to."""

    def __init__(self, engine: Graphs, store: Store, session: Any, method: Any) -> None:
        self.engine, self.store, self.session, self.method = engine, store, session, method
        self.carriers: Sequence[Carrier] = method.carriers()
        self.counts: list[int] = []  # how many tensors each carrier took in the latest call of the model
        self._passes = store.passes.setdefault(method, {})
        with torch.inference_mode():
            self._before = store.fill(method, session)  # until a first pass has run
            self._along = self._of_each_token()

    def _of_each_token(self) -> dict[str, Tensor]:
        """Arguments that grow with the text, as they are for the next token: positions less its slot, and types."""
        kwargs, slot = self.session.kwargs, self.session.length - 1
        found = {name: kwargs[name][..., -1:].clone() for name in ALONG if kwargs.get(name) is not None}
        if (positions := kwargs.get("position_ids")) is not None:
            found["position_ids"] = positions[..., -1:] - slot
        return found

    def hand_back(self, kwargs: dict[str, Any]) -> None:
        """Give the session its own caches again: no pass has run on the slots, and `eager` runs this one."""
        session = self.session
        for cache, index, layer in self._before:
            cache.layers[index] = layer
        session.recorded = None
        gated = session._gate is not None and self.method.drafting
        kwargs["past_key_values"] = session.draft_view() if gated else session.cache

    def forward(self, count: int, ahead: Tokens, logits: int) -> Any:
        """As `Session.forward`: one pass over the last `count` tokens of the output and `ahead`.

        None where the first pass of all cannot be recorded: see `hand_back`.
        """
        session, slots = self.session, self.store.slots
        end = session.write_ahead(ahead[0] if ahead else ())
        watching, mode = self.engine.watching, self.method.pass_key()
        with torch.inference_mode():
            slots.start.fill_(end - count)
            ids = session._ids[:, end - count : end]
            given = (ids, *self._along.values(), *(one for carrier in self.carriers for one in carrier.given()))
            key = (mode, count, logits, tuple((one.shape, one.dtype) for one in given))
            if mode is None:
                return self._plain(count, logits, given)
            if (known := self._passes.get(key)) is None:
                return self._first(key, count, logits, given)
            if watching is not None:
                watching.pass_began()
            outputs = known(given, self.carriers)
            if watching is not None:
                watching.pass_ended()
        self._before = []
        return outputs

    def _first(self, key: Hashable, count: int, logits: int, given: tuple[Tensor, ...]) -> Any:
        """A pass of a kind that was not recorded yet: record it, if it can be."""
        began = time.perf_counter()
        try:
            made = Pass(self, count, logits, given)
        except Exception as error:  # a family's own code may not know such a cache, in whatever way
            for carrier in self.carriers:
                carrier.undo()
            own = isinstance(error, CannotRecord)
            what = str(error) if own else f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
            self.engine.gives_up(self.method, f"{type(self.session.model).__name__}: {what}")
            return None if self._before else self._plain(count, logits, given)
        self._before = []
        self._passes[key] = made
        self.engine.recorded += 1
        self.engine.record_s += time.perf_counter() - began
        self.engine.record_bytes += made.nbytes
        return made(given, self.carriers)

    def _plain(self, count: int, logits: int, given: tuple[Tensor, ...]) -> Any:
        """The same pass by a call of the model, on the same slots."""
        said, *taken = self.run(count, logits, given, self.sizes())()
        hand_over(self.carriers, self.counts, taken)
        return CausalLMOutputWithPast(logits=said, past_key_values=self.session.cache)

    def sizes(self) -> list[int]:
        """How many of the tensors that a pass is given belong to each carrier."""
        return [len(carrier.given()) for carrier in self.carriers]

    def run(
        self, count: int, logits: int, fixed: tuple[Tensor, ...], sizes: list[int]
    ) -> Callable[[], tuple[Tensor, ...]]:  # fmt: skip
        """The pass to be recorded: a call of the gated model that finds what it is given in `fixed`.

        It returns the logits, and what its carriers took.
        """
        session, slots, along = self.session, self.store.slots, list(self._along)
        kwargs = {k: v for k, v in session.kwargs.items() if k not in ("attention_mask", *along)}
        if "logits_to_keep" in kwargs:
            kwargs["logits_to_keep"] = logits

        def run() -> tuple[Tensor, ...]:
            slots.open(count)
            ids, rest = fixed[0], fixed[1 + len(along) :]
            for name, one in zip(along, fixed[1:], strict=False):
                each = slots.columns + one if name == "position_ids" else one.expand(*one.shape[:-1], count)
                kwargs[name] = each
            for carrier, size in zip(self.carriers, sizes, strict=True):
                carrier.give(rest[:size])
                rest = rest[size:]
            inputs = session.model.prepare_inputs_for_generation(ids, next_sequence_length=count, **kwargs)
            outputs = session.model(**inputs, return_dict=True)
            taken = [carrier.taken() for carrier in self.carriers]
            self.counts = [len(each) for each in taken]
            return outputs.logits, *(one for each in taken for one in each)

        return run


class Pass:
    """A recorded pass of any generation with the same store and method.

    output: what a call returns. The next call writes over its logits.
    """

    def __init__(self, of: Recorded, count: int, logits: int, given: tuple[Tensor, ...]) -> None:
        self._fixed = tuple(one.clone() for one in given)
        slots, sizes = of.store.slots, of.sizes()
        layers = [*of.store.own.values(), *of.store.heads.get(of.method, {}).values()]
        changing = [slots.start, *self._fixed, *(one for layer in layers for one in (layer.keys, layer.values))]
        run = of.run(count, logits, self._fixed, sizes)
        with told():
            kind = CudaGraph if slots.start.is_cuda else Tape
            self._graph = kind(run, changing, weights(of.session))
        self.nbytes = self._graph.nbytes
        said, *self._taken = self._graph.outputs
        self._counts = of.counts
        self.output = CausalLMOutputWithPast(logits=said)

    def __call__(self, given: tuple[Tensor, ...], carriers: Sequence[Carrier]) -> CausalLMOutputWithPast:
        for fixed, now in zip(self._fixed, given, strict=True):
            fixed.copy_(now)
        self._graph.replay()
        hand_over(carriers, self._counts, self._taken)
        return self.output


def hand_over(carriers: Sequence[Carrier], counts: Sequence[int], taken: Sequence[Tensor]) -> None:
    """Give each carrier as many of the tensors as it took."""
    place = 0
    for carrier, count in zip(carriers, counts, strict=True):
        carrier.take(tuple(taken[place : place + count]))
        place += count


def told() -> Any:
    """Lets transformers know that the pass is being recorded, so that it decides nothing by the numbers in a tensor."""
    return patch.object(import_utils, "is_cuda_stream_capturing", lambda: True)
