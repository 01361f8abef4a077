"""Builds the embedded model's parts: tokenizer, processor, configuration. Saved, they are a plain HF checkpoint."""

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    SiglipVisionConfig,
)
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from fastvlm_bench.world.pictures import IMAGE_SIZE

PATCH = 20
PATCHES = (IMAGE_SIZE // PATCH) ** 2
WIDTH = 192
DECODER_FFN = 512
VOCABULARY = 1024
SPECIAL = ("<pad>", "<s>", "</s>", "<image>")
CHAT_TEMPLATE = (
    "<s>{% for message in messages %}{% if message['role'] == 'user' %}USER: "
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>\n{% endif %}{% endfor %}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{% else %} ASSISTANT: "
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}</s>"
    "{% endif %}{% endfor %}{% if add_generation_prompt %} ASSISTANT:{% endif %}"
)


def build_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE of at most 1,024 entries: any text has tokens, and the LM head stays cheap."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>",
        extra_special_tokens={"image_token": "<image>"}, model_max_length=1024, padding_side="left",
    )  # fmt: skip


def build_processor(tokenizer: PreTrainedTokenizerFast) -> LlavaProcessor:
    """A processor whose image part needs Pillow only, so that it loads without torchvision."""
    return LlavaProcessor(
        image_processor=SiglipImageProcessorPil(size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}),
        tokenizer=tokenizer, patch_size=PATCH, vision_feature_select_strategy="full",
        chat_template=CHAT_TEMPLATE, image_token="<image>",
    )  # fmt: skip


def build_config(tokenizer: PreTrainedTokenizerFast, layers: int) -> LlavaConfig:
    return LlavaConfig(
        vision_config=SiglipVisionConfig(
            hidden_size=WIDTH, intermediate_size=2 * WIDTH, num_hidden_layers=4, num_attention_heads=3,
            image_size=IMAGE_SIZE, patch_size=PATCH, vision_use_head=False,
        ),
        text_config=LlamaConfig(
            hidden_size=WIDTH, intermediate_size=DECODER_FFN, num_hidden_layers=layers, num_attention_heads=3,
            num_key_value_heads=1, head_dim=64, vocab_size=len(tokenizer), max_position_embeddings=1024,
            tie_word_embeddings=True, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        ),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"), vision_feature_layer=-1,
        vision_feature_select_strategy="full", image_seq_length=PATCHES, tie_word_embeddings=True,
    )  # fmt: skip


def save(model: LlavaForConditionalGeneration, processor: LlavaProcessor, folder: Path) -> None:
    """Write the checkpoint folder; weights in float16, which keeps the skill of trained weights of this size."""
    folder.mkdir(parents=True, exist_ok=True)
    model.half().save_pretrained(folder)
    processor.save_pretrained(folder)
    for name in ("processor_config.json",):  # rewritten as indented JSON
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()), indent=2) + "\n")
