"""What is special about T5: its blocks hand on a position bias that only the first one computes.

A block takes the position bias of its self-attention and returns (states, that bias, the cross-attention's). A block
that the layer gate skips must hand the bias on all the same. Where the first block is skipped, `handing_on` computes
the bias in its place.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


def shares_position_bias(layers: nn.ModuleList) -> bool:
    """Whether only the first of `layers` has the table of relative positions (T5, Flan-T5, mT5; not UMT5)."""
    having = [getattr(_self_attention(layer), "has_relative_attention_bias", False) for layer in layers]
    return having[0] and not any(having[1:])


def handing_on(layers: nn.ModuleList, gated: Callable[..., Any]) -> Callable[..., Any]:
    """Make `gated`, the gated `forward` of one of `layers`, return all that a T5 block returns.

    A skipped block returns its states alone. T5Stack passes the bias as the third positional argument.
    `past_key_values` still has its length from before this pass.
    """
    first = _self_attention(layers[0])

    def forward(
        states: Tensor, mask: Any = None, bias: Tensor | None = None, seen: Any = None, seen_mask: Any = None,
        seen_bias: Any = None, *, past_key_values: Any = None, **kwargs: Any,
    ) -> Any:  # fmt: skip
        result = gated(states, mask, bias, seen, seen_mask, seen_bias, past_key_values=past_key_values, **kwargs)
        states, known = result[:2] if isinstance(result, tuple) else (result, None)
        if known is not None:
            return result
        if bias is None:  # the first block did not run
            count, past = states.shape[1], past_key_values.get_seq_length(0)
            bias = first.compute_bias(count, past + count, device=states.device, past_seen_tokens=past)
        return states, bias, seen_bias

    return forward


def _self_attention(layer: nn.Module) -> Any:
    parts = getattr(layer, "layer", None)
    return getattr(parts[0], "SelfAttention", None) if isinstance(parts, nn.ModuleList) and len(parts) else None
