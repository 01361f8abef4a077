"""Writes a target with random weights in the shape of LLaVA-1.5-7B, or a small one, without a download.

    python results/random_target.py FOLDER --shape 7b --device cuda

A pass takes as long whatever the weights are, so it is fit for times, memory and energy, and for nothing else. The
shape is that of `llava-hf/llava-1.5-7b-hf`: Vicuna 7B, and CLIP ViT-L/14 at 336 pixels. Tokenizer and chat template are
the embedded model's, for it needs 576 image tokens and any words. The layers from the second on add a hundredth of what
they would, so that an exit after two of them drafts what the whole target says about as often as a trained head does.
"""

import argparse
import json
from pathlib import Path

import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from fastvlm_bench.models.names import TINY

EXIT = 2
DAMPED = 0.01
SHAPES = {
    "7b": (
        {},
        {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
         "image_size": 336, "projection_dim": 768},
    ),
    "small": (
        {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4,
         "num_key_value_heads": 4},
        {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
         "image_size": 56, "projection_dim": 64},
    ),
}  # fmt: skip
"""Name -> what differs from transformers' own defaults of LlamaConfig, and of CLIPVisionConfig."""


def write_target(folder: Path, shape: str, device: str) -> None:
    """Write config, weights in bfloat16 and processor. device: where the weights are drawn."""
    text, vision = SHAPES[shape]
    own = json.loads((TINY / "config.json").read_text(encoding="utf-8"))
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(patch_size=14, **vision), image_token_index=own["image_token_index"],
        text_config=LlamaConfig(vocab_size=32064 if shape == "7b" else 1024, eos_token_id=2, pad_token_id=0, **text),
        image_seq_length=(vision["image_size"] // 14) ** 2, dtype="bfloat16",
    )  # fmt: skip
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            model = LlavaForConditionalGeneration(config)
    finally:
        torch.set_default_dtype(before)
    with torch.no_grad():
        for layer in model.model.language_model.layers[EXIT:]:
            layer.self_attn.o_proj.weight.mul_(DAMPED)
            layer.mlp.down_proj.weight.mul_(DAMPED)
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (folder / name).write_bytes((TINY / name).read_bytes())
    processor = json.loads((TINY / "processor_config.json").read_text(encoding="utf-8"))
    side = vision["image_size"]
    processor["image_processor"]["size"] = {"height": side, "width": side}
    processor |= {"patch_size": 14, "num_additional_image_tokens": 1, "vision_feature_select_strategy": "default"}
    (folder / "processor_config.json").write_text(json.dumps(processor, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shape", choices=SHAPES, default="7b")
    parser.add_argument("--device", default="cpu", help="where the weights are drawn")
    asked = parser.parse_args()
    write_target(asked.folder, asked.shape, asked.device)
