"""How much of a difference between logits rounding may explain: units in the last place, and a bound on its noise."""

import math

import torch

ULPS = 2
"""Units in the last place that are always allowed for: two results of one sum may lie this far apart."""
ROUNDING = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.05}
"""The most, as a share of the largest logit, by which rounding is believed to move one logit of the plain model.

Where the plain model moves its own logits by more, something other than rounding has turned: a mixture of experts has
chosen another expert, or a sparse attention other tokens.
"""


def ulp(value: float, dtype: torch.dtype) -> float:
    """One unit in the last place: the distance between neighbouring numbers of `dtype` at the magnitude of `value`."""
    info = torch.finfo(dtype)
    return float(info.eps) * 2.0 ** math.floor(math.log2(max(abs(value), float(info.tiny))))


def rounding(dtype: torch.dtype) -> float:
    """The bound `ROUNDING` of a dtype."""
    return ROUNDING.get(dtype, 0.1)
