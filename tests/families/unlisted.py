"""Families that no list of ours names, as small random-weight folders with their own processors and templates."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from families.builders import vary
from families.published import PUBLISHED, chatml
from families.saved import SIDE, SIZE, pil, save_processor
from families.shapes import IMAGE, MROPE, QWEN_IDS, TEXT, VISION, VOCABULARY, WIDTH

from fastvlm_bench.models.load import Target
from fastvlm_bench.models.processor import load_processor, without_videos
from fastvlm_bench.suites.suite import load_suite, open_image

Made = tuple[Any, Callable[[], Any]]
"""A model, and what makes its processor."""
PATCH = VISION["patch_size"]
MOE = {"moe_intermediate_size": 24, "num_experts": 4, "num_experts_per_tok": 2}
QWEN_VISION = dict(
    depth=3, hidden_size=32, out_hidden_size=WIDTH, num_heads=2, intermediate_size=64, patch_size=8,
    num_position_embeddings=64, deepstack_visual_indexes=[0, 1, 2],
)  # fmt: skip
GLM_IDS = dict(
    image_token_id=IMAGE, video_token_id=IMAGE + 1, image_start_token_id=IMAGE + 2, image_end_token_id=IMAGE + 3,
    video_start_token_id=IMAGE + 4, video_end_token_id=IMAGE + 5,
)  # fmt: skip
GLM_VISION = dict(
    depth=2, hidden_size=32, out_hidden_size=WIDTH, num_heads=2, intermediate_size=64, patch_size=8, image_size=64,
    spatial_merge_size=2, temporal_patch_size=2,
)  # fmt: skip
GLM_MARKS = ("<|image|>", "<|video|>", "<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>",
             "<|end_of_video|>")  # fmt: skip
QWEN_MARKS = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")


def _qwen_images() -> Any:
    return pil("Qwen2VL", patch_size=PATCH, size={"shortest_edge": 16 * 64, "longest_edge": 16 * 64})


def _siglip() -> Any:
    return hf.SiglipVisionConfig(**VISION, vision_use_head=False)


def qwen3_vl_moe() -> Made:
    chat = PUBLISHED["qwen3_vl"]
    text = {**TEXT, "head_dim": 12, "rope_parameters": MROPE, **MOE, "decoder_sparse_step": 1}
    config = hf.Qwen3VLMoeConfig(text_config=text, vision_config=QWEN_VISION, **QWEN_IDS)
    return hf.Qwen3VLMoeForConditionalGeneration(config), lambda: hf.Qwen3VLProcessor(
        _qwen_images(), chat.tokenizer(*QWEN_MARKS), chat_template=chat.template
    )


def glm46v() -> Made:
    chat = PUBLISHED["glm4v"]
    text = hf.Glm4vTextConfig(**TEXT, rope_parameters={**MROPE, "partial_rotary_factor": 1.0})
    config = hf.Glm46VConfig(text_config=text, vision_config=hf.Glm4vVisionConfig(**GLM_VISION), **GLM_IDS)
    return hf.Glm46VForConditionalGeneration(config), lambda: hf.Glm46VProcessor(
        pil("Glm46V", patch_size=PATCH, size={"shortest_edge": 16 * 64, "longest_edge": 2 * 16 * 64}),
        chat.tokenizer(*GLM_MARKS), chat_template=chat.template,
    )  # fmt: skip


def glm4v_moe() -> Made:
    chat = PUBLISHED["glm4v"]
    text = dict(
        **TEXT, rope_parameters={**MROPE, "partial_rotary_factor": 1.0}, head_dim=12, n_routed_experts=4,
        moe_intermediate_size=24, num_experts_per_tok=2, first_k_dense_replace=1, n_group=1, topk_group=1,
    )  # fmt: skip
    config = hf.Glm4vMoeConfig(text_config=text, vision_config=GLM_VISION, **GLM_IDS)
    return hf.Glm4vMoeForConditionalGeneration(config), lambda: hf.Glm4vProcessor(
        pil("Glm4v", patch_size=PATCH, size={"shortest_edge": 16 * 64, "longest_edge": 2 * 16 * 64}),
        chat.tokenizer(*GLM_MARKS), chat_template=chat.template,
    )  # fmt: skip


def exaone4_5() -> Made:
    chat = chatml("<vision><|image_pad|></vision>")
    text = hf.Exaone4Config(**TEXT, sliding_window=12, sliding_window_pattern=3)
    vision = dict(
        depth=2, hidden_size=32, out_hidden_size=WIDTH, num_heads=2, num_key_value_heads=1, intermediate_size=64,
        patch_size=8, window_size=32, fullatt_block_indexes=[1],
    )  # fmt: skip
    ids = {"image_token_id": IMAGE, "video_token_id": IMAGE + 1}
    config = hf.Exaone4_5_Config(text_config=text, vision_config=vision, **ids)
    return hf.Exaone4_5_ForConditionalGeneration(config), lambda: hf.Exaone4_5_Processor(
        _qwen_images(), chat.tokenizer(*QWEN_MARKS[:2]), chat_template=chat.template
    )


def aria() -> Made:
    """Its image processor takes no image below 490 pixels, which is one with 128 queries in the published model."""
    chat = chatml("<fim_prefix><|img|><fim_suffix>")
    text = hf.AriaTextConfig(**TEXT, moe_num_experts=4, moe_topk=2, moe_num_shared_experts=1)
    vision = hf.Idefics3VisionConfig(**{**VISION, "image_size": 490, "patch_size": 98})
    config = hf.AriaConfig(
        vision_config=vision, text_config=text, projector_patch_to_query_dict={25: 4, 100: 8}, image_token_index=IMAGE
    )
    return hf.AriaForConditionalGeneration(config), lambda: hf.AriaProcessor(
        pil("Aria", max_image_size=490, min_image_size=336), chat.tokenizer("<|img|>", image_token="<|img|>"),
        chat_template=chat.template, size_conversion={490: 4, 980: 8},
    )  # fmt: skip


OVIS_MARKS = ("<IMG_ATOM>", "<IMG_START>", "<IMG_GRID>", "<IMG_COL>", "<IMG_ROW>", "<IMG_END>", "<image>")


def ovis2() -> Made:
    chat = chatml("<image>\n")
    vision = {**VISION, "vocab_size": 24, "num_visual_indicator_tokens": 5}
    config = hf.Ovis2Config(
        vision_config=vision, text_config=hf.Qwen2Config(**TEXT), image_token_id=IMAGE, vocab_size=VOCABULARY,
        visual_indicator_token_ids=[IMAGE + i for i in range(1, 6)], hidden_size=WIDTH, tie_word_embeddings=False,
    )  # fmt: skip
    return hf.Ovis2ForConditionalGeneration(config), lambda: hf.Ovis2Processor(
        pil("Ovis2", size=SIZE, crop_to_patches=False), chat.tokenizer(*OVIS_MARKS, image_token="<image>"),
        image_seq_length=16, chat_template=chat.template,
    )  # fmt: skip


def deepseek_vl() -> Made:
    chat = PUBLISHED["llava"]
    config = hf.DeepseekVLConfig(
        text_config=hf.LlamaConfig(**TEXT), vision_config=_siglip(), image_token_id=IMAGE, tie_word_embeddings=False
    )
    return hf.DeepseekVLForConditionalGeneration(config), lambda: hf.DeepseekVLProcessor(
        pil("DeepseekVL", size=SIZE, min_size=SIDE), chat.tokenizer("<image>", image_token="<image>"),
        chat_template=chat.template, num_image_tokens=16,
    )  # fmt: skip


def janus() -> Made:
    chat = PUBLISHED["llava"]
    vision = dict(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=SIDE, patch_size=PATCH, mlp_ratio=2.0,
        projection_dim=WIDTH, num_image_tokens=16,
    )  # fmt: skip
    pictures = dict(
        embed_dim=4, num_embeddings=16, latent_channels=8, base_channels=32, channel_multiplier=[1, 1],
        num_res_blocks=1, num_patches=4, projection_dim=WIDTH, image_token_embed_dim=WIDTH,
    )  # fmt: skip
    config = hf.JanusConfig(
        text_config=hf.LlamaConfig(**TEXT), vision_config=vision, vq_config=pictures, image_token_id=IMAGE,
        tie_word_embeddings=False,
    )  # fmt: skip
    named = {"image_token": "<image>", "boi_token": "<boi>", "eoi_token": "<eoi>"}
    return hf.JanusForConditionalGeneration(config), lambda: hf.JanusProcessor(
        pil("Janus", size=SIZE, min_size=SIDE), chat.tokenizer(*named.values(), **named),
        chat_template=chat.template, num_image_tokens=16,
    )  # fmt: skip


def llava_next_video() -> Made:
    chat = PUBLISHED["llava_next_vicuna"]
    config = hf.LlavaNextVideoConfig(
        vision_config=hf.CLIPVisionConfig(**VISION), text_config=hf.LlamaConfig(**TEXT), image_token_index=IMAGE,
        video_token_index=IMAGE + 1, image_grid_pinpoints=[[32, 64]],
    )  # fmt: skip
    return hf.LlavaNextVideoForConditionalGeneration(config), lambda: hf.LlavaNextVideoProcessor(
        None, pil("LlavaNext", size={"shortest_edge": SIDE}, crop_size=SIZE, image_grid_pinpoints=[[32, 64]]),
        chat.tokenizer("<image>", "<video>"), chat_template=chat.template, patch_size=PATCH,
        vision_feature_select_strategy="default", num_additional_image_tokens=1,
    )  # fmt: skip


GRANITE = {"embedding_multiplier": 2.0, "logits_scaling": 5.0, "residual_multiplier": 0.6, "attention_multiplier": 0.3}


def granite_docling() -> Made:
    """Granite's text model divides its logits by a number of its own."""
    chat = PUBLISHED["idefics3"]
    vision = {**VISION, "out_hidden_size": WIDTH, "scale_factor": 2}
    config = hf.GraniteDoclingConfig(
        vision_config=vision, text_config={**TEXT, **GRANITE}, image_token_id=IMAGE, pad_token_id=0,
        tie_word_embeddings=False,
    )  # fmt: skip
    marks = ("<image>", "<fake_token_around_image>", "<end_of_utterance>", "<global-img>")
    images = pil("GraniteDocling", size=SIZE, crop_to_patches=False)
    return hf.GraniteDoclingForConditionalGeneration(config), lambda: hf.GraniteDoclingProcessor(
        images, chat.tokenizer(*marks), image_seq_len=4, chat_template=chat.template
    )


