"""What is counted without weights is what small instances have: parameters, cache, FLOPs, experts, windows."""

import re
from typing import Any

import pytest
import torch
import transformers
from covering import covering
from families.builders import FAMILIES
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import DynamicCache

from fastvlm_bench.errors import UsageError
from fastvlm_bench.models.layers import decoder_layers, output_embeddings, owner
from fastvlm_bench.models.memory_need import packed_parameters, weight_bytes
from fastvlm_bench.predicting.devices import DEVICES
from fastvlm_bench.predicting.passes import Load
from fastvlm_bench.predicting.structure import Structure, Weights, count, count_head

UNKNOWN = ("florence2", "glm5_next")
"""Their passes compute with values, so that their cache cannot be known without weights: refused."""
OFTEN = ("llava", "gemma3", "mllama", "blip2_t5", "lfm2_vl", "qwen3_5_moe")
"""Plain, windows, cross-attention, an encoder, convolutions, and recurrences with experts; the others are `slow`."""


def known(*without: str) -> list[Any]:
    """The families that can be counted, as parameters of a test."""
    return [name if name in OFTEN else pytest.param(name, marks=pytest.mark.slow)
            for name in FAMILIES if name not in (*UNKNOWN, *without)]  # fmt: skip


CROSS = ("mllama", "blip2_t5", "instructblip_t5")
"""Their layers also attend to an image or an encoder, which this test does not give them."""
CONTEXT = 20


def built(name: str) -> tuple[Any, Structure]:
    torch.manual_seed(0)
    model = FAMILIES[name]()[0].eval()
    return model, count(model.config, name)[0]


def text_pass(model: Any, cache: Any, positions: int) -> None:
    ids = torch.arange(3, 3 + positions)[None]
    with torch.inference_mode():
        state = owner(model, decoder_layers(model))(input_ids=ids, past_key_values=cache, use_cache=True)[0]
        output_embeddings(model)(state)


def elements(value: Any) -> int:
    """Elements of all tensors within a value, such as a layer's cache."""
    if isinstance(value, torch.Tensor):
        return value.numel() if value.ndim > 1 else 0
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return sum(map(elements, inner))


@pytest.mark.parametrize("name", known())
def test_parameters_and_cache_are_those_of_an_instance(name: str) -> None:
    model, found = built(name)
    whole = sum(p.numel() for p in model.parameters())  # one class ties its LM head only where it is made by its name
    assert found.parameters == whole - (found.output if name == "blip2_t5" else 0)
    assert len(found.layers) == len(decoder_layers(model))
    cache = DynamicCache(config=model.config.get_text_config(decoder=True))
    text_pass(model, cache, CONTEXT)
    held = sum(elements(vars(layer)) for layer in cache.layers)
    # A window of w keeps w - 1 positions for the next token, which is the w-th.
    told = sum(layer.kv * (min(CONTEXT, layer.window - 1) if layer.window else CONTEXT) + layer.state
               for layer in found.layers)  # fmt: skip
    assert told == held


@pytest.mark.parametrize("name", known(*CROSS))
def test_flops_of_a_token_are_those_of_an_instance(name: str) -> None:
    """Norms and biases count as products here and not there; what a recurrence computes is left out here."""
    model, found = built(name)
    model.set_experts_implementation("eager")  # which torch's counter sees
    cache = DynamicCache(config=model.config.get_text_config(decoder=True))
    text_pass(model, cache, CONTEXT - 1)
    with FlopCounterMode(display=False) as counter:
        text_pass(model, cache, 1)
    told = Load(found, DEVICES["h100"], "bfloat16", 16, context=CONTEXT).standard().flops
    assert told == pytest.approx(counter.get_total_flops(), rel=0.15)


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_cannot_be_known_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(UsageError, match=f"'{name}'.*cannot be known without weights.*run") as refused:
        built(name)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", covering(["llava", "qwen3_5_moe"], ["qwen3_5_moe"]))
