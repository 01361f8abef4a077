"""Families with cross-attention, query tokens, hybrid caches or an encoder-decoder, and those that are refused."""

from typing import Any

import torch
import transformers as hf
from families.shapes import IMAGE, LAYERS, TEXT, VISION, VOCABULARY, WIDTH, Built, pixels, prompt


def mllama() -> Built:
    text = {k: v for k, v in TEXT.items() if k != "tie_word_embeddings"}
    config = hf.MllamaConfig(
        vision_config=dict(
            hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_global_layers=1, attention_heads=2,
            image_size=32, patch_size=8, max_num_tiles=1, vision_output_dim=64, intermediate_layers_indices=[0],
            supported_aspect_ratios=[[1, 1]],
        ), text_config=dict(**text, cross_attention_layers=[1, 3], rope_parameters={"rope_type": "default",
        "rope_theta": 10000.0}), image_token_index=VOCABULARY,
    )  # fmt: skip
    given = prompt(1, image=VOCABULARY)
    mask = torch.ones(1, given["input_ids"].shape[1], 1, 1, dtype=torch.long)
    return hf.MllamaForConditionalGeneration(config), {
        **given, "pixel_values": pixels(1, 1, 1, 3, 32, 32), "aspect_ratio_ids": torch.tensor([[1]]),
        "aspect_ratio_mask": torch.tensor([[[1]]]), "cross_attention_mask": mask,
    }  # fmt: skip


QFORMER: dict[str, Any] = dict(
    vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
    encoder_hidden_size=32,
)  # fmt: skip


def _opt() -> Any:
    return hf.OPTConfig(
        hidden_size=WIDTH, ffn_dim=96, num_hidden_layers=LAYERS, num_attention_heads=4, vocab_size=VOCABULARY,
        max_position_embeddings=512, word_embed_proj_dim=WIDTH, tie_word_embeddings=False, bos_token_id=1,
        eos_token_id=2, pad_token_id=0,
    )  # fmt: skip


def blip2() -> Built:
    config = hf.Blip2Config(
        vision_config=dict(VISION), qformer_config=dict(QFORMER), text_config=_opt(), num_query_tokens=4,
        image_token_index=IMAGE, image_text_hidden_size=16,
    )  # fmt: skip
    return hf.Blip2ForConditionalGeneration(config), {**prompt(4), "pixel_values": pixels(1, 3, 32, 32)}


def _t5(scaled: bool) -> Any:
    """Flan-T5 has an LM head of its own; T5 ties it to the embeddings, and scales what it reads."""
    return hf.T5Config(
        d_model=WIDTH, d_kv=12, d_ff=96, num_layers=LAYERS, num_decoder_layers=LAYERS, num_heads=4,
        vocab_size=VOCABULARY, decoder_start_token_id=0, pad_token_id=0, eos_token_id=2, feed_forward_proj="gated-gelu",
        relative_attention_num_buckets=8, relative_attention_max_distance=16, tie_word_embeddings=scaled,
    )  # fmt: skip


def blip2_t5() -> Built:
    config = hf.Blip2Config(
        vision_config=dict(VISION), qformer_config=dict(QFORMER), text_config=_t5(False), num_query_tokens=4,
        image_token_index=IMAGE, image_text_hidden_size=16,
    )  # fmt: skip
    model = hf.Blip2ForConditionalGeneration(config)
    head = model.language_model.lm_head
    head.weight = torch.nn.Parameter(torch.randn_like(head.weight))  # untied, as Flan-T5's checkpoints are
    return model, {**prompt(4), "pixel_values": pixels(1, 3, 32, 32)}


def instructblip_t5() -> Built:
    config = hf.InstructBlipConfig(
        vision_config=dict(VISION), qformer_config=dict(QFORMER), text_config=_t5(True), num_query_tokens=4,
        image_token_index=IMAGE,
    )  # fmt: skip
    words = torch.tensor([[5, 6, 7, 8]])
    return hf.InstructBlipForConditionalGeneration(config), {
        **prompt(4), "pixel_values": pixels(1, 3, 32, 32), "qformer_input_ids": words,
        "qformer_attention_mask": torch.ones_like(words),
    }  # fmt: skip


def instructblip() -> Built:
    config = hf.InstructBlipConfig(
        vision_config=dict(VISION), qformer_config=dict(QFORMER), text_config=hf.LlamaConfig(**TEXT),
        num_query_tokens=4, image_token_index=IMAGE,
    )  # fmt: skip
    words = torch.tensor([[5, 6, 7, 8]])
    return hf.InstructBlipForConditionalGeneration(config), {
        **prompt(4), "pixel_values": pixels(1, 3, 32, 32), "qformer_input_ids": words,
        "qformer_attention_mask": torch.ones_like(words),
    }  # fmt: skip


def aya_vision() -> Built:
    config = hf.AyaVisionConfig(
        vision_config=hf.SiglipVisionConfig(**VISION, vision_use_head=False),
        text_config=hf.Cohere2Config(**{**TEXT, "tie_word_embeddings": True}, sliding_window=10, logit_scale=1.0),
        image_token_index=IMAGE, downsample_factor=2, vision_feature_layer=-1,
    )  # fmt: skip
    return hf.AyaVisionForConditionalGeneration(config), {**prompt(4), "pixel_values": pixels(1, 3, 32, 32)}


