"""The text around one image: the processor's template first, else the family's own words, else a refusal."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fastvlm_bench.errors import UsageError
from fastvlm_bench.models.prompting import render, text_options

QUESTION, CAPTION = "What colour is it? Answer with one word.", "Describe this image in detail."


class Processor:
    chat_template: str | None = None
    tokenizer: Any = None


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
    assert text_options(Processor(), model_type, f"<s>{text}") == {}, "the processor decides"


def test_a_template_goes_before_a_fallback() -> None:
    assert render(Templated(), "blip-2", CAPTION, "m") == f"USER: <image> {CAPTION} ASSISTANT:"


@pytest.mark.parametrize(
    ("model_type", "message"), [("llava", "'m' has no chat template"), ("florence2", "answers no questions")]
)
def test_refusals(model_type: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        render(Processor(), model_type, QUESTION, "m")


@pytest.mark.parametrize(("bos", "text", "written"), [
    ("<s>", "<s>USER: hi", True), ("<s>", "USER: hi", False), ("<s>", " <s>USER: hi", False),
    (None, "<|im_start|>user", False), ("<|im_start|>", "<|im_start|>User:", True),
])  # fmt: skip
def test_bos_is_left_to_the_tokenizer_unless_the_template_wrote_it(bos: str | None, text: str, written: bool) -> None:
    processor: Any = Templated()
    processor.tokenizer = SimpleNamespace(bos_token=bos)
    assert text_options(processor, "llava", text) == ({"add_special_tokens": False} if written else {})


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
    assert render(TokenizerTemplated("unused"), "blip-2", CAPTION, "m") == CAPTION
    with pytest.raises(UsageError, match="for text alone: add a chat_template.jinja that writes images"):
        render(TokenizerTemplated("[{'type': 'image'}, …]"), "git", CAPTION, "m")


class OfImagesAlone:
    """What AutoProcessor gives for a checkpoint that has no tokenizer."""


class WithText(OfImagesAlone):
    tokenizer = None


def test_advice_on_a_missing_template_can_be_followed(tmp_path: Path) -> None:
    told = {}
    for model, processor in ((str(tmp_path), WithText()), ("someone/model", WithText()), ("x", OfImagesAlone())):
        with pytest.raises(UsageError) as refusal:
            render(processor, "never-heard-of", "What is it?", model)
        told[model] = str(refusal.value)
        assert "\n" not in told[model]
    assert "add chat_template.jinja to its folder" in told[str(tmp_path)]
    assert "to a copy of its files, and give that folder as the model" in told["someone/model"]
    assert "OfImagesAlone, which takes no text beside an image" in told["x"] and "jinja" not in told["x"]
