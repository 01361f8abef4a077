"""Families whose text layers keep a recurrent state (gated delta nets, Kimi delta attention, Mamba 2) or convolve."""

from collections.abc import Callable
from typing import Any

import torch
import transformers as hf
from families.shapes import IMAGE, LAYERS, MROPE, QWEN_IDS, TEXT, VISION, VOCABULARY, WIDTH, Built, grid, pixels, prompt

LINEAR: dict[str, Any] = dict(
    head_dim=12, linear_num_key_heads=2, linear_num_value_heads=4, linear_key_head_dim=8, linear_value_head_dim=8,
    rope_parameters={**MROPE, "mrope_interleaved": True, "partial_rotary_factor": 1.0},
    layer_types=["linear_attention", "full_attention", "linear_attention", "linear_attention", "full_attention"],
)  # fmt: skip
QWEN_VISION: dict[str, Any] = dict(
    depth=2, hidden_size=32, out_hidden_size=WIDTH, num_heads=2, intermediate_size=64, patch_size=8,
    num_position_embeddings=64,
)  # fmt: skip
EXPERTS: dict[str, Any] = dict(
    moe_intermediate_size=32, shared_expert_intermediate_size=32, num_experts_per_tok=2, num_experts=4
)


def qwen3_5() -> Built:
    config = hf.Qwen3_5Config(text_config={**TEXT, **LINEAR}, vision_config=dict(QWEN_VISION), **QWEN_IDS)
    return hf.Qwen3_5ForConditionalGeneration(config), grid(8)


def qwen3_5_moe() -> Built:
    text = {key: value for key, value in TEXT.items() if key != "intermediate_size"}
    config = hf.Qwen3_5MoeConfig(text_config={**text, **LINEAR, **EXPERTS}, vision_config=dict(QWEN_VISION), **QWEN_IDS)
    return hf.Qwen3_5MoeForConditionalGeneration(config), grid(8)


def minicpmv4_6() -> Built:
    """Images are strips of patches, 8 high; its merger makes one token of 4 x 4 patches."""
    config = hf.MiniCPMV4_6Config(
        text_config=hf.Qwen3_5TextConfig(**TEXT, **LINEAR), vision_config={**VISION, "insert_layer_id": 1},
        insert_layer_id=1, image_size=64, image_token_id=IMAGE, video_token_id=IMAGE + 1,
    )  # fmt: skip
    return hf.MiniCPMV4_6ForConditionalGeneration(config), {
        **prompt(4), "pixel_values": pixels(1, 3, 8, 8 * 64), "target_sizes": torch.tensor([[8, 8]]),
    }  # fmt: skip


def nemotron_h_omni() -> Built:
    """Mamba 2; its layers are mixers, attention, experts or a plain network, and have caches of these kinds."""
    text = hf.NemotronHConfig(
        **{k: v for k, v in TEXT.items() if k != "num_hidden_layers"}, head_dim=12, ssm_state_size=8,
        mamba_num_heads=4, mamba_head_dim=8, n_groups=2, chunk_size=8, n_routed_experts=4, moe_intermediate_size=32,
        moe_shared_expert_intermediate_size=32,
        layers_block_type=["linear_attention", "full_attention", "moe", "linear_attention", "full_attention"],
    )  # fmt: skip
    vision = hf.RadioConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, patch_size=8, image_size=32, max_img_size=64,
        video_temporal_patch_size=2,
    )  # fmt: skip
    config = hf.NemotronH_Omni_Reasoning_V3_Config(
        text_config=text, vision_config=vision, audio_config=None, projector_hidden_size=64, vision_hidden_size=32,
        image_token_id=IMAGE, video_token_id=IMAGE + 1,
    )  # fmt: skip
    return hf.NemotronH_Omni_Reasoning_V3(config), {
        **prompt(4), "pixel_values": pixels(16, 3 * 64), "image_grid_hw": torch.tensor([[4, 4]]),
    }  # fmt: skip


