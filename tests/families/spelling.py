"""A tokenizer that spells, and a chat template: every family's processor is made with them here.

Each printable character is a token, so that a vocabulary of 160 is enough for any suite's prompt.
"""

from typing import Any

import transformers as hf
from families.shapes import IMAGE, VOCABULARY
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

IMAGE_FIRST = (
    "{%% for message in messages %%}USER: {%% for part in message['content'] %%}"
    "{%% if part['type'] == 'image' %%}%s{%% else %%}{{ part['text'] }}{%% endif %%}{%% endfor %%}{%% endfor %%}"
    "{%% if add_generation_prompt %%} ASSISTANT:{%% endif %%}"
)


def tokenizer(*special: str, **named: str) -> Any:
    """A spelling tokenizer; `special` tokens get the ids from 150 on, `named` ones are attributes as well."""
    words = ["<pad>", "<s>", "</s>", "<unk>", "\n", *map(chr, range(32, 127))]
    words += [f"<w{i}>" for i in range(len(words), IMAGE)] + list(special)
    words += [f"<w{i}>" for i in range(len(words), VOCABULARY)]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    inner.decoder = decoders.Fuse()
    inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    inner.add_special_tokens([AddedToken(word, special=True, normalized=False) for word in special])
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        model_max_length=512, padding_side="left", **({"extra_special_tokens": named} if named else {}),
    )  # fmt: skip


def template(image: str, start: str = "<s>") -> str:
    return start + IMAGE_FIRST % image
