"""Sizes, images and prompts that the families' builds share."""

from typing import Any

import torch
from torch import Tensor

LAYERS, WIDTH, VOCABULARY, IMAGE = 5, 48, 160, 150
TEXT: dict[str, Any] = dict(
    hidden_size=WIDTH, intermediate_size=96, num_hidden_layers=LAYERS, num_attention_heads=4, num_key_value_heads=2,
    vocab_size=VOCABULARY, max_position_embeddings=512, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    tie_word_embeddings=False,
)  # fmt: skip
VISION: dict[str, Any] = dict(
    hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=8
)
Built = tuple[Any, dict[str, Tensor]]
MROPE = {"rope_type": "default", "mrope_section": [2, 2, 2], "rope_theta": 10000.0}


def pixels(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(7))


def prompt(images: int, image: int = IMAGE, typed: str | None = None) -> dict[str, Tensor]:
    """A prompt of `images` placeholders between words; `typed`: also the mask that tells image from text."""
    ids = torch.tensor([[1, 11, *[image] * images, 23, 45, 67, 89, 101, 33]])
    extra = {typed: (ids == image).long()} if typed else {}
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), **extra}


def grid(patch: int, typed: bool = True) -> dict[str, Tensor]:
    return {
        **prompt(4, typed="mm_token_type_ids" if typed else None), "pixel_values": pixels(16, 3 * 2 * patch * patch),
        "image_grid_thw": torch.tensor([[1, 4, 4]]),
    }  # fmt: skip


QWEN_IDS: dict[str, Any] = dict(
    image_token_id=IMAGE, video_token_id=IMAGE + 1, vision_start_token_id=IMAGE + 2, vision_end_token_id=IMAGE + 3
)
