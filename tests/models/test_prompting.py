"""The text around one image: the processor's template first, else the family's own words, else a refusal."""

from types import SimpleNamespace
from typing import Any

import pytest

from fastvlm_bench.errors import UsageError
from fastvlm_bench.models.prompting import render, writes_special_tokens

QUESTION, CAPTION = "What colour is it? Answer with one word.", "Describe this image in detail."


class Processor:
    chat_template: str | None = None


class Templated(Processor):
    chat_template = "a template"

    def apply_chat_template(self, messages: list[dict[str, Any]], add_generation_prompt: bool) -> str:
        assert add_generation_prompt and [part["type"] for part in messages[0]["content"]] == ["image", "text"]
        return f"USER: <image> {messages[0]['content'][1]['text']} ASSISTANT:"


@pytest.mark.parametrize(("model_type", "prompt", "text"), [
    ("blip-2", QUESTION, "Question: What colour is it? Short answer:"), ("blip-2", CAPTION, CAPTION),
    ("instructblip", QUESTION, "Question: What colour is it? Short answer:"),
    ("paligemma", QUESTION, "<image>answer en What colour is it?"), ("paligemma", CAPTION, "<image>caption en"),
    ("kosmos-2", QUESTION, "<grounding> Question: What colour is it? Answer:"),
    ("kosmos-2", CAPTION, "<grounding> An image of"), ("florence2", CAPTION, "<MORE_DETAILED_CAPTION>"),
    ("florence2", "Caption it.", "<CAPTION>"),
])  # fmt: skip
def test_fallbacks(model_type: str, prompt: str, text: str) -> None:
    assert render(Processor(), model_type, prompt, "m") == text
    assert not writes_special_tokens(Processor(), model_type)


def test_a_template_goes_before_a_fallback() -> None:
    assert render(Templated(), "blip-2", CAPTION, "m") == f"USER: <image> {CAPTION} ASSISTANT:"
    assert writes_special_tokens(Templated(), "blip-2")


@pytest.mark.parametrize(
    ("model_type", "message"), [("llava", "'m' has no chat template"), ("florence2", "answers no questions")]
)
def test_refusals(model_type: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        render(Processor(), model_type, QUESTION, "m")


class TokenizerTemplated(Processor):
    """A processor that takes no template: the folder's lies in its tokenizer."""

    def __init__(self, text: str) -> None:
        self.tokenizer, self.text = SimpleNamespace(chat_template="the tokenizer's"), text

    def apply_chat_template(self, messages: Any, add_generation_prompt: bool, chat_template: str) -> str:
        assert add_generation_prompt and chat_template == "the tokenizer's"
        return self.text


def test_the_tokenizer_has_the_template() -> None:
    """It is used for a family that is not in FALLBACKS. BLIP-2 is: its text model's template is not used."""
    assert render(TokenizerTemplated("<image> hi"), "git", CAPTION, "m") == "<image> hi"
    assert writes_special_tokens(TokenizerTemplated(""), "git")
    assert render(TokenizerTemplated("unused"), "blip-2", CAPTION, "m") == CAPTION
    with pytest.raises(UsageError, match="for text alone: add a chat_template.jinja that writes images"):
        render(TokenizerTemplated("[{'type': 'image'}, …]"), "git", CAPTION, "m")
