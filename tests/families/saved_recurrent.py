"""The processors of the families in `recurrent.py`, as in `saved.py`."""

from collections.abc import Callable
from typing import Any

import transformers as hf
from families.published import PUBLISHED

PATCH = 8
SQUARE = {"shortest_edge": 16 * 64, "longest_edge": 16 * 64}
QWEN = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")


def _qwen(kind: Any, name: str) -> Any:
    chat = PUBLISHED[name]
    images = hf.Qwen2VLImageProcessorPil(patch_size=PATCH, size=SQUARE)
    return kind(images, chat.tokenizer(*QWEN), chat_template=chat.template)


def qwen3_5(model: Any) -> Any:
    return _qwen(hf.Qwen3VLProcessor, "qwen3_5")


def lfm3_vl(model: Any) -> Any:
    return _qwen(hf.Lfm3VlProcessor, "lfm3_vl")


def glm5_next(model: Any) -> Any:
    chat = PUBLISHED["glm5_next"]
    marks = ("<|image|>", "<|video|>", "<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>",
             "<|end_of_video|>")  # fmt: skip
    images = hf.Glm5NextImageProcessorPil(patch_size=PATCH, size={**SQUARE, "longest_edge": 2 * 16 * 64})
    return hf.Glm5NextProcessor(images, chat.tokenizer(*marks), chat_template=chat.template)


def nemotron_h_omni(model: Any) -> Any:
    chat = PUBLISHED["nemotron_h_omni"]
    marks = ("<image>", "<video>", "<img>", "</img>", "<so_embedding>", "<so_start>", "<so_end>")
    images = hf.NemotronH_Omni_Reasoning_V3ImageProcessor(patch_size=PATCH, min_num_patches=16, max_num_patches=16)
    videos = hf.NemotronH_Omni_Reasoning_V3VideoProcessor(patch_size=PATCH)
    return hf.NemotronH_Omni_Reasoning_V3Processor(
        images, videos, chat.tokenizer(*marks), hf.ParakeetFeatureExtractor(), chat_template=chat.template
    )


def inkling(model: Any) -> Any:
    chat = PUBLISHED["inkling"]
    marks = ("<|unused_200054|>", "<|unused_200053|>", "<|content_image|>", "<|content_audio_input|>")
    images = hf.InklingImageProcessor(size={"height": PATCH, "width": PATCH}, rescale_image_max_upscaled_long_edge=12)
    return hf.InklingProcessor(
        hf.InklingFeatureExtractor(), images, chat.tokenizer(*marks),
        chat_template=chat.template,
    )  # fmt: skip


def minicpmv4_6(model: Any) -> Any:
    chat = PUBLISHED["minicpmv4_6"]
    marks = {
        "image_token": "<|image|>", "video_token": "<|video|>", "image_start_token": "<image>",
        "image_end_token": "</image>", "slice_start_token": "<slice>", "slice_end_token": "</slice>",
        "image_id_start_token": "<image_id>", "image_id_end_token": "</image_id>",
    }  # fmt: skip
    images = hf.MiniCPMV4_6ImageProcessor(patch_size=PATCH, scale_resolution=64, slice_mode=False)
    return hf.MiniCPMV4_6Processor(
        images, hf.MiniCPMV4_6VideoProcessor(), chat.tokenizer(*marks.values(), **marks), chat_template=chat.template
    )


RECURRENT: dict[str, Callable[[Any], Any]] = {
    f.__name__: f for f in (qwen3_5, lfm3_vl, glm5_next, nemotron_h_omni, inkling, minicpmv4_6)
} | {"qwen3_5_moe": qwen3_5}
NEED_TORCHVISION = {name: ("torchvision",) for name in ("nemotron_h_omni", "inkling", "minicpmv4_6")}