def llava_granite() -> Made:
    """Granite Vision 3: LLaVA-NeXT around Granite's text model."""
    chat = PUBLISHED["llava_next"]
    config = hf.LlavaNextConfig(
        vision_config=_siglip(), text_config=hf.GraniteConfig(**TEXT, **GRANITE), image_token_index=IMAGE,
        image_grid_pinpoints=[[32, 64]], vision_feature_layer=[-2, -1], vision_feature_select_strategy="full",
    )  # fmt: skip
    return hf.LlavaNextForConditionalGeneration(config), lambda: hf.LlavaNextProcessor(
        pil("LlavaNext", size={"shortest_edge": SIDE}, crop_size=SIZE, image_grid_pinpoints=[[32, 64]]),
        chat.tokenizer("<image>"), patch_size=PATCH, vision_feature_select_strategy="full",
        chat_template=chat.template,
    )  # fmt: skip


def diffusion_gemma() -> Made:
    chat = PUBLISHED["gemma4"]
    text = dict(
        **TEXT, head_dim=12, sliding_window=12, num_experts=4, top_k_experts=2, moe_intermediate_size=24,
        layer_types=["sliding_attention", "full_attention", "sliding_attention", "sliding_attention",
                     "full_attention"],
    )  # fmt: skip
    vision = hf.Gemma4VisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2,
        head_dim=16, patch_size=8, position_embedding_size=64, pooling_kernel_size=2,
    )  # fmt: skip
    config = hf.DiffusionGemmaConfig(
        text_config=text, vision_config=vision, image_token_id=IMAGE, boi_token_id=IMAGE + 3, eoi_token_id=IMAGE + 4,
        canvas_length=8,
    )  # fmt: skip
    marks = {
        "image_token": "<|image|>", "video_token": "<|video|>", "audio_token": "<|audio|>", "boi_token": "<|image>",
        "eoi_token": "<image|>", "boa_token": "<|audio>", "eoa_token": "<audio|>",
    }  # fmt: skip
    return hf.DiffusionGemmaForBlockDiffusion(config), lambda: hf.Gemma4Processor(
        hf.Gemma4AudioFeatureExtractor(), pil("Gemma4", patch_size=PATCH, max_soft_tokens=70, pooling_kernel_size=2),
        chat.tokenizer(*marks.values(), **marks), None, image_seq_length=4, chat_template=chat.template,
    )  # fmt: skip


