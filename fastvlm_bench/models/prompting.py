"""The text that a model reads around one image: its processor's chat template, or its family's documented fallback.

Fallbacks are for families whose checkpoints come without a template, by `config.model_type`:
BLIP-2, InstructBLIP  "Question: {} Short answer:" where a question is asked, else the prompt as it stands
PaliGemma             "<image>answer en {}" for a question, "<image>caption en" else: the tasks it was trained on
Kosmos-2              "<grounding> Question: {} Answer:" for a question, "<grounding> An image of" else
Florence-2            its task token "<CAPTION>", or "<MORE_DETAILED_CAPTION>" where detail is asked for; no questions
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastvlm_bench.errors import UsageError

Earlier = Sequence[tuple[str, str]]
"""The turns before: (prompt, the model's own answer) of each."""
IMAGE_AS_TEXT = "'type': 'image'"
"""What a template that knows texts alone makes of the place of an image."""
TEMPLATE_FILES = ("chat_template.jinja", "chat_template.json", "tokenizer_config.json")
"""Where a checkpoint may have its template, the one that is read first in front."""
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


def render(
    processor: Any, model_type: str, prompt: str, model: str, images: int = 1, earlier: Earlier = ()
) -> str:  # fmt: skip
    """The text for some images and `prompt`; UsageError where there is neither a template nor a fallback.

    All images stand before the first turn's text. A prompt with a question mark is a question. `model` is what the user
    typed, for the message. earlier: the turns before. UsageError, too, for a family that takes one image or one turn.
    """
    if (template := template_of(processor, model_type)) is not None:
        own = {} if getattr(processor, "chat_template", None) is not None else {"chat_template": template}
        text = _filled(processor, messages_of(prompt, images, earlier), model, own)
        if IMAGE_AS_TEXT in text and IMAGE_AS_TEXT not in prompt:
            raise UsageError(
                f"model '{model}' has a chat template for text alone: add a chat_template.jinja that writes images"
            )
        if images > 1 and text == _filled(processor, messages_of(prompt, images - 1, earlier), model, own):
            raise UsageError(f"model '{model}' ({model_type}) has a chat template that leaves out all images but the "
                             "first: choose a model that reads several")  # fmt: skip
        place = 0
        for said in [part.strip() for turn in earlier for part in turn] if earlier else ():
            place = text.find(said, place)
            if place < 0:
                raise UsageError(f"model '{model}' ({model_type}) has a chat template that leaves out earlier turns: "
                                 "choose a model that takes several turns")  # fmt: skip
            place += len(said)
        return text
    if model_type not in FALLBACKS:
        raise UsageError(_no_template(processor, model))
    if images > 1 or earlier:
        what = f"{images} images" if images > 1 else f"{len(earlier) + 1} turns"
        raise UsageError(f"model '{model}' ({model_type}) has no chat template and reads one image and one question at "
                         f"a time, not {what}: choose a model with a chat template")  # fmt: skip
    question, other = FALLBACKS[model_type]
    if model_type == "florence2" and "detail" in prompt.lower() and "?" not in prompt:
        return "<MORE_DETAILED_CAPTION>"
    if "?" not in prompt:
        return other.format(prompt)
    if question is None:
        raise UsageError(f"model '{model}' ({model_type}) answers no questions: use a caption suite")
    return question.format(prompt.partition("?")[0].strip() + "?")


def messages_of(prompt: str, images: int = 1, earlier: Earlier = ()) -> list[dict[str, Any]]:
    """The messages of a chat template. All images belong to its first; images may be 0."""
    said: list[tuple[str, str]] = [each for turn in earlier for each in zip(("user", "assistant"), turn, strict=True)]
    messages: list[dict[str, Any]] = [
        {"role": role, "content": [{"type": "text", "text": text}]} for role, text in [*said, ("user", prompt)]
    ]
    messages[0]["content"] = [{"type": "image"}] * images + messages[0]["content"]
    return messages


def _filled(processor: Any, messages: list[dict[str, Any]], model: str, own: dict[str, Any]) -> str:
    """The template's text. A template is a program of the checkpoint's: whatever it raises is a UsageError."""
    try:
        return str(processor.apply_chat_template(messages, add_generation_prompt=True, **own))
    except Exception as error:
        raise template_refuses(model, error) from None


def template_refuses(model: str, error: Exception) -> UsageError:
    """What to say where a chat template cannot be filled in: its own message, and the file that it stands in."""
    folder = Path(model)
    file = next((name for name in TEMPLATE_FILES if (folder / name).is_file()), TEMPLATE_FILES[0])
    said = " ".join(str(error).split())[:160] or "no message"
    return UsageError(
        f"model '{model}': its chat template cannot be filled in with an image and a text "
        f"({type(error).__name__}: {said}); mend {folder / file if folder.is_dir() else file}"
    )


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