def glm5_next(index_topk: int = 8, index_n_heads: int = 16) -> Built:
    """Kimi delta attention and indexed attention, in several residual streams.

    The attention selects `index_topk` tokens, in pools of four, and the pools that are not whole yet. The score of a
    pool is exactly zero where no index head favours it. With few heads there are many such ties, and which of them are
    selected depends on how many tokens pass at once: see `test_sparse.py`.
    """
    text = dict(
        {k: v for k, v in TEXT.items() if k != "num_key_value_heads"}, num_key_value_heads=4,
        moe_intermediate_size=32, n_routed_experts=4, num_experts_per_tok=2, kv_lora_rank=16, q_lora_rank=16,
        v_head_dim=12, qk_nope_head_dim=12, index_topk=index_topk, index_head_dim=8, index_n_heads=index_n_heads,
        index_kpool=4,
        linear_head_dim=8, linear_num_heads=2, hc_mult=2, hc_sinkhorn_iters=4,
        mlp_layer_types=["dense", "dense", "sparse", "dense", "sparse"], indexer_types=["full"] * LAYERS,
        layer_types=["linear_attention", "indexed_attention", "linear_attention", "linear_attention",
                     "indexed_attention"],
    )  # fmt: skip
    config = hf.Glm5NextConfig(
        text_config=text, vision_config=dict(
            depth=2, hidden_size=32, out_hidden_size=WIDTH, num_heads=2, intermediate_size=64, patch_size=8,
            image_size=64, projection_intermediate_size=64,
        ), image_token_id=IMAGE, video_token_id=IMAGE + 1, image_start_token_id=IMAGE + 2,
        image_end_token_id=IMAGE + 3, video_start_token_id=IMAGE + 4, video_end_token_id=IMAGE + 5,
    )  # fmt: skip
    return hf.Glm5NextForConditionalGeneration(config), grid(8)


def lfm3_vl() -> Built:
    """Short convolutions between full and sliding attention: a state that is not recurrent, but must be rolled back."""
    text = hf.Lfm3Config(
        **TEXT, head_dim=12, conv_L_cache=5, sliding_window=10,
        layer_types=["conv", "full_attention", "conv", "sliding_attention", "conv"],
    )  # fmt: skip
    vision = hf.Lfm3VlVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=2, num_key_value_heads=1,
        patch_size=8, layer_types=["conv", "conv", "full_attention"],
    )  # fmt: skip
    config = hf.Lfm3VlConfig(
        text_config=text, vision_config=vision, projector_hidden_size=64, tie_word_embeddings=False, **QWEN_IDS
    )
    return hf.Lfm3VlForConditionalGeneration(config), grid(8, typed=False)


def inkling() -> Built:
    """Every layer attends and convolves: four convolutions a layer."""
    text = dict(
        {k: v for k, v in TEXT.items() if k != "tie_word_embeddings"}, head_dim=12, swa_num_attention_heads=4,
        swa_num_key_value_heads=2, swa_head_dim=12, sliding_window_size=10, d_rel=4, rel_extent=16,
        moe_intermediate_size=32, n_routed_experts=4, num_experts_per_tok=2, n_shared_experts=1,
        logits_mup_width_multiplier=1.0, mlp_layer_types=["dense", "sparse", "dense", "sparse", "dense"],
        layer_types=["hybrid_sliding", "hybrid", "hybrid_sliding", "hybrid_sliding", "hybrid"],
    )  # fmt: skip
    config = hf.InklingConfig(
        text_config=text, vision_config=dict(
            text_hidden_size=WIDTH, patch_size=8, hidden_size=32, num_hidden_layers=4, num_attention_heads=2,
        ), audio_config=dict(n_mel_bins=4, mel_vocab_size=8, text_hidden_size=WIDTH), image_token_id=IMAGE,
        audio_token_id=IMAGE + 1, image_bos_token_id=IMAGE + 2, audio_bos_token_id=IMAGE + 3,
    )  # fmt: skip
    return hf.InklingForConditionalGeneration(config), {**prompt(4), "pixel_values": pixels(4, 2, 8, 8, 3)}


