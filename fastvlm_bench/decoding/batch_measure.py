"""Times one batch through `model.generate(custom_generate=method)`, and finds a method's form for batches."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from fastvlm_bench.decoding.batch import BatchEarlyExit, BatchFastVLM, BatchStandard
from fastvlm_bench.decoding.batch_hf import BatchHfGenerate
from fastvlm_bench.decoding.early_exit import EarlyExit
from fastvlm_bench.decoding.fastvlm import FastVLM
from fastvlm_bench.decoding.hf_generate import HfGenerate
from fastvlm_bench.decoding.standard import Standard
from fastvlm_bench.engine.measure import GREEDY, Method
from fastvlm_bench.errors import UsageError
from fastvlm_bench.machine.clock import Clock
from fastvlm_bench.records.trace import BatchGeneration


class BatchMethod(Protocol):
    """A way to decode several sequences at once, and the traces of the last call."""

    clock: Clock
    last: BatchGeneration | None

    def __call__(self, model: Any, input_ids: Tensor, **prepared: Any) -> Tensor: ...


def in_batches(method: Method, model: Any) -> BatchMethod:
    """The same method for several sequences; UsageError where there is none."""
    clock = method.clock
    if isinstance(method, FastVLM):  # LayerSkip is one
        return BatchFastVLM(method.draft_for(model), gamma=method.gamma, stop_below=method.stop_below, clock=clock)
    if isinstance(method, EarlyExit):
        return BatchEarlyExit(method.draft, clock=clock)
    if isinstance(method, HfGenerate):
        return BatchHfGenerate(clock=clock)
    if isinstance(method, Standard):
        return BatchStandard(clock=clock)
    raise UsageError(f"{type(method).__name__} decodes one sequence at a time; use --batch-size 1")


def measure_batch(
    method: BatchMethod, model: Any, inputs: dict[str, Any], max_new_tokens: int, vision: nn.Module | None = None,
    generation: Mapping[str, Any] = GREEDY,
) -> BatchGeneration:  # fmt: skip
    """As `measure`, for a batch: what `generate` does around the loop counts into the batch's TTFT.

    The rows' seconds are shares: they add up to the batch's, exactly.
    """
    clock, spans = method.clock, []
    hooks = []
    if vision is not None:
        hooks = [
            vision.register_forward_pre_hook(lambda *_: spans.append(-clock.synchronised())),
            vision.register_forward_hook(lambda *_: spans.append(clock.synchronised())),
        ]
    method.last = None  # a failure must never leave the trace of the batch before
    try:
        with torch.inference_mode():
            began = clock.synchronised()
            model.generate(**inputs, max_new_tokens=max_new_tokens, custom_generate=method, **generation)
            total = clock.synchronised() - began
    finally:
        for hook in hooks:
            hook.remove()
    trace: BatchGeneration | None = method.last
    if trace is None:
        raise RuntimeError(f"{type(method).__name__} returned without a trace")
    size = len(trace.rows)
    ttft_s, vision_s = total - trace.decode_s, sum(spans) if len(spans) == 2 else None
    shared_s = sum(row.decode_s for row in trace.rows)
    scale = trace.decode_s / shared_s if shared_s > 0 else 1.0  # what lies between rounds belongs to them, too
    rows = [
        replace(
            row, ttft_s=ttft_s / size, vision_s=None if vision_s is None else vision_s / size,
            prefill_s=(ttft_s - (vision_s or 0.0)) / size, decode_s=row.decode_s * scale,
        )
        for row in trace.rows
    ]  # fmt: skip
    return BatchGeneration(rows, ttft_s, vision_s, trace.decode_s)
