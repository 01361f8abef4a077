"""A tokenizer that spells, and chat templates: every family's processor is made with them here.

Each printable character is a token, so that a vocabulary of 160 is enough for any suite's prompt. Marks of a template
("<|im_start|>") are tokens of their own, as in the published tokenizers.
"""

from typing import Any

import transformers as hf
from families.shapes import IMAGE, VOCABULARY
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors


def tokenizer(
    *special: str, bos: str | None = "<s>", adds: bool = True, marks: tuple[str, ...] = (), **named: str
) -> Any:
    """A spelling tokenizer; `special` tokens get the ids from 150 on, `named` ones are attributes as well.

    bos: its first token, if it has one, which it `adds` to any text unless told not to, as Llama's and Mistral's do.
    marks: special tokens of the template, with ids from 100 on.
    """
    words = ["<pad>", bos or "<s>", "</s>", "<unk>", "\n", *map(chr, range(32, 127)), *marks]
    words += [f"<w{i}>" for i in range(len(words), IMAGE)] + list(special)
    words += [f"<w{i}>" for i in range(len(words), VOCABULARY)]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    inner.decoder = decoders.Fuse()
    if bos and adds:
        inner.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, 1)])
    inner.add_special_tokens([AddedToken(word, special=True, normalized=False) for word in (*special, *marks)])
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", **({"bos_token": bos} if bos else {}), eos_token="</s>",
        unk_token="<unk>", model_max_length=512, padding_side="left",
        **({"extra_special_tokens": named} if named else {}),
    )  # fmt: skip


def template(image: str, before: str, after: str, *, start: str = "", images_first: bool = False) -> str:
    """A chat template that renders a user's turn and the start of the answer as a family's published one does.

    before, after: what stands before the turn's content, and after it with the generation prompt. image: what stands
    for an image; images_first: even where the message has texts before it. start: of the text, as "{{ bos_token }}".
    """
    shown = f"{{{{ {image!r} }}}}"
    one = f"{{% if part['type'] == 'image' %}}{shown}{{% else %}}{{{{ part['text'] }}}}{{% endif %}}"
    parts = f"{{% for part in message['content'] %}}{one}{{% endfor %}}"
    if images_first:
        parts = "".join(
            f"{{% for part in message['content'] if part['type'] == '{kind}' %}}{what}{{% endfor %}}"
            for kind, what in (("image", shown), ("text", "{{ part['text'] }}"))
        )
    # In an expression, since jinja as transformers has it drops a line break after a block.
    return f"{start}{{% for message in messages %}}{{{{ {before!r} }}}}{parts}{{% endfor %}}{{{{ {after!r} }}}}"