def inkling2() -> Built:
    text = dict(
        {k: v for k, v in TEXT.items() if k not in ("tie_word_embeddings", "intermediate_size")}, head_dim=12,
        swa_num_attention_heads=4, swa_num_key_value_heads=2, swa_head_dim=12, sliding_window_size=10, d_rel=4,
        rel_extent=16, moe_intermediate_size=32, n_routed_experts=4, num_experts_per_tok=2,
        unpadded_vocab_size=VOCABULARY, n_layers_per_attn_res_block=2,
        layer_types=["hybrid_sliding", "hybrid", "hybrid_sliding", "hybrid_sliding", "hybrid"],
    )  # fmt: skip
    config = hf.Inkling2Config(
        text_config=text, vision_config=dict(
            hidden_size=32, num_hidden_layers=2, num_attention_heads=2, patch_size=8, posemb_grid_size=4,
            projection_hidden_dim=64, text_hidden_size=WIDTH,
        ), image_token_id=IMAGE,
    )  # fmt: skip
    return hf.Inkling2ForConditionalGeneration(config), {
        **prompt(4), "pixel_values": pixels(4, 16, 16, 3), "image_grid_thw": torch.tensor([[1, 2, 2]]),
    }  # fmt: skip


def qwen4_exp() -> Built:
    """Refused: n-gram embeddings and their convolution keep states outside the recurrent part."""
    text = {key: value for key, value in TEXT.items() if key != "intermediate_size"}
    kinds = [
        "linear_attention" if kind == "linear_attention" else "indexed_attention" for kind in LINEAR["layer_types"]
    ]
    config = hf.Qwen4ExpConfig(
        text_config={
            **text, **LINEAR, **EXPERTS, "layer_types": kinds, "hc_count": 2, "hc_lowrank": 8, "ple_layer_ids": [1],
            "ple_embed_dim": 16, "heads_per_ngram": 2, "ngram_vocab_size_base": 50, "indexer_n_heads": 2,
            "indexer_kv_heads": 1, "indexer_head_dim": 12, "indexer_budget": 64, "indexer_compress_ratio": 4,
            "split_ngram_parts": 1,
        }, vision_config=dict(QWEN_VISION), **QWEN_IDS,
    )  # fmt: skip
    return hf.Qwen4ExpForConditionalGeneration(config), grid(8)


MAMBA: dict[str, Any] = dict(mamba_n_heads=4, mamba_d_head=24, mamba_n_groups=1, mamba_d_state=8, mamba_chunk_size=8)
_KINDS = LINEAR["layer_types"]
OTHER_TEXTS: dict[str, Callable[[], Any]] = {
    "qwen3_next": lambda: hf.Qwen3NextConfig(**TEXT, **EXPERTS, **{k: LINEAR[k] for k in LINEAR if k[:4] != "rope"}),
    "olmo_hybrid": lambda: hf.OlmoHybridConfig(
        **TEXT, layer_types=_KINDS, linear_num_key_heads=2, linear_num_value_heads=2, linear_key_head_dim=8,
        linear_value_head_dim=8,
    ),
    "bamba": lambda: hf.BambaConfig(**TEXT, **MAMBA, attn_layer_indices=[1, 4]),
    "granitemoehybrid": lambda: hf.GraniteMoeHybridConfig(
        **TEXT, **MAMBA, layer_types=_KINDS, num_local_experts=0, shared_intermediate_size=64,
    ),
    "kimi_linear": lambda: hf.KimiLinearConfig(
        **{**TEXT, "num_key_value_heads": 4}, layer_types=_KINDS, linear_head_dim=8, linear_num_heads=2,
        kv_lora_rank=16, q_lora_rank=None, qk_nope_head_dim=8, qk_rope_head_dim=4, v_head_dim=8, n_routed_experts=4,
        num_experts_per_tok=2, moe_intermediate_size=32,
    ),
    "jamba": lambda: hf.JambaConfig(
        **TEXT, attn_layer_period=2, attn_layer_offset=1, expert_layer_period=8, expert_layer_offset=7, num_experts=2,
        mamba_d_state=8, mamba_dt_rank=4,
    ),
    "falcon_h1": lambda: hf.FalconH1Config(**TEXT, **MAMBA, mamba_d_ssm=96),
}  # fmt: skip
"""Text models with recurrent layers that have no vision-language model of their own in `transformers`."""


def llava_over(name: str) -> Built:
    config = hf.LlavaConfig(
        vision_config=hf.CLIPVisionConfig(**VISION), text_config=OTHER_TEXTS[name](), image_token_index=IMAGE,
        vision_feature_select_strategy="default",
    )  # fmt: skip
    return hf.LlavaForConditionalGeneration(config), {**prompt(16), "pixel_values": pixels(1, 3, 32, 32)}
