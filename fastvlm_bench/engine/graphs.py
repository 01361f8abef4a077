"""The engine `graphs`: each kind of pass is recorded once, and repeated without the Python of the model.

The passes of a generation differ in little: their tokens, where they start, and what a carrier hands on. All else is
fixed, once the KV cache has a fixed size (slots.py). So a pass is recorded when one of its kind runs for the first
time (its mode, its width, the size of the cache): on CUDA as a CUDA graph, on a CPU as a tape. What is recorded is the
call of the whole gated model, so no architecture needs code of its own. A model or a method whose passes cannot be
recorded is decoded by `eager`, and the reason is told.
"""

from collections.abc import Hashable
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

from fastvlm_bench.engine.engine import Eager
from fastvlm_bench.engine.few_rows import FewRows
from fastvlm_bench.engine.passing import Passing
from fastvlm_bench.engine.recordable import hidden, unfit
from fastvlm_bench.engine.recorded import Recorded, RecordedRows, Store
from fastvlm_bench.engine.scratch import Scratch
from fastvlm_bench.method_spec import MAX_GAMMA

BLOCK = 128
"""The slots of a generation are a multiple of this, so that generations of like lengths share recorded passes."""

AUTO = "auto"
GRAPHS_ON = frozenset({"cuda", "cpu"})
"""Devices on which `auto` is `graphs`: eager passes of one sequence wait for launches and Python there."""


class Graphs(Eager):
    """recorded: how many passes were recorded. record_s, record_bytes: what that took, and holds. reasons: why `eager`
    decoded instead, each once. auto: nobody asked for this engine, so it gives way to `eager` where the reference
    cannot be recorded."""

    name = "graphs"

    def __init__(self, auto: bool = False) -> None:
        self.auto = auto
        self.recorded, self.record_s, self.record_bytes = 0, 0.0, 0
        self.reasons: dict[str, None] = {}
        self.refused: str | None = None  # for all methods, as by the self-check
        self.checked = "not run"  # what the self-check said
        self.late = 0  # passes that were recorded after the warm-up
        self.scratch = Scratch()
        self._stores: WeakKeyDictionary[Any, dict[Hashable, Store]] = WeakKeyDictionary()
        self._known: WeakSet[Any] = WeakSet()  # methods that `hidden` has looked at
        self._eager: WeakKeyDictionary[Any, str] = WeakKeyDictionary()  # methods whose passes cannot be recorded
        self._beside: WeakKeyDictionary[Any, dict[int, Any]] = WeakKeyDictionary()
        self._passing: WeakKeyDictionary[Any, Passing] = WeakKeyDictionary()
        self._few_rows: WeakKeyDictionary[Any, FewRows] = WeakKeyDictionary()

    def take_over(self, session: Any, method: Any) -> None:
        """Give the session's caches slots, and let its passes be recorded ones; or do nothing, and tell why."""
        reason = self.refusal(method) or unfit(session, method)
        if reason is None and method not in self._known:
            reason = hidden(session, method)
            self._known.add(method)
            if reason is not None:
                self._eager[method] = reason
        if reason is not None:
            self.reasons.setdefault(reason)
            return
        several = session.takes_several
        # A row that may take only one more token is fed columns of drafts as long as another row drafts.
        beyond = MAX_GAMMA if several else method.beyond
        capacity = -(-(int(session.config.max_length) + 1 + beyond) // BLOCK) * BLOCK
        stores = self._stores.setdefault(session.model, {})
        key = (capacity, session.device, len(session.rows) if several else None)
        if key not in stores:
            stores[key] = Store(session, capacity)
        session.recorded = (RecordedRows if several else Recorded)(self, stores[key], session, method)
        if (left := method.record_beside(session)) is not None:
            self.reasons.setdefault(left)

    def beside(self, method: Any) -> dict[int, Any]:
        return self._beside.setdefault(method, {})

    def refusal(self, method: Any) -> str | None:
        """Why this method is decoded by `eager`, as far as is known; None where it is not."""
        return self.refused or self._eager.get(method)

    def passing(self, method: Any) -> Passing:
        """What is known of the passes of a method that may not come again."""
        return self._passing.setdefault(method, Passing())

    def few_rows(self, model: Any) -> FewRows:
        """How this model's linear maps of a few rows are computed in recorded passes on a CPU."""
        if model not in self._few_rows:
            self._few_rows[model] = FewRows(sum(one.nbytes for one in model.parameters()))
        return self._few_rows[model]

    def made(self, passes: int, seconds: float, nbytes: int = 0) -> None:
        """So many passes were recorded, or compiled by a loop of transformers, in so long, and hold so many bytes."""
        self.recorded += passes
        self.record_s += seconds
        self.record_bytes += nbytes

    def described(self) -> dict[str, Any]:
        """Its entry in run.json."""
        return {"passes": self.recorded, "record_s": self.record_s, "record_bytes": self.record_bytes,
                "late": self.late, "turned": sum(each.turned for each in self._few_rows.values()),
                "self_check": self.checked, "eager": list(self.reasons)}  # fmt: skip

    def notices(self) -> list[dict[str, str]]:
        """Warnings for run.json: what `eager` decoded, and what was recorded late."""
        if self.name == Eager.name:
            return []
        told = [{"name": "EagerEngine", "message": f"{reason}: run by the engine eager, so that its times are not "
                                                   "those of graphs"} for reason in self.reasons]  # fmt: skip
        return told + super().notices()

    def refuse(self, reason: str) -> None:
        """From now on all methods are decoded by `eager`."""
        self.refused = reason
        self.reasons.setdefault(reason)
        if self.auto:
            self.name = Eager.name  # nothing is left that this engine would run

    def gives_up(self, method: Any, reason: str) -> None:
        """From now on this method is decoded by `eager`."""
        self._eager[method] = reason
        self.reasons.setdefault(reason)


def engine_named(name: str, device: Any, alone: bool = True, compiled: bool = False) -> Eager:
    """A new engine of a run on a `torch.device`, by the name that `--engine` takes.

    alone: whether no other process decodes a part of the same run. Else `auto` does not give way, because it would in
    this process only: what `eager` decodes in place of `graphs` is warned of. compiled: whether torch compiles parts of
    the model, which a tape cannot see.
    """
    if name == AUTO:
        unseen = compiled and device.type == "cpu"
        return Graphs(auto=alone) if device.type in GRAPHS_ON and not unseen else Eager()
    return Graphs() if name == Graphs.name else Eager()
