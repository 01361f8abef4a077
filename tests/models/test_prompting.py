"""The text around one image: the processor's template first, else the family's own words, else a refusal."""

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fastvlm_bench.errors import UsageError
from fastvlm_bench.models.draft_model import TextModel
from fastvlm_bench.models.names import TINY
from fastvlm_bench.models.processor import load_processor
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


TEMPLATES = {
    "raises": ("{{ raise_exception('Only text is supported, sorry!') }}", "Only text is supported, sorry!"),
    "wants plain text": ("{% for m in messages %}USER: {{ '<image>' + m['content'] }}{% endfor %}", "TypeError"),
    "does not parse": ("{% for m in messages %}{{ m.content", "TemplateSyntaxError"),
    "divides by zero": ("{{ 1 / 0 }}", "ZeroDivisionError"),
    "asks for what is not there": ("{{ nothing.there.at_all }}", "UndefinedError"),
    "includes another file": ("{% include 'other' %}", "no loader"),
    "goes on for long": ("{% for i in range(100000000) %}{% endfor %}", "Range too big"),
}


@pytest.fixture(scope="module")
def llava() -> Any:
    return load_processor(str(TINY))


@pytest.mark.parametrize("case", TEMPLATES)
def test_a_template_that_cannot_be_filled_in_is_one_line_with_its_message_and_its_file(
    case: str, llava: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    template, said = TEMPLATES[case]
    monkeypatch.setattr(llava, "chat_template", template)
    for file in ("tokenizer_config.json", "chat_template.jinja"):
        (tmp_path / file).write_text("x")
        with pytest.raises(UsageError) as refusal:
            render(llava, "llava", CAPTION, str(tmp_path))
        told = str(refusal.value)
        assert said in told and told.endswith(f"mend {tmp_path / file}") and "\n" not in told
    drafter = TextModel("second", None, SimpleNamespace(
        chat_template=template, apply_chat_template=partial(llava.apply_chat_template, chat_template=template)
    ), torch.device("cpu"), None)  # fmt: skip
    if case != "wants plain text":
        with pytest.raises(UsageError, match="model 'second': its chat template cannot be filled in"):
            drafter.render(CAPTION)


def test_a_template_for_text_alone_is_told_before_its_text_is_read(llava: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It writes the place of the image as Python would print it, and the image has no place in the text."""
    monkeypatch.setattr(llava, "chat_template", "{% for m in messages %}{{ m['content'] | trim }}{% endfor %}")
    with pytest.raises(UsageError, match="'m' has a chat template for text alone"):
        render(llava, "llava", CAPTION, "m")


def test_a_second_model_whose_template_takes_parts_alone_is_asked_in_parts(llava: Any) -> None:
    """Its template raises on plain text, which is tried first."""
    template = "{% for m in messages %}{% for p in m['content'] %}{{ '<' + p['text'] + '>' }}{% endfor %}{% endfor %}"
    drafter = TextModel("second", None, SimpleNamespace(
        chat_template=template, apply_chat_template=partial(llava.apply_chat_template, chat_template=template)
    ), torch.device("cpu"), None)  # fmt: skip
    assert drafter.render(CAPTION) == f"<{CAPTION}>"
