"""Families whose image tokens stand in the text: one build of each."""

import importlib.util
from typing import Any

import torch
import transformers as hf
from families.shapes import IMAGE, MROPE, QWEN_IDS, TEXT, VISION, WIDTH, Built, grid, pixels, prompt

FASTVIT_SIDE = 128


def llava() -> Built:
    config = hf.LlavaConfig(
        vision_config=hf.CLIPVisionConfig(**VISION), text_config=hf.LlamaConfig(**TEXT), image_token_index=IMAGE,
        vision_feature_select_strategy="default",
    )  # fmt: skip
    return hf.LlavaForConditionalGeneration(config), {**prompt(16), "pixel_values": pixels(1, 3, 32, 32)}


def llava_next() -> Built:
    config = hf.LlavaNextConfig(
        vision_config=hf.CLIPVisionConfig(**VISION), text_config=hf.LlamaConfig(**TEXT), image_token_index=IMAGE,
        image_grid_pinpoints=[[32, 64]],
    )  # fmt: skip
    count = 16 + 4 * (8 + 1)  # the whole image, then two tiles side by side with a newline a row
    return hf.LlavaNextForConditionalGeneration(config), {
        **prompt(count), "pixel_values": pixels(1, 3, 3, 32, 32), "image_sizes": torch.tensor([[32, 64]]),
    }  # fmt: skip


def fast_vlm() -> Built:
    """Apple's FastVLM, with its own image encoder (a small FastViT) if timm is installed, else with a stand-in."""
    own = importlib.util.find_spec("timm") is not None
    fastvit = dict(
        model_type="timm_wrapper", architecture="fastvit_mci3", do_pooling=True, global_pool="avg", hidden_size=64,
        model_args={"inference_mode": True, "layers": [1] * 5, "embed_dims": [8, 16, 16, 32, 32]},
    )  # fmt: skip
    any_map = hf.ResNetConfig(
        embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1], hidden_size=32, layer_type="basic"
    )
    config = hf.FastVlmConfig(
        vision_config=fastvit if own else any_map, text_config=hf.Qwen2Config(**TEXT), image_token_index=IMAGE
    )
    side = FASTVIT_SIDE if own else 32  # four tokens of 64 pixels each way, or sixteen
    return hf.FastVlmForConditionalGeneration(config), {
        **prompt(4 if own else 16), "pixel_values": pixels(1, 3, side, side),
    }  # fmt: skip


def llava_onevision() -> Built:
    config = hf.LlavaOnevisionConfig(
        vision_config=hf.SiglipVisionConfig(**VISION, vision_use_head=False), text_config=hf.Qwen2Config(**TEXT),
        image_token_index=IMAGE, video_token_index=IMAGE + 1, image_grid_pinpoints=[[32, 64]],
        vision_feature_layer=-1,
    )  # fmt: skip
    return hf.LlavaOnevisionForConditionalGeneration(config), {
        **prompt(16 + 4 * (8 + 1)), "pixel_values": pixels(1, 3, 3, 32, 32), "image_sizes": torch.tensor([[32, 64]]),
    }  # fmt: skip


def qwen2_vl() -> Built:
    config = hf.Qwen2VLConfig(
        text_config={**TEXT, "rope_parameters": MROPE},
        vision_config=dict(depth=2, embed_dim=32, hidden_size=WIDTH, num_heads=2, mlp_ratio=2, patch_size=8),
        **QWEN_IDS,
    )
    return hf.Qwen2VLForConditionalGeneration(config), grid(8)


def qwen2_5_vl() -> Built:
    config = hf.Qwen2_5_VLConfig(
        text_config={**TEXT, "rope_parameters": MROPE},
        vision_config=dict(
            depth=2, hidden_size=32, out_hidden_size=WIDTH, num_heads=2, intermediate_size=64, patch_size=8,
            window_size=32, fullatt_block_indexes=[1],
        ), **QWEN_IDS,
    )  # fmt: skip
    return hf.Qwen2_5_VLForConditionalGeneration(config), grid(8)


def qwen3_vl() -> Built:
    config = hf.Qwen3VLConfig(
        text_config={**TEXT, "head_dim": 12, "rope_parameters": MROPE},
        vision_config=dict(
            depth=3, hidden_size=32, out_hidden_size=WIDTH, num_heads=2, intermediate_size=64, patch_size=8,
            num_position_embeddings=64, deepstack_visual_indexes=[0, 1, 2],
        ), **QWEN_IDS,
    )  # fmt: skip
    return hf.Qwen3VLForConditionalGeneration(config), grid(8)


def glm4v() -> Built:
    config = hf.Glm4vConfig(
        text_config={**TEXT, "rope_parameters": {**MROPE, "partial_rotary_factor": 1.0}},
        vision_config=dict(
            depth=2, hidden_size=32, out_hidden_size=WIDTH, num_heads=2, intermediate_size=64, patch_size=8,
            image_size=64, spatial_merge_size=2, temporal_patch_size=2,
        ), image_token_id=IMAGE, video_token_id=IMAGE + 1, image_start_token_id=IMAGE + 2,
        image_end_token_id=IMAGE + 3, video_start_token_id=IMAGE + 4, video_end_token_id=IMAGE + 5,
    )  # fmt: skip
    return hf.Glm4vForConditionalGeneration(config), grid(8)


