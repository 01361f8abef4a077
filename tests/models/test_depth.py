"""The proofs on the embedded model's card can fail: padding is found out, and so is text that drafts itself."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

from fastvlm_bench.embedded.depth import first_of_pair, halved, loss, mean_of_pair
from fastvlm_bench.embedded.easy_drafts import NGrams, checked, lookup
from fastvlm_bench.embedded.train import every_second_layer
from fastvlm_bench.models.load import Target, load_target
from fastvlm_bench.models.names import TINY
from fastvlm_bench.training.prediction import simulate


@pytest.fixture(scope="module")
def tiny() -> Target:
    return load_target("tiny", device="cpu")


def logits(target: Target) -> torch.Tensor:
    with torch.inference_mode():
        found: Any = target.model(input_ids=torch.tensor([[1, 40, 41, 42, 43, 44]])).logits
    return found


def padded(target: Target) -> Target:
    """The target with an idle layer after each of its own."""
    deep = copy.copy(target)
    deep.model = copy.deepcopy(target.model)
    decoder = deep.model.model.language_model
    layers = []
    for layer in decoder.layers:
        idle = copy.deepcopy(layer)
        with torch.no_grad():
            idle.self_attn.o_proj.weight.zero_()
            idle.mlp.down_proj.weight.zero_()
        layers += [layer, idle]
    decoder.layers = nn.ModuleList(layers)
    for index, layer in enumerate(decoder.layers):
        layer.self_attn.layer_idx = index
    decoder.config.num_hidden_layers = len(layers)
    return deep


def test_padding_is_found_out(tiny: Target) -> None:
    """Leaving out every second layer changes nothing in a padded model, and much in one that is not."""
    deep = padded(tiny)
    assert len(deep.layers) == 2 * len(tiny.layers)
    assert torch.equal(logits(halved(deep, first_of_pair)), logits(tiny))
    assert len(halved(tiny, first_of_pair).layers) == len(tiny.layers) // 2
    assert not torch.allclose(logits(halved(tiny, first_of_pair)), logits(tiny), atol=0.1)
    before = logits(tiny)
    merged = halved(tiny, mean_of_pair)
    a, b = (layer.mlp.down_proj.weight for layer in tiny.layers[:2])
    assert torch.allclose(merged.layers[0].mlp.down_proj.weight, (a + b) / 2)
    assert torch.equal(logits(tiny), before), "the target itself is left as it was"


def test_what_learns_on_begins_as_every_second_layer(tiny: Target) -> None:
    begun = every_second_layer(TINY).eval()
    small = halved(tiny, first_of_pair)
    with torch.inference_mode():
        found: Any = begun(input_ids=torch.tensor([[1, 40, 41, 42, 43, 44]])).logits
    assert torch.allclose(found, logits(small), atol=1e-4) and begun.config.text_config.num_hidden_layers == len(
        small.layers
    )


def test_the_interval_of_a_loss_is_paired() -> None:
    whole, less = [1.0, 0.0, 1.0, 1.0] * 25, [1.0, 0.0, 0.0, 1.0] * 25
    found = loss(whole, less)
    assert found["lost"] == pytest.approx(0.25) and 0.1 < found["low"] < 0.25 < found["high"] < 0.4
    assert loss(whole, whole) == {"whole": 0.75, "less": 0.75, "lost": 0.0, "low": 0.0, "high": 0.0}


def test_drafts_that_know_only_text() -> None:
    grams = NGrams([[5, 6, 7, 8, 9], [5, 6, 7, 8, 9], [4, 6, 7, 3]])
    assert grams([1, 6, 7]) == 8 and grams([8, 6]) == 7 and grams([77]) == 6
    assert lookup([1, 2, 3, 9, 1, 2, 3]) == 9 and lookup([2, 8, 2, 9, 5, 2]) == 9 and lookup([1, 2, 3]) is None
    found = simulate([checked(lookup, [1, 2, 3, 4, 5, 6], [2, 3, 4, 7], ended=True)], 10, 0.0)
    assert (found.accepted, found.tested) == (2, 3), "it copies 3 and 4, then 5 is wrong"
    assert simulate([checked(lookup, [1, 2, 3], [4, 5], ended=True)], 10, 0.0).tested == 0
