"""Utilisation: the FFN that is found in each family, contributions that add up, places that are the right ones."""

import copy
from typing import Any

import pytest
import torch
from covering import covering
from families.builders import FAMILIES, build, plain
from targets import generate
from torch import Tensor, nn

from fastvlm_bench.errors import UsageError
from fastvlm_bench.models.layers import decoder_layers, output_embeddings
from fastvlm_bench.training.answers import Example
from fastvlm_bench.utilisation import neurons
from fastvlm_bench.utilisation.ffn import directions, down_projections
from fastvlm_bench.utilisation.neurons import contributions, key_neurons, most_of
from fastvlm_bench.utilisation.study import LayerUse, Utilisation
from fastvlm_bench.utilisation.tables import rows

COUNT = 7
KNOWN = ("llava", "qwen2_5_vl", "blip2_t5", "mllama", "kosmos2", "blip2")
"""Gated and plain FFNs, in a module of their own or in the layer itself."""


@pytest.mark.parametrize("name", covering(FAMILIES, KNOWN[1:4]))
def test_the_ffn_of_each_family(name: str) -> None:
    """One for each layer, whose output is what the layer adds beside its attention; or it is refused in one line."""
    model, given, _ = build(name)
    try:
        downs = down_projections(model)
    except UsageError as refusal:
        assert name not in KNOWN and "\n" not in str(refusal) and type(model).__name__ in str(refusal)
        return
    layers = decoder_layers(model)
    assert len(downs) == len(layers) == len(set(downs))
    text = model.config.get_text_config(decoder=True)
    sizes = {
        getattr(text, key, None)
        for key in ("intermediate_size", "ffn_dim", "decoder_ffn_dim", "d_ff", "ffn_hidden_size")
    }
    for layer, down in zip(layers, downs, strict=True):
        assert down in list(layer.modules()) and down.in_features in sizes
    seen: list[Any] = []
    hooks = [down.register_forward_pre_hook(lambda *_: seen.append(1)) for down in downs]
    plain(model, given, 2)
    assert len(seen) >= len(layers)
    for hook in hooks:
        hook.remove()


def test_a_mixture_of_experts_is_refused(llava: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = decoder_layers(llava)[2]
    mlp = layer.mlp
    monkeypatch.setitem(layer._modules, "mlp", nn.ModuleList([mlp, nn.Sequential(mlp)]))
    assert len(down_projections(llava)) == 5, "one FFN that is reached in two ways is one"
    monkeypatch.setitem(layer._modules, "mlp", nn.ModuleList([mlp, copy.deepcopy(mlp)]))
    with pytest.raises(UsageError, match=r"LlavaForConditionalGeneration .* layer 2 has 2 FFNs \(experts"):
        down_projections(llava)
    monkeypatch.setitem(layer._modules, "mlp", nn.Identity())
    with pytest.raises(UsageError, match="layer 2 has no FFN that is a linear map onto its 192 states"):
        down_projections(llava)


class Target:
    def __init__(self, model: Any) -> None:
        self.model = model


class Asked(Example):
    given: dict[str, Tensor]

    def inputs(self, target: Any) -> dict[str, Tensor]:
        return self.given


def asked(inputs: dict[str, Tensor], answer: list[int]) -> Asked:
    one = Asked(None, tuple(answer), False)  # type: ignore[arg-type]
    object.__setattr__(one, "given", inputs)
    return one


@pytest.fixture(scope="module")
def answer(llava: Any, inputs: Any) -> list[int]:
    return generate(llava, inputs, None, COUNT)


@pytest.mark.parametrize("count", covering([1, 2, COUNT], [1, 2]))
def test_key_neurons_by_one_plain_pass(llava: Any, inputs: Any, answer: list[int], count: int) -> None:
    """From one pass of the plain model over prompt and answer, written out: the same neurons in every layer."""
    said, downs = answer[:count], down_projections(llava)
    seen: dict[Any, Tensor] = {}
    hooks = [down.register_forward_pre_hook(lambda own, given: seen.__setitem__(own, given[0][0])) for down in downs]
    ids = torch.cat([inputs["input_ids"], torch.tensor([said])], dim=1)
    with torch.no_grad():
        llava(**{**inputs, "input_ids": ids, "attention_mask": torch.ones_like(ids)})
    for hook in hooks:
        hook.remove()
    before = inputs["input_ids"].shape[1] - 1
    with torch.inference_mode():
        found = key_neurons(Target(llava), downs, asked(inputs, said), 0.02)  # type: ignore[arg-type]
    for down, key in zip(downs, found, strict=True):
        weight, head = down.weight.detach(), output_embeddings(llava).weight.detach()
        scores = torch.stack([
            seen[down][before + place] * torch.stack([weight[:, i] @ head[token] for i in range(weight.shape[1])])
            for place, token in enumerate(said)
        ]).amax(dim=0)  # fmt: skip
        assert len(key) == int(0.02 * weight.shape[1]) > 3
        assert set(key.tolist()) == set(scores.topk(len(key)).indices.tolist())


def test_contributions_add_up(llava: Any) -> None:
    """Over all neurons they are what the FFN's output adds to the token's logit."""
    down = down_projections(llava)[1]
    activations = torch.randn(4, down.in_features)
    says = directions(llava, [5, 9, 5, 200])
    added = contributions(activations, down.weight.detach(), says).sum(dim=1)
    wanted = (down(activations) * says).sum(dim=1)
    assert torch.allclose(added, wanted.detach(), rtol=1e-4, atol=1e-4)


def test_shares() -> None:
    assert most_of(14336, 0.001) == 14 and most_of(512, 0.001) == 1 and most_of(10, 1.0) == 10
    layers = (LayerUse(1, 100, 1, 10), LayerUse(2, 300, 1, 90))
    found = Utilisation("m", "s", "t", 4, 9, 0.01, "cpu", "float32", layers, ((1, 0.1), (4, 0.25)))
    assert found.below(1) == 0.1 and found.whole == 0.25
    assert rows(found)[0]["to_full_model"] == pytest.approx(0.4) and rows(found)[1]["utilisation"] == 0.3
    assert neurons.most_of is most_of