def _idefics3(config: Any, model: Any, vision: Any) -> Built:
    built = config(
        vision_config=vision(**VISION), text_config=hf.LlamaConfig(**TEXT), image_token_id=IMAGE, scale_factor=2,
        pad_token_id=0, tie_word_embeddings=False,
    )  # fmt: skip
    return model(built), {**prompt(4), "pixel_values": pixels(1, 1, 3, 32, 32)}


def idefics3() -> Built:
    return _idefics3(hf.Idefics3Config, hf.Idefics3ForConditionalGeneration, hf.Idefics3VisionConfig)


def smolvlm() -> Built:
    from transformers.models.smolvlm.configuration_smolvlm import SmolVLMVisionConfig

    return _idefics3(hf.SmolVLMConfig, hf.SmolVLMForConditionalGeneration, SmolVLMVisionConfig)


def idefics2() -> Built:
    config = hf.Idefics2Config(
        vision_config=dict(VISION), text_config=hf.MistralConfig(**TEXT, sliding_window=None), image_token_id=IMAGE,
        perceiver_config=dict(
            hidden_size=WIDTH, resampler_n_latents=4, resampler_depth=1, resampler_n_heads=2, resampler_head_dim=8,
            num_key_value_heads=1,
        ), tie_word_embeddings=False,
    )  # fmt: skip
    return hf.Idefics2ForConditionalGeneration(config), {**prompt(4), "pixel_values": pixels(1, 1, 3, 32, 32)}


def paligemma() -> Built:
    config = hf.PaliGemmaConfig(
        vision_config=hf.SiglipVisionConfig(**VISION, vision_use_head=False), projection_dim=WIDTH,
        text_config=hf.GemmaConfig(**TEXT, head_dim=12), image_token_index=IMAGE, hidden_size=WIDTH,
    )  # fmt: skip
    return hf.PaliGemmaForConditionalGeneration(config), {
        **prompt(16, typed="token_type_ids"), "pixel_values": pixels(1, 3, 32, 32),
    }  # fmt: skip


def paligemma2() -> Built:
    config = hf.PaliGemmaConfig(
        vision_config=hf.SiglipVisionConfig(**VISION, vision_use_head=False), projection_dim=WIDTH,
        text_config=hf.Gemma2Config(**TEXT, head_dim=12, sliding_window=12, query_pre_attn_scalar=12),
        image_token_index=IMAGE, hidden_size=WIDTH,
    )  # fmt: skip
    return hf.PaliGemmaForConditionalGeneration(config), {
        **prompt(16, typed="token_type_ids"), "pixel_values": pixels(1, 3, 32, 32),
    }  # fmt: skip


def gemma3() -> Built:
    config = hf.Gemma3Config(
        vision_config=hf.SiglipVisionConfig(**VISION, vision_use_head=False), mm_tokens_per_image=4,
        text_config=hf.Gemma3TextConfig(
            **TEXT, head_dim=12, sliding_window=12, query_pre_attn_scalar=12,
            layer_types=["sliding_attention", "full_attention", "sliding_attention", "sliding_attention",
                         "full_attention"],
        ), image_token_index=IMAGE, boi_token_index=IMAGE + 1, eoi_token_index=IMAGE + 2,
    )  # fmt: skip
    return hf.Gemma3ForConditionalGeneration(config), {
        **prompt(4, typed="token_type_ids"), "pixel_values": pixels(1, 3, 32, 32),
    }  # fmt: skip


def internvl() -> Built:
    config = hf.InternVLConfig(
        vision_config=dict(**{**VISION, "image_size": [32, 32], "patch_size": [8, 8]}),
        text_config=hf.Qwen2Config(**TEXT),
        image_token_id=IMAGE,
    )
    return hf.InternVLForConditionalGeneration(config), {**prompt(4), "pixel_values": pixels(1, 3, 32, 32)}


def mistral3() -> Built:
    config = hf.Mistral3Config(
        vision_config=hf.PixtralVisionConfig(**VISION, head_dim=16), text_config=hf.MistralConfig(**TEXT, head_dim=12,
        sliding_window=None), image_token_index=IMAGE, spatial_merge_size=2, vision_feature_layer=-1,
    )  # fmt: skip
    return hf.Mistral3ForConditionalGeneration(config), {
        **prompt(4), "pixel_values": pixels(1, 3, 32, 32), "image_sizes": torch.tensor([[32, 32]]),
    }  # fmt: skip


def pixtral() -> Built:
    config = hf.LlavaConfig(
        vision_config=hf.PixtralVisionConfig(**VISION, head_dim=16), text_config=hf.MistralConfig(**TEXT, head_dim=12,
        sliding_window=10), image_token_index=IMAGE, vision_feature_layer=-1, vision_feature_select_strategy="full",
    )  # fmt: skip
    return hf.LlavaForConditionalGeneration(config), {
        **prompt(16), "pixel_values": pixels(1, 3, 32, 32), "image_sizes": torch.tensor([[32, 32]]),
    }  # fmt: skip