def lfm2_vl() -> Built:
    text = hf.Lfm2Config(
        **TEXT, conv_L_cache=3, block_auto_adjust_ff_dim=False,
        layer_types=["conv", "full_attention", "conv", "full_attention", "conv"],
    )  # fmt: skip
    vision = hf.Siglip2VisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, num_patches=16, patch_size=8,
        vision_use_head=False,
    )  # fmt: skip
    config = hf.Lfm2VlConfig(
        text_config=text, vision_config=vision, image_token_id=IMAGE, projector_hidden_size=64,
        tie_word_embeddings=False,
    )  # fmt: skip
    return hf.Lfm2VlForConditionalGeneration(config), {
        **prompt(4), "pixel_values": pixels(1, 16, 3 * 64), "spatial_shapes": torch.tensor([[4, 4]]),
        "pixel_attention_mask": torch.ones(1, 16, dtype=torch.long),
    }  # fmt: skip


def gemma4(shared: int = 0) -> Built:
    text = hf.Gemma4TextConfig(
        **TEXT, head_dim=12, sliding_window=12, hidden_size_per_layer_input=8, vocab_size_per_layer_input=VOCABULARY,
        num_kv_shared_layers=shared, layer_types=["sliding_attention", "full_attention", "sliding_attention",
        "sliding_attention", "full_attention"], global_head_dim=12,
    )  # fmt: skip
    vision = hf.Gemma4VisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2,
        head_dim=16, patch_size=8, position_embedding_size=64, pooling_kernel_size=2,
    )  # fmt: skip
    config = hf.Gemma4Config(
        text_config=text, vision_config=vision, audio_config=None, image_token_id=IMAGE, video_token_id=IMAGE + 1,
        audio_token_id=IMAGE + 2, boi_token_id=IMAGE + 3, eoi_token_id=IMAGE + 4, boa_token_id=IMAGE + 5,
        eoa_token_index=IMAGE + 6, tie_word_embeddings=False,
    )  # fmt: skip
    places = torch.tensor([[[x, y] for y in range(4) for x in range(4)]])
    return hf.Gemma4ForConditionalGeneration(config), {
        **prompt(4, typed="mm_token_type_ids"), "pixel_values": pixels(1, 16, 3 * 64), "image_position_ids": places,
    }  # fmt: skip


def llama4() -> Built:
    text = hf.Llama4TextConfig(
        **TEXT, head_dim=12, intermediate_size_mlp=96, num_local_experts=2, attention_chunk_size=16,
        interleave_moe_layer_step=2, no_rope_layers=[1, 1, 0, 1, 1],
    )  # fmt: skip
    config = hf.Llama4Config(
        text_config=text, image_token_index=IMAGE, boi_token_index=IMAGE + 1, eoi_token_index=IMAGE + 2,
        vision_config=dict(
            hidden_size=32, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2, image_size=32,
            patch_size=8, vision_output_dim=64, projector_input_dim=64, projector_output_dim=64,
        ),
    )  # fmt: skip
    return hf.Llama4ForConditionalGeneration(config), {**prompt(4), "pixel_values": pixels(1, 3, 32, 32)}


def kosmos2(vocabulary: int = VOCABULARY, queries: int = 4) -> Built:
    config = hf.Kosmos2Config(
        text_config=dict(
            vocab_size=vocabulary, max_position_embeddings=256, embed_dim=WIDTH, layers=LAYERS, ffn_dim=96,
            attention_heads=4, dropout=0.0, attention_dropout=0.0, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        ), vision_config=dict(VISION), latent_query_num=queries,
    )  # fmt: skip
    given = prompt(queries)
    return hf.Kosmos2ForConditionalGeneration(config), {
        **given, "pixel_values": pixels(1, 3, 32, 32), "image_embeds_position_mask": given["input_ids"] == IMAGE,
    }  # fmt: skip


def florence2() -> Built:
    config = hf.Florence2Config(
        text_config=hf.BartConfig(
            vocab_size=VOCABULARY, d_model=WIDTH, encoder_layers=2, decoder_layers=LAYERS, encoder_attention_heads=4,
            decoder_attention_heads=4, encoder_ffn_dim=96, decoder_ffn_dim=96, max_position_embeddings=256,
            pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=2, forced_eos_token_id=None,
            dropout=0.0,
        ), vision_config=dict(
            depths=[1, 1], patch_size=[3, 3], patch_stride=[4, 2], patch_padding=[1, 1], patch_prenorm=[False, True],
            embed_dim=[16, 32], num_heads=[2, 2], num_groups=[2, 2], window_size=4, projection_dim=WIDTH,
            drop_path_rate=0.0,
        ), image_token_id=IMAGE, is_encoder_decoder=True,
    )  # fmt: skip
    model = hf.Florence2ForConditionalGeneration(config)
    model.generation_config.repetition_penalty = 3.0  # BART's post-norm decoder would repeat one token
    return model, {**prompt(17), "pixel_values": pixels(1, 3, 32, 32)}
