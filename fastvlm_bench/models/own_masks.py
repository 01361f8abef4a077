"""Whether a model takes a mask of one's own for each token of a pass, with a position for each."""

import inspect
import sys
from typing import Any

from fastvlm_bench.models.layers import decoder_layers, owner


def refuses_own_masks(model: Any) -> str:
    """Why a model takes no 4-D mask and positions; "" where nothing is known that speaks against it.

    Recurrent states, windows and convolutions know one past only.
    """
    text = model.config.get_text_config(decoder=True)
    kinds = set(getattr(text, "layer_types", None) or ()) - {"full_attention"}
    window = getattr(text, "sliding_window", None) if getattr(text, "use_sliding_window", True) else None
    if getattr(model.config, "is_encoder_decoder", False):
        return "it is an encoder-decoder"
    if kinds:
        return f"it has layers of the kind {min(kinds)}"
    if window and not getattr(text, "layer_types", None):
        return "it has sliding windows"
    if "position_ids" not in inspect.signature(model.forward).parameters:
        return "its forward takes no position_ids"
    if len(decoder_layers(model)) != len(set(decoder_layers(model))):
        return "its layers share weights"
    if not hasattr(sys.modules[type(owner(model, decoder_layers(model))).__module__], "create_causal_mask"):
        return "it makes its masks itself, from one mark for each token"
    if (attention := getattr(text, "_attn_implementation", None)) not in (None, "eager", "sdpa"):
        return f"its attention, {attention}, takes no mask of its own for each token: try --attn sdpa"
    return ""