def gemma3n() -> Made:
    """Whole: timm's MobileNet as published, but narrow and for small images; an audio tower; its last layers share KV.

    The marks of images and audio that its vocabulary lacks have embeddings of their own, as published, from 150 on.
    """
    chat = PUBLISHED["gemma3n"]
    text = dict(
        **{**TEXT, "tie_word_embeddings": True}, head_dim=12, sliding_window=12, vocab_size_per_layer_input=IMAGE,
        hidden_size_per_layer_input=8, laurel_rank=4, num_kv_shared_layers=2,
        layer_types=["sliding_attention", "full_attention", "sliding_attention", "sliding_attention",
                     "full_attention"],
        activation_sparsity_pattern=[0.95, 0.0, 0.0, 0.0, 0.0],
    )  # fmt: skip
    vision = hf.Gemma3nVisionConfig(
        model_args={"channel_multiplier": 1 / 16, "msfa_output_resolution": 2}, vocab_offset=IMAGE, vocab_size=2
    )
    audio = dict(
        hidden_size=32, conf_num_attention_heads=2, conf_num_hidden_layers=1, sscp_conv_channel_size=(8, 4),
        vocab_offset=IMAGE + 2, vocab_size=VOCABULARY - IMAGE - 2,
    )  # fmt: skip
    named = {
        "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>", "eoa_token": "<end_of_audio>",
        "audio_token": "<audio_soft_token>", "boi_token": "<start_of_image>", "boa_token": "<start_of_audio>",
    }  # fmt: skip
    spelling = chat.tokenizer(*list(named.values())[:4], **named)
    config = hf.Gemma3nConfig(
        text_config=text, vision_config=vision, audio_config=audio, vision_soft_tokens_per_image=4,
        **{f"{name}_id": spelling.convert_tokens_to_ids(word) for name, word in named.items()},
    )  # fmt: skip
    images = pil("Siglip", size={"height": 2 * SIDE, "width": 2 * SIDE}, do_normalize=False)
    return hf.Gemma3nForConditionalGeneration(config), lambda: hf.Gemma3nProcessor(
        hf.Gemma3nAudioFeatureExtractor(), images, spelling, chat_template=chat.template, image_seq_length=4
    )


UNLISTED: dict[str, Callable[[], Made]] = {
    f.__name__: f
    for f in (
        qwen3_vl_moe, glm46v, glm4v_moe, exaone4_5, aria, ovis2, deepseek_vl, janus, llava_next_video,
        granite_docling, llava_granite, diffusion_gemma, gemma3n,
    )
}  # fmt: skip


def save(name: str, folder: Path, varied: bool = True) -> Path:
    """Write the family's checkpoint folder. varied: with weights whose answer has varied tokens."""
    torch.manual_seed(0)
    model, make = UNLISTED[name]()
    with without_videos():
        processor = make()
    folder.mkdir(parents=True, exist_ok=True)
    save_processor(processor, model, folder)
    if varied:
        target = Target(str(folder), model, load_processor(str(folder)), torch.device("cpu"), None)
        sample = load_suite("coco-caption", limit=1).samples[0]
        vary(model, target.encode(open_image(sample), sample.prompt), 12)
    model.save_pretrained(folder)
    return folder
