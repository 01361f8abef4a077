"""The text that a model reads around one image: its processor's chat template, or its family's documented fallback.

Fallbacks are for families whose checkpoints come without a template, by `config.model_type`:
BLIP-2, InstructBLIP  "Question: {} Short answer:" where a question is asked, else the prompt as it stands
PaliGemma             "<image>answer en {}" for a question, "<image>caption en" else: the tasks it was trained on
Kosmos-2              "<grounding> Question: {} Answer:" for a question, "<grounding> An image of" else
Florence-2            its task token "<CAPTION>", or "<MORE_DETAILED_CAPTION>" where detail is asked for; no questions
"""

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


def render(processor: Any, model_type: str, prompt: str, model: str) -> str:
    """The text for one image and `prompt`; UsageError where there is neither a template nor a fallback.

    A prompt with a question mark is a question. `model` is what the user typed, for the message.
    """
    if getattr(processor, "chat_template", None) is not None:
        content = [{"type": "image"}, {"type": "text", "text": prompt}]
        return str(processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True))
    if model_type not in FALLBACKS:
        raise UsageError(f"model '{model}' has no chat template: add chat_template.jinja to its folder")
    question, other = FALLBACKS[model_type]
    if model_type == "florence2" and "detail" in prompt.lower() and "?" not in prompt:
        return "<MORE_DETAILED_CAPTION>"
    if "?" not in prompt:
        return other.format(prompt)
    if question is None:
        raise UsageError(f"model '{model}' ({model_type}) answers no questions: use a caption suite")
    return question.format(prompt.partition("?")[0].strip() + "?")


def prompting(processor: Any, model_type: str) -> str:
    """How `render` makes the text, in words."""
    if getattr(processor, "chat_template", None) is not None:
        return "chat template"
    return f"no chat template: {model_type}'s documented fallback"


def writes_special_tokens(processor: Any) -> bool:
    """Whether the rendered text holds the special tokens already; a second <s> would be another prompt."""
    return getattr(processor, "chat_template", None) is not None
