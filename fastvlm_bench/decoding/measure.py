"""Times one generation through the very call that users make: `model.generate(custom_generate=method)`."""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from fastvlm_bench.clock import Clock
from fastvlm_bench.trace import Generation


class Method(Protocol):
    """A way to decode: what `generate` takes as `custom_generate`, and a trace of the last call."""

    clock: Clock
    last: Generation | None

    def __call__(self, model: Any, input_ids: Tensor, **prepared: Any) -> Tensor: ...


GREEDY: Mapping[str, Any] = {"do_sample": False, "num_beams": 1}


def seed_of(*parts: object) -> int:
    """A seed of 63 bits made from the run's seed and what is measured: the same in whatever order that happens."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") >> 1


def measure(
    method: Method, model: Any, inputs: dict[str, Any], max_new_tokens: int, vision: nn.Module | None = None,
    generation: Mapping[str, Any] = GREEDY, seed: int | None = None,
) -> Generation:  # fmt: skip
    """Decode once and return the trace, with what `generate` does around the loop counted into TTFT.

    vision: the image encoder, timed by hooks with a synchronisation at both ends, once a generation. generation: what
    `generate` is given (`RunConfig.generation`). seed: of torch's generators, from which all samples are drawn.
    """
    clock, spans = method.clock, []
    hooks = []
    if vision is not None:
        hooks = [
            vision.register_forward_pre_hook(lambda *_: spans.append(-clock.synchronised())),
            vision.register_forward_hook(lambda *_: spans.append(clock.synchronised())),
        ]
    if seed is not None:
        torch.manual_seed(seed)
    method.last = None  # a failure must never leave the trace of the sample before
    try:
        with torch.inference_mode():
            began = clock.synchronised()
            model.generate(**inputs, max_new_tokens=max_new_tokens, custom_generate=method, **generation)
            total = clock.synchronised() - began
    finally:
        for hook in hooks:
            hook.remove()
    trace: Generation | None = method.last
    if trace is None:
        raise RuntimeError(f"{type(method).__name__} returned without a trace")
    vision_s = sum(spans) if len(spans) == 2 else None
    ttft_s = total - trace.decode_s
    return replace(trace, ttft_s=ttft_s, vision_s=vision_s, prefill_s=ttft_s - (vision_s or 0.0))
