"""How far a draft is from its target, position by position.

cosine, kd and ce are the losses of section 3 of arXiv 2510.22641; smooth_l1 and acceptance are further ones to try.
"""

import torch
from torch import Tensor
from torch.nn import functional

from fastvlm_bench.training.recipe import Recipe


def position_losses(recipe: Recipe, states: Tensor, drafted: Tensor, aim: Tensor, target: Tensor) -> Tensor:
    """The weighted sum of the recipe's losses at each of n positions, (n,), in float32.

    states: the head's output, (n, width); aim: the target's deeper states there. drafted, target: logits, (n, vocab).
    """
    total = states.new_zeros(states.shape[0], dtype=torch.float32)
    for name, weight in recipe.losses.items():
        total = total + weight * _LOSSES[name](recipe, states.float(), drafted.float(), aim.float(), target.float())
    return total


def _cosine(recipe: Recipe, states: Tensor, drafted: Tensor, aim: Tensor, target: Tensor) -> Tensor:
    return 1 - functional.cosine_similarity(states, aim, dim=-1)


def _smooth_l1(recipe: Recipe, states: Tensor, drafted: Tensor, aim: Tensor, target: Tensor) -> Tensor:
    return functional.smooth_l1_loss(states, aim, reduction="none").mean(-1)


def _kd(recipe: Recipe, states: Tensor, drafted: Tensor, aim: Tensor, target: Tensor) -> Tensor:
    """KL(p || q) at a temperature. With top_k both are renormalised over the target's k likeliest tokens."""
    t = recipe.temperature
    if recipe.top_k and recipe.top_k < target.shape[-1]:
        target, ids = target.topk(recipe.top_k, dim=-1)
        drafted = drafted.gather(-1, ids)
    soft, own = (target / t).log_softmax(-1), (drafted / t).log_softmax(-1)
    return t * t * functional.kl_div(own, soft, log_target=True, reduction="none").sum(-1)


def _ce(recipe: Recipe, states: Tensor, drafted: Tensor, aim: Tensor, target: Tensor) -> Tensor:
    return functional.cross_entropy(drafted, target.argmax(-1), reduction="none")


def _acceptance(recipe: Recipe, states: Tensor, drafted: Tensor, aim: Tensor, target: Tensor) -> Tensor:
    """1 - Σ min(p, q): one minus the expected acceptance of speculative sampling (2211.17192, corollary 3.6)."""
    return 1 - torch.minimum(drafted.softmax(-1), target.softmax(-1)).sum(-1)


_LOSSES = {"cosine": _cosine, "smooth_l1": _smooth_l1, "kd": _kd, "ce": _ce, "acceptance": _acceptance}
