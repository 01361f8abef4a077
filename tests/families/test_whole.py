"""Every family's checkpoint: whole it loads without a word, and damaged it is refused, whatever is missing."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from covering import covering
from families.builders import FAMILIES
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fastvlm_bench.errors import UsageError
from fastvlm_bench.models.whole import computed, load_weights, sort_unexpected

FAST = ("qwen2_vl",)
BETWEEN = re.compile(
    r"projector|connector|merger|qformer|projection|image_to_text|aligner|adapter|embed_vision|mlp1|hmlp"
)
Weights = dict[str, Tensor]


@pytest.fixture(
    scope="module",
    params=covering(FAMILIES, FAST),
)
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Weights]:
    torch.manual_seed(0)
    model, _ = FAMILIES[request.param]()
    folder = tmp_path_factory.mktemp(request.param) / "model"
    model.save_pretrained(folder)
    return folder, load_file(folder / "model.safetensors")


def load(saved: tuple[Path, Weights], weights: Weights) -> tuple[Any, list[str]]:
    folder, _ = saved
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return load_weights("mine", str(folder))


def refusal(saved: tuple[Path, Weights], weights: Weights) -> str:
    with pytest.raises(UsageError) as caught:
        load(saved, weights)
    text = str(caught.value)
    assert "\n" not in text and "'mine'" in text and "take a complete checkpoint" in text
    return text


def pick(weights: Weights, pattern: str) -> str:
    """The first matrix whose name matches: of the last kind of part where there is none."""
    matrices = [key for key in sorted(weights) if weights[key].ndim >= 2]
    return next((key for key in matrices if re.search(pattern, key)), matrices[-1])


def together(weights: Weights, key: str) -> set[str]:
    """The key; with it all of which one suffices where embeddings and LM head are tied."""
    tied = {name for name in weights if re.search(r"shared\.weight|embed_tokens|wte|lm_head|word_embeddings", name)}
    return tied if key in tied else {key}


PARTS: dict[str, Callable[[Weights], str]] = {
    "between image and text": lambda weights: pick(weights, BETWEEN),
    "a decoder layer": lambda weights: pick(weights, r"(layers|block)\.1\.(?!.*experts).*"),
    "embeddings": lambda weights: pick(weights, r"embed_tokens|shared\.weight|wte|(?<!position_)embed"),
}


def test_a_whole_checkpoint_loads(saved: tuple[Path, Weights]) -> None:
    model, unused = load(saved, saved[1])
    again = saved[0].parent / "again"
    model.save_pretrained(again)
    stored = load_file(again / "model.safetensors")
    assert not unused and stored.keys() == saved[1].keys()
    assert all(torch.equal(stored[key], value) for key, value in saved[1].items())


@pytest.mark.parametrize("part", PARTS)
def test_one_missing(saved: tuple[Path, Weights], part: str) -> None:
    gone = together(saved[1], PARTS[part](saved[1]))
    text = refusal(saved, {name: value for name, value in saved[1].items() if name not in gone})
    assert re.search(r"\d+ weights? missing in its files, which would stay random \(", text)


def test_the_lm_head_missing(saved: tuple[Path, Weights]) -> None:
    key = next((key for key in saved[1] if "lm_head" in key), PARTS["embeddings"](saved[1]))
    gone = together(saved[1], key)
    assert "missing" in refusal(saved, {name: value for name, value in saved[1].items() if name not in gone})


def test_one_renamed(saved: tuple[Path, Weights]) -> None:
    key = PARTS["a decoder layer"](saved[1])
    text = refusal(saved, {f"{name}_" if name == key else name: value for name, value in saved[1].items()})
    assert "1 weight missing" in text


def test_one_of_another_shape(saved: tuple[Path, Weights]) -> None:
    key = PARTS["between image and text"](saved[1])
    wrong = torch.cat([saved[1][key]] * 2)
    text = refusal(saved, {**saved[1], key: wrong})
    assert re.search(r"of another shape \(.*in the files, .* by config.json", text) or "cannot be joined" in text


def test_half_missing(saved: tuple[Path, Weights]) -> None:
    text = refusal(saved, {name: saved[1][name] for name in sorted(saved[1])[::2]})
    assert re.search(r"\d+ weights? (missing in its files.*and \d+ more\)|that cannot be joined)", text)


# ------------------------------------------------------------------------------------------ single rules


def test_experts_that_cannot_be_joined(tmp_path: Path) -> None:
    """transformers joins experts into one tensor. It names no key where that fails."""
    model, _ = FAMILIES["qwen3_5_moe"]()
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    key = next(key for key in weights if "experts.1.gate_proj" in key)
    text = refusal((tmp_path, weights), {name: value for name, value in weights.items() if name != key})
    assert "1 weight that cannot be joined from the files" in text and "mlp.experts.gate_up_proj" in text


def test_sharded(tmp_path: Path) -> None:
    model, _ = FAMILIES["llava"]()
    model.save_pretrained(tmp_path, max_shard_size="100KB")
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 1 and load_weights("mine", str(tmp_path))[1] == []
    weights = load_file(shards[-1])
    gone = sorted(weights)[0]
    save_file({key: weights[key] for key in weights if key != gone}, shards[-1], metadata={"format": "pt"})
    with pytest.raises(UsageError, match=r"1 weight missing in its files, which would stay random \("):
        load_weights("mine", str(tmp_path), dtype=torch.bfloat16)


def test_biases_that_the_configuration_does_not_have(tmp_path: Path) -> None:
    model, _ = FAMILIES["llava"]()
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    biases = {
        key.replace("weight", "bias"): weights[key][0].clone()
        for key in weights
        if key.endswith("q_proj.weight") and "vision" not in key
    }
    text = refusal((tmp_path, weights), weights | biases)
    assert f"{len(biases)} weights of another class or configuration" in text and "q_proj.bias" in text
    head = "vision_tower.vision_model.head.probe"
    assert len(load((tmp_path, weights), {**weights, head: torch.zeros(2, 2)})[1]) == 1


@pytest.fixture
def llava() -> Any:
    return FAMILIES["llava"]()[0]


def unexpected(model: Any, *keys: str) -> tuple[list[str], list[str]]:
    return sort_unexpected(model, keys)


DECODER, ENCODER = "model.language_model.layers", "model.vision_tower.encoder.layers"


@pytest.mark.parametrize(
    "keys",
    [
        [f"{DECODER}.0.self_attn.q_proj.bias"],  # Qwen2's checkpoint with Llama's configuration
        [f"{DECODER}.3.self_attn.q_norm.weight"],  # Qwen3's
        [f"{DECODER}.{layer}.mlp.up_proj.weight" for layer in (5, 6)],  # fewer layers in config.json than in the files
        ["lm_head.bias"],
        [f"{ENCODER}.{layer}.ls1" for layer in (0, 1)],  # an image encoder with layer scales
        [f"{ENCODER}.{layer}.mlp.fc1.weight" for layer in range(2, 24)],
        ["model.multi_modal_projector.linear_1.scale"],
    ],
)
def test_signs_of_another_class(llava: Any, keys: list[str]) -> None:
    assert unexpected(llava, *keys) == (sorted(keys), [])


@pytest.mark.parametrize(
    "keys",
    [
        ["model.vision_tower.head.probe", "model.vision_tower.head.mlp.fc1.weight"],  # a pooling head
        ["mtp.layers.0.mlp.up_proj.weight", "talker.model.layers.0.mlp.up_proj.weight"],
        [f"{DECODER}.0.self_attn.rotary_emb.inv_freq", "model.vision_tower.embeddings.position_ids"],
        [f"{DECODER}.{layer}.self_attn.q_proj.lora_A.default.weight" for layer in range(5)],
        [f"{DECODER}.0.self_attn.k_scale", f"{DECODER}.0.self_attn.v_scale"],
    ],
)
def test_leftovers(llava: Any, keys: list[str]) -> None:
    assert unexpected(llava, *keys) == ([], sorted(keys))


def test_layers_that_predict_further_tokens_may_follow(llava: Any) -> None:
    llava.config.text_config.num_nextn_predict_layers = 1
    assert unexpected(llava, f"{DECODER}.5.mlp.up_proj.weight")[0] == []
    more = [f"{DECODER}.{layer}.mlp.up_proj.weight" for layer in (5, 6)]
    assert unexpected(llava, *more)[0] == more


def test_last_layers_of_an_image_encoder_may_be_cut() -> None:
    config = hf.LlavaConfig(
        vision_config=hf.CLIPVisionConfig(hidden_size=16, intermediate_size=16, num_hidden_layers=5,
                                          num_attention_heads=2, image_size=16, patch_size=8),
        text_config=hf.LlamaConfig(hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
                                   vocab_size=32),
    )  # fmt: skip
    model = hf.LlavaForConditionalGeneration(config)
    assert unexpected(model, f"{ENCODER}.5.mlp.fc1.weight", f"{ENCODER}.5.mlp.fc2.weight")[0] == []


def test_buffers_that_the_class_computes_are_not_missing() -> None:
    batch_norm = nn.BatchNorm1d(4)
    assert computed(batch_norm.num_batches_tracked) and not computed(batch_norm.running_mean)
    assert computed(1.0 / 10000 ** torch.arange(0, 1, 0.25)) and not computed(torch.ones(1))
