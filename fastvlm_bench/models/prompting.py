"""The text that a model reads around one image: its processor's chat template, or its family's documented fallback.

Fallbacks are for families whose checkpoints come without a template, by `config.model_type`:
BLIP-2, InstructBLIP  "Question: {} Short answer:" where a question is asked, else the prompt as it stands
PaliGemma             "<image>answer en {}" for a question, "<image>caption en" else: the tasks it was trained on
Kosmos-2              "<grounding> Question: {} Answer:" for a question, "<grounding> An image of" else
Florence-2            its task token "<CAPTION>", or "<MORE_DETAILED_CAPTION>" where detail is asked for; no questions
"""

from pathlib import Path
from typing import Any

from fastvlm_bench.errors import UsageError

# model_type -> (text for a question, text for any other prompt)
FALLBACKS = {
    "blip-2": ("Question: {} Short answer:", "{}"),
    "instructblip": ("Question: {} Short answer:", "{}"),
    "paligemma": ("<image>answer en {}", "<image>caption en"),
    "kosmos-2": ("<grounding> Question: {} Answer:", "<grounding> An image of"),
    "florence2": (None, "<CAPTION>"),
}


def template_of(processor: Any, model_type: str) -> Any:
    """The processor's chat template; else, for a family that is not in FALLBACKS, its tokenizer's; else None.

    Processors that take no template of their own (GIT, Pix2Struct, TrOCR) leave the folder's chat_template.jinja to
    their tokenizer.
    """
    own = getattr(processor, "chat_template", None)
    if own is None and model_type not in FALLBACKS:
        return getattr(getattr(processor, "tokenizer", None), "chat_template", None)
    return own


def render(processor: Any, model_type: str, prompt: str, model: str) -> str:
    """The text for one image and `prompt`; UsageError where there is neither a template nor a fallback.

    A prompt with a question mark is a question. `model` is what the user typed, for the message.
    """
    if (template := template_of(processor, model_type)) is not None:
        own = {} if getattr(processor, "chat_template", None) is not None else {"chat_template": template}
        content = [{"type": "image"}, {"type": "text", "text": prompt}]
        messages = [{"role": "user", "content": content}]
        text = str(processor.apply_chat_template(messages, add_generation_prompt=True, **own))
        if own and "'type': 'image'" in text:
            raise UsageError(
                f"model '{model}' has a chat template for text alone: add a chat_template.jinja that writes images"
            )
        return text
    if model_type not in FALLBACKS:
        raise UsageError(_no_template(processor, model))
    question, other = FALLBACKS[model_type]
    if model_type == "florence2" and "detail" in prompt.lower() and "?" not in prompt:
        return "<MORE_DETAILED_CAPTION>"
    if "?" not in prompt:
        return other.format(prompt)
    if question is None:
        raise UsageError(f"model '{model}' ({model_type}) answers no questions: use a caption suite")
    return question.format(prompt.partition("?")[0].strip() + "?")


def _no_template(processor: Any, model: str) -> str:
    """Why there is no text to read, and what would help."""
    if not hasattr(processor, "apply_chat_template") and not hasattr(processor, "tokenizer"):
        return f"model '{model}' has a {type(processor).__name__}, which takes no text beside an image: choose another"
    where = "to its folder" if Path(model).is_dir() else "to a copy of its files, and give that folder as the model"
    return (
        f"model '{model}' has no chat template: add chat_template.jinja {where}, with the words around image and "
        f"question that the model was trained on; a {type(processor).__name__} has to know the image's mark in it"
    )


def prompting(processor: Any, model_type: str) -> str:
    """In words, how `render` makes the text."""
    if template_of(processor, model_type) is not None:
        return "chat template"
    return f"no chat template: {model_type}'s documented fallback"


def text_options(processor: Any, model_type: str, text: str) -> dict[str, bool]:
    """The options with which the processor must be given a rendered text, so that its tokens are transformers' own.

    As `apply_chat_template(tokenize=True)` does: the tokenizer adds the special tokens that it adds to any text (for
    most families BOS), unless the template has written BOS already. A text that is no template's is given to the
    processor as model cards show it, with no options.
    """
    bos = getattr(getattr(processor, "tokenizer", None), "bos_token", None)
    written = template_of(processor, model_type) is not None and bos is not None and text.startswith(bos)
    return {"add_special_tokens": False} if written else {}
