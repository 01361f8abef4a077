"""Times one generation through the very call that users make: `model.generate(custom_generate=method)`."""

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


def measure(
    method: Method, model: Any, inputs: dict[str, Any], max_new_tokens: int, vision: nn.Module | None = None
) -> Generation:
    """Decode greedily and return the trace, with what `generate` does around the loop counted into TTFT.

    vision: the image encoder, timed by hooks with a synchronisation at both ends, once a generation.
    """
    clock, spans = method.clock, []
    hooks = []
    if vision is not None:
        hooks = [
            vision.register_forward_pre_hook(lambda *_: spans.append(-clock.synchronised())),
            vision.register_forward_hook(lambda *_: spans.append(clock.synchronised())),
        ]
    method.last = None  # a failure must never leave the trace of the sample before
    try:
        with torch.inference_mode():
            began = clock.synchronised()
            model.generate(
                **inputs, max_new_tokens=max_new_tokens, do_sample=False, num_beams=1, custom_generate=method
            )
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
