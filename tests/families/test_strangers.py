"""Architectures that no list here names, as a stranger tries them: taken, or refused with what was found."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers as hf
from families.builders import randomise
from families.saved import SIZE, gemma3, llava, pil
from families.shapes import IMAGE, LAYERS, TEXT, VISION, VOCABULARY, WIDTH
from families.spelling import tokenizer
from typer.testing import CliRunner

from fastvlm_bench.cli.app import app
from fastvlm_bench.models.families import FAMILIES

ASKS = "{% for m in messages %}{% for p in m['content'] %}{% if p['type'] == 'text' %}{{ p['text'] }}{% endif %}" \
       "{% endfor %}{% endfor %}"  # fmt: skip
ODD = '''
"""A model of somebody's own: its last layer mixes the tokens of a pass: a block is not what single tokens are."""
from transformers import LlavaConfig, LlavaForConditionalGeneration

class OddConfig(LlavaConfig):
    model_type = "odd_vl"

class OddModel(LlavaForConditionalGeneration):
    config_class = OddConfig

    def __init__(self, config):
        super().__init__(config)
        self.model.language_model.layers[-1].post_attention_layernorm.register_forward_hook(
            lambda module, given, states: states + 0.5 * states.mean(dim=1, keepdim=True)
        )
'''


def call(*arguments: str | Path) -> Any:
    options = [str(argument) for argument in arguments]
    return CliRunner().invoke(app, options, catch_exceptions=False, env={"COLUMNS": "100"})


def write(folder: Path, model: Any, processor: Any, **options: Any) -> Path:
    randomise(model, 0).save_pretrained(folder, **options)
    processor.save_pretrained(folder)
    return folder


def vipllava(folder: Path) -> Path:
    config = hf.VipLlavaConfig(
        vision_config=hf.CLIPVisionConfig(**VISION), text_config=hf.LlamaConfig(**TEXT), image_token_index=IMAGE,
        vision_feature_layers=[-1, -2],
    )  # fmt: skip
    return write(folder, hf.VipLlavaForConditionalGeneration(config), llava(None))


def git(folder: Path) -> Path:
    """GIT has no placeholder for the image, no decoder under a usual name, and a processor that takes no template."""
    config = hf.GitConfig(
        vision_config=dict(VISION), vocab_size=VOCABULARY, hidden_size=WIDTH, num_hidden_layers=LAYERS,
        num_attention_heads=4, intermediate_size=96, bos_token_id=1, eos_token_id=2, pad_token_id=0,
        max_position_embeddings=256,
    )  # fmt: skip
    images = pil("CLIP", size={"shortest_edge": SIZE["height"]}, crop_size=SIZE)
    write(folder, hf.GitForCausalLM(config), hf.GitProcessor(images, tokenizer()))
    (folder / "chat_template.jinja").write_text(ASKS)
    return folder


def t5gemma2(folder: Path) -> Path:
    text = dict(TEXT, head_dim=12, sliding_window=12, query_pre_attn_scalar=12)
    marks = {"image_token_index": IMAGE, "boi_token_index": IMAGE + 1, "eoi_token_index": IMAGE + 2}
    encoder = {"text_config": text, "vision_config": dict(VISION, vision_use_head=False), "mm_tokens_per_image": 4}
    config = hf.T5Gemma2Config(encoder={**encoder, **marks}, decoder=text, image_token_index=IMAGE)
    model = hf.T5Gemma2ForConditionalGeneration(config)
    model.generation_config.decoder_start_token_id = 1
    return write(folder, model, gemma3(None))


def blip(folder: Path) -> Path:
    text = dict(
        vocab_size=VOCABULARY, hidden_size=WIDTH, encoder_hidden_size=32, intermediate_size=96, is_decoder=True,
        num_hidden_layers=LAYERS, num_attention_heads=4, bos_token_id=1, eos_token_id=2, sep_token_id=2, pad_token_id=0,
        max_position_embeddings=256,
    )  # fmt: skip
    config = hf.BlipConfig(text_config=text, vision_config=dict(VISION))
    write(folder, hf.BlipForConditionalGeneration(config), hf.BlipProcessor(pil("Blip", size=SIZE), tokenizer()))
    (folder / "chat_template.jinja").write_text(ASKS)
    return folder


def odd(folder: Path) -> Path:
    config = hf.LlavaConfig(
        vision_config=hf.CLIPVisionConfig(**VISION), text_config=hf.LlamaConfig(**TEXT), image_token_index=IMAGE,
        vision_feature_select_strategy="default",
    )  # fmt: skip
    # transformers renames LLaVA's weights for LLaVA alone: a class of its own has them under its own names.
    write(folder, hf.LlavaForConditionalGeneration(config), llava(None), save_original_format=False)
    (folder / "modeling_odd.py").write_text(ODD)
    told = json.loads((folder / "config.json").read_text())
    told |= {"model_type": "odd_vl", "architectures": ["OddModel"], "auto_map": {
        "AutoConfig": "modeling_odd.OddConfig", "AutoModelForImageTextToText": "modeling_odd.OddModel"}}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(told))
    return folder


@pytest.mark.slow  # in the default run, test_unlisted.py decodes a family that is not listed
@pytest.mark.parametrize("build", [vipllava, git, t5gemma2])
def test_taken(build: Callable[[Path], Path], tmp_path: Path) -> None:
    assert not any(build.__name__ in family.name for family in FAMILIES)
    folder = build(tmp_path / "model")
    result = call("models", "--check", folder, "--offline", "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert result.stdout.count("verification matches a full pass") == LAYERS - 1
    result = call(
        "run", "--model", folder, "--suite", "coco-caption", "--limit", "2", "--warmup", "0", "--threads", "1",
        "--device", "cpu", "--max-new-tokens", "12", "--out", tmp_path / "results", "--offline",
        "-m", "layerskip:exit_layer=2,gamma=3,stop_below=0", "-m", "hf-generate",
    )  # fmt: skip
    assert result.exit_code == 0 and "2/2" in result.stdout, result.output


def test_a_model_that_writes_to_its_input_is_refused(tmp_path: Path) -> None:
    result = call("models", "--check", blip(tmp_path / "model"), "--offline", "--device", "cpu")
    assert result.exit_code == 2 and result.stderr.strip().count("\n") == 0
    assert "BlipForConditionalGeneration writes to its own input_ids" in result.stderr


def test_an_architecture_that_cannot_be_gated_is_refused_with_the_measured_error(tmp_path: Path) -> None:
    folder = odd(tmp_path / "model")
    result = call("models", "--check", folder, "--offline", "--device", "cpu")
    assert result.exit_code == 2 and "--trust-remote-code" in result.stderr
    assert result.stderr.strip().count("\n") == 0
    result = call("models", "--check", folder, "--offline", "--device", "cpu", "--trust-remote-code")
    assert result.exit_code == 2
    assert result.stdout.count("refused: ") == LAYERS - 1  # each exit, with its own difference
    assert "OddModel cannot be decoded self-speculatively: verification differs from a full pass by " in result.stderr
    assert "use --method standard" in result.stderr