def test_what_is_packed_is_what_an_instance_has_in_products(name: str) -> None:
    """Linear layers but the LM head, the image encoder's too, and the tensors of experts: each once."""
    model, found = built(name)
    linear = {id(module.weight): module.weight.numel() for module in model.modules()
              if isinstance(module, nn.Linear) and module.weight is not output_embeddings(model).weight}  # fmt: skip
    experts = sum(layer.weights.routed for layer in found.layers)
    assert found.packed == sum(linear.values()) + experts
    modules = model.named_modules()
    assert any(re.search("vision|visual", name) and isinstance(module, nn.Linear) for name, module in modules)
    weights = weight_bytes(model.config, torch.bfloat16, "4bit")
    assert weights == int(found.packed * 4.5 / 8 + (found.parameters - found.packed) * 2), "one rule for both commands"


def test_a_module_that_is_used_twice_is_packed_once() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            block, self.head = nn.Linear(4, 4), nn.Linear(4, 9)
            self.first, self.second = block, nn.Sequential(block, nn.LayerNorm(4))

        def get_output_embeddings(self) -> nn.Module:
            return self.head

    assert packed_parameters(Twice()) == 16


def test_latent_attention_costs_what_its_products_cost() -> None:
    """The cache's own tensors as serving engines multiply them: queries with both, then scores with the latent."""
    text = transformers.DeepseekV3Config(
        vocab_size=128, hidden_size=64, intermediate_size=64, moe_intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=4, n_routed_experts=4, num_experts_per_tok=2, n_group=1,
        topk_group=1, first_k_dense_replace=1, kv_lora_rank=24, q_lora_rank=16, qk_rope_head_dim=8,
        qk_nope_head_dim=12, v_head_dim=12,
    )  # fmt: skip
    vision = transformers.CLIPVisionConfig(hidden_size=32, intermediate_size=32, num_hidden_layers=1,
                                           num_attention_heads=2, image_size=28, patch_size=14)  # fmt: skip
    found, _ = count(transformers.LlavaConfig(vision_config=vision, text_config=text), "latent")
    heads, latent, rotary = 4, 24, 8
    query, turned = torch.ones(heads, latent), torch.ones(heads, rotary)
    cached, placed = torch.ones(CONTEXT, latent), torch.ones(CONTEXT, rotary)
    with FlopCounterMode(display=False) as counter:
        scores = query @ cached.T + turned @ placed.T
        _ = scores @ cached
    for layer in found.layers:
        assert (layer.kv, layer.read) == (latent + rotary, latent + rotary)
        assert layer.attention * CONTEXT == counter.get_total_flops()


def test_each_position_reads_its_own_experts() -> None:
    weights = Weights(shared=10, routed=800, experts=8, chosen=2)
    assert weights.active == 10 + 200 == weights.touched(1)
    assert weights.touched(2) == pytest.approx(10 + 800 * (1 - 0.75**2))
    assert weights.touched(1000) == pytest.approx(810)
    assert Weights(10).touched(5) == Weights(10).active == 10


def test_experts_of_a_family_are_found() -> None:
    _, found = built("qwen3_5_moe")
    for layer in found.layers:
        assert (layer.weights.experts, layer.weights.chosen) == (4, 2)
        assert layer.weights.routed == 4 * (64 * 48 + 48 * 32)


def test_experts_whose_choice_is_not_told_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastvlm_bench.predicting.structure.TOP_K", ("no_such_setting",))
    with pytest.raises(UsageError, match="how many of the experts"):
        built("qwen3_5_moe")


@pytest.mark.parametrize(("kind", "depth"), covering(
    [("none", 0), ("linear", 0), ("mlp", 0), ("attention", 1), ("twig", 2)], [("mlp", 0), ("twig", 2)]
))  # fmt: skip
def test_heads_are_counted_as_they_are_built(kind: str, depth: int) -> None:
    from fastvlm_bench.drafts.heads import new_head

    torch.manual_seed(0)
    model = FAMILIES["llava"]()[0]
    found, meta = count(model.config, "llava")
    head = count_head(meta, found, kind, 2)
    if kind == "none":
        assert head is None
        return
    assert head is not None and head.kv == depth * found.layers[2].kv
    assert head.weights.shared == sum(p.numel() for p in new_head(kind, model, 2).parameters())
