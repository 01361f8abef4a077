"""Every loss by numbers worked out by hand."""

import math

import pytest
import torch

from fastvlm_bench.training.losses import position_losses
from fastvlm_bench.training.recipe import Recipe

P, Q = [0.5, 0.3, 0.2], [0.25, 0.25, 0.5]
"""The distributions of target and draft over three tokens."""


def loss(losses: dict[str, float], *, states: list[float] | None = None, aim: list[float] | None = None,
         target: list[float] = P, drafted: list[float] = Q, **options: float) -> float:  # fmt: skip
    recipe = Recipe("r", "mlp", 1, losses=losses, **options)  # type: ignore[arg-type]
    made = position_losses(
        recipe, torch.tensor([states or [1.0, 0.0]]), torch.tensor([drafted]).log(), torch.tensor([aim or [1.0, 0.0]]),
        torch.tensor([target]).log(),
    )  # fmt: skip
    assert made.shape == (1,) and made.dtype == torch.float32
    return made.item()


def test_cosine_and_smooth_l1() -> None:
    assert loss({"cosine": 1}, states=[3.0, 4.0], aim=[4.0, 3.0]) == pytest.approx(1 - 24 / 25)
    # |difference| 0.5 -> 0.5²/2; 3 -> 3 - 1/2; their mean.
    assert loss({"smooth_l1": 1}, states=[0.5, 3.0], aim=[0.0, 0.0]) == pytest.approx((0.125 + 2.5) / 2)


def test_kd_ce_and_acceptance() -> None:
    kl = 0.5 * math.log(2) + 0.3 * math.log(0.3 / 0.25) + 0.2 * math.log(0.2 / 0.5)
    assert loss({"kd": 1}) == pytest.approx(kl, rel=1e-5)
    assert loss({"ce": 1}) == pytest.approx(-math.log(0.25))
    # Σ min(p, q) = .25 + .25 + .2; the total variation ½ Σ|p - q| = ½ (.25 + .05 + .3) is the rest to one.
    assert loss({"acceptance": 1}) == pytest.approx(0.3, rel=1e-5)


def test_temperature_softens_both_and_scales_the_gradient() -> None:
    p, q = [x**0.5 for x in P], [x**0.5 for x in Q]
    p, q = [x / sum(p) for x in p], [x / sum(q) for x in q]
    kl = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    assert loss({"kd": 1}, temperature=2.0) == pytest.approx(4 * kl, rel=1e-5)


def test_top_k_renormalises_both_over_the_targets_likeliest() -> None:
    # The target's two likeliest are 0 and 1: p = (5/8, 3/8), q = (1/2, 1/2); the draft's own favourite is left out.
    kl = 5 / 8 * math.log(5 / 4) + 3 / 8 * math.log(3 / 4)
    assert loss({"kd": 1}, top_k=2) == pytest.approx(kl, rel=1e-5)
    assert loss({"kd": 1}, top_k=3) == loss({"kd": 1}) == loss({"kd": 1}, top_k=99)


def test_weights_add_up() -> None:
    assert loss({"ce": 0.5, "acceptance": 2.0}) == pytest.approx(-0.5 * math.log(0.25) + 0.6, rel=1e-5)


def test_a_perfect_draft_costs_nothing() -> None:
    for name in ("cosine", "smooth_l1", "kd", "acceptance"):
        assert loss({name: 1}, drafted=P) == pytest.approx(0, abs=1e-6)


def test_half_precision_is_summed_in_float32() -> None:
    recipe = Recipe("r", "mlp", 1, losses={"kd": 1.0})
    logits = torch.randn(4, 1000, generator=torch.Generator().manual_seed(0)).bfloat16()
    made = position_losses(recipe, torch.ones(4, 2).bfloat16(), logits, torch.ones(4, 2).bfloat16(), logits.flip(0))
    assert made.dtype == torch.float32
    exact = position_losses(recipe, torch.ones(4, 2), logits.float(), torch.ones(4, 2), logits.flip(0).float())
    assert torch.equal(made, exact)
