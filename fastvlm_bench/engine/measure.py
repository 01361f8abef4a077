"""Times one generation through the very call that users make: `model.generate(custom_generate=method)`."""

import hashlib
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from fastvlm_bench.engine.method import Method
from fastvlm_bench.engine.phases import Phases
from fastvlm_bench.records.trace import Trace

GREEDY: Mapping[str, Any] = {"do_sample": False, "num_beams": 1}


def seed_of(*parts: object) -> int:
    """A seed of 63 bits, from the run's seed and what is measured with it, so that the order of measuring is free."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") >> 1


def measure(
    method: Method, model: Any, inputs: dict[str, Any], max_new_tokens: int, vision: nn.Module | None = None,
    generation: Mapping[str, Any] = GREEDY, seed: int | None = None, phases: bool | Callable[..., Phases] = False,
) -> Trace:  # fmt: skip
    """Decode once, one sequence or a batch, and return the trace.

    TTFT begins with the call of `generate`, so it includes what `generate` prepares. It ends, and decoding begins, when
    the first token is chosen and known on the host. Decoding ends when the last token is. What follows (tidying up, the
    return from `generate`) is in neither.

    vision: the image encoder. Hooks time it, with a synchronisation before and after; its seconds are None unless it
    runs exactly once. generation: options of `generate` (`RunConfig.generation`). seed: for torch's generators, from
    which all tokens are drawn. phases: time every pass by hooks, the image encoder then without a synchronisation; or
    what makes the `Phases` that do.
    In a batch, the seconds of the rows are shares that add up to those of the batch.
    """
    clock, spans, hooks = method.clock, list[float](), list[Any]()
    watching = (Phases if phases is True else phases)(clock, method, model, vision) if phases else None
    if vision is not None and not phases:
        hooks = [
            vision.register_forward_pre_hook(lambda *_: spans.append(-clock.synchronised())),
            vision.register_forward_hook(lambda *_: spans.append(clock.synchronised())),
        ]
    if seed is not None:
        torch.manual_seed(seed)
    cache: list[Any] = []
    called: list[float] = []

    def decode(model: Any, input_ids: Tensor, **prepared: Any) -> Tensor:
        cache.append(prepared.get("past_key_values"))
        called.append(clock.synchronised())
        sequences = method(model, input_ids, **prepared)
        if watching is not None:
            watching.end()
        return sequences

    method.trace = None  # after a failure there must be no trace of an earlier sample
    try:
        with torch.inference_mode():
            began = clock.synchronised()
            with watching.watched() if watching else nullcontext():
                method.generate(model, decode, **inputs, max_new_tokens=max_new_tokens, **generation)
            clock.synchronised()
    finally:
        for hook in hooks:
            hook.remove()
    trace: Trace | None = method.trace
    if trace is None:
        raise RuntimeError(f"{type(method).__name__} returned without a trace")
    told = watching.seconds() if watching else None
    vision_s = told["vision_s"] if told else sum(spans) if len(spans) == 2 else None
    size, ttft_s = len(trace.rows), (called[-1] - began if called else 0.0) + trace.ttft_s
    rows = [
        replace(
            row, ttft_s=ttft_s / size, vision_s=None if vision_s is None else vision_s / size,
            prefill_s=(ttft_s - (vision_s or 0.0)) / size,
        )
        for row in trace.rows
    ]  # fmt: skip
    return Trace(rows, ttft_s, vision_s, trace.decode_s, told, cache_bytes(cache[0]) if cache else None)


def cache_bytes(cache: Any) -> int | None:
    """Bytes of the keys, values and states that a `transformers` cache holds; None for other caches."""
    parts = [cache] if hasattr(cache, "layers") else [
        part for name in ("self_attention_cache", "cross_attention_cache") if (part := getattr(cache, name, None))
    ]  # fmt: skip
    held = [value for part in parts for layer in part.layers for value in vars(layer).values()]
    held += [state for value in held if isinstance(value, dict) for state in value.values()]  # recurrent, convolution
    tensors = {id(value): value for value in held if isinstance(value, Tensor)}
    return sum(tensor.nbytes for tensor in tensors.values()) if parts else None
