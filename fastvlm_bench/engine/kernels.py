"""How long the device computes within each phase of a generation: what launches and Python leave of its time.

The generation is watched by PyTorch's profiler, so its own seconds are no measurement, but those of its kernels are: on
a GPU they are read from the device's own record. On a CPU a kernel is an operation that calls no other one, and does
not only give another view of what is there. Work of the profiler is inside such an operation, too, so the CPU's share
comes out rather too large than too small.
"""

import os
import sys
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function
from transformers import StoppingCriteria

from fastvlm_bench.engine.phases import Phases
from fastvlm_bench.machine.clock import Clock

MARK = "fastvlm_bench."
"""How the names of our own spans begin in the profiler's record."""
WHOLE = "whole"
NO_WORK = frozenset(f"aten::{name}" for name in (
    "as_strided", "view", "empty", "empty_strided", "alias", "detach", "resolve_conj", "resolve_neg", "lift_fresh",
    "expand", "_unsafe_view", "_reshape_alias", "set_", "resize_",
))  # fmt: skip
"""Operations that compute nothing: other views of a tensor, and memory that is not written."""


class Kernels(Phases):
    """As `Phases`, for a generation that the profiler watches. `seconds` are those of the device's kernels.

    Each pass begins and ends with a synchronisation, so that its kernels run within it.
    """

    def __init__(self, clock: Clock, method: Any, model: nn.Module, vision: nn.Module | None) -> None:
        super().__init__(clock, method, model, vision)
        self._marks: list[Any] = []
        self._stack = ExitStack()
        self.busy: dict[str, float] = {}

    @contextmanager
    def watched(self) -> Iterator["Kernels"]:
        on_gpu = self.clock.device.startswith("cuda")
        kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
        watching = profile(activities=kinds, acc_events=True)
        with unsaid():
            seen = watching.__enter__()
        try:
            with super().watched():
                self.clock.synchronised()
                self._stack.enter_context(record_function(MARK + WHOLE))
                with self._stack:
                    yield self
        finally:
            with unsaid():
                watching.__exit__(None, None, None)
        self.busy = busy_seconds(kernels_of(seen.events(), on_gpu), spans_of(seen.events()))

    def end(self) -> None:
        super().end()
        self.clock.synchronised()
        self._stack.close()

    def _begin(self, name: str) -> None:
        self.clock.synchronised()
        mark = record_function(MARK + name)
        mark.__enter__()
        self._marks.append(mark)
        super()._begin(name)

    def _end(self) -> None:
        super()._end()
        self.clock.synchronised()
        self._marks.pop().__exit__(None, None, None)


@contextmanager
def unsaid() -> Iterator[None]:
    """The time in which nothing reaches standard error: the profiler's library names its beginning and end there."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def spans_of(events: Iterable[Any]) -> list[tuple[str, float, float]]:
    """(phase, begin, end) of our own spans in a profiler's record, in its microseconds."""
    return [(event.name.removeprefix(MARK), event.time_range.start, event.time_range.end) for event in events
            if event.name.startswith(MARK) and event.device_type == DeviceType.CPU]  # fmt: skip


def kernels_of(events: Iterable[Any], on_gpu: bool) -> list[tuple[float, float]]:
    """(begin, end) of each kernel in a profiler's record, in its microseconds."""
    if on_gpu:
        found = [event for event in events
                 if event.device_type != DeviceType.CPU and not event.name.startswith(MARK)
                 and not getattr(event, "is_user_annotation", False)]  # fmt: skip
    else:
        found = [event for event in events if not event.cpu_children and event.name not in NO_WORK
                 and not event.name.startswith(MARK)]  # fmt: skip
    return [(event.time_range.start, event.time_range.end) for event in found]


def busy_seconds(
    kernels: Iterable[tuple[float, float]], spans: Sequence[tuple[str, float, float]]
) -> dict[str, float]:  # fmt: skip
    """{phase_s: seconds in which at least one kernel ran, within the spans of the phase}.

    Times in microseconds. What lies within the whole and in no phase is `other_s`. The image is encoded within the
    prefill's pass by most models; it counts as vision alone.
    """
    begins, ends = list[float](), list[float]()
    for begin, end in sorted(kernels):
        if ends and begin <= ends[-1]:
            ends[-1] = max(ends[-1], end)
        else:
            begins.append(begin)
            ends.append(end)
    before = [0.0, *accumulate(end - begin for begin, end in zip(begins, ends, strict=True))]

    def until(moment: float) -> float:
        place = bisect_right(begins, moment)
        return before[place] - (max(0.0, ends[place - 1] - moment) if place else 0.0)

    found = dict.fromkeys(("vision", "prefill", "draft", "verify", WHOLE), 0.0)
    for name, begin, end in spans:
        found[name] += (took := (until(end) - until(begin)) * 1e-6)
        if name == "vision" and any(other == "prefill" and b <= begin and end <= e for other, b, e in spans):
            found["prefill"] -= took
    whole = found.pop(WHOLE)
    return {**{f"{name}_s": value for name, value in found.items()}, "other_s": max(0.0, whole - sum(found.values()))}


class FirstTokens(StoppingCriteria):
    """Ends a generation after so many tokens, whatever its limit is, so that passes have the slots of that limit."""

    def __init__(self, prompt: int, count: int) -> None:
        self.most = prompt + count

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Any:
        return torch.full((len(input_ids),), input_ids.shape[1] >= self.most, device=input_ids.device)
