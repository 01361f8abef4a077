"""Token ids of every family's prompt: those that transformers itself makes of the message, BOS included."""

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
import transformers as hf
from covering import covering
from families.builders import FAMILIES
from families.published import PUBLISHED
from families.saved import PROCESSORS, llava_next, unmade
from PIL import Image
from tokenizers import Tokenizer, models, normalizers, processors

from fastvlm_bench.checks.ranking import option_tokens
from fastvlm_bench.errors import UsageError
from fastvlm_bench.models.load import Target
from fastvlm_bench.models.processor import without_videos

QUESTION = "What is it?"
CHATML = f"{QUESTION}<|im_end|>\n<|im_start|>assistant\n"
MODEL_CARDS = {
    "llava": f"USER: <image>\n{QUESTION} ASSISTANT:",
    "llava_next": f"[INST] <image>\n{QUESTION} [/INST]",
    "llava_onevision": f"<|im_start|>user\n<image>\n{CHATML}",
    "idefics2": f"User:<image>{QUESTION}<end_of_utterance>\nAssistant:",
    "idefics3": f"<|begin_of_text|>User:<image>{QUESTION}<end_of_utterance>\nAssistant:",
    "qwen2_vl": "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
                f"<|vision_start|><|image_pad|><|vision_end|>{CHATML}",
    "internvl": f"<|im_start|>user\n<IMG_CONTEXT>\n{CHATML}",
    "gemma3": f"<bos><start_of_turn>user\n<start_of_image>{QUESTION}<end_of_turn>\n<start_of_turn>model\n",
    "mllama": f"<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n<|image|>{QUESTION}<|eot_id|>"
              "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "lfm2_vl": f"<|startoftext|><|im_start|>user\n<image>{CHATML}",
    "blip2": f"Question: {QUESTION} Short answer:", "instructblip": f"Question: {QUESTION} Short answer:",
    "paligemma": f"<image>answer en {QUESTION}", "kosmos2": f"<grounding> Question: {QUESTION} Answer:",
    "florence2": "<CAPTION>",
}  # fmt: skip
"""Family -> the text that its model card shows for the question."""
ADDED = {"llava", "llava_next", "idefics2", "nemotron_h_omni"}
"""Families whose template leaves BOS to the tokenizer, which adds it to a text unless told not to."""


@cache
def target_of(name: str) -> Target:
    """No test changes it."""
    if package := unmade(name):
        pytest.skip(f"its processor needs {package}")
    model, _ = FAMILIES[name]()
    with without_videos():
        processor = PROCESSORS[name](model)
    return Target(name, model, processor, torch.device("cpu"), None)


def picture() -> Image.Image:
    return Image.effect_mandelbrot((64, 48), (-2.0, -1.5, 1.0, 1.5), 40).convert("RGB")


def prompt_of(name: str) -> str:
    return "Caption it." if name == "florence2" else QUESTION


def same(ours: dict[str, Any], theirs: Any) -> None:
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        assert torch.equal(value, torch.as_tensor(theirs[key])), key


def made_by_transformers(processor: Any, prompt: str) -> Any:
    content = [{"type": "image", "image": picture()}, {"type": "text", "text": prompt}]
    return processor.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=True, add_generation_prompt=True, return_dict=True,
        return_tensors="pt",
    )  # fmt: skip


def turns_by_transformers(processor: Any, images: int) -> Any:
    content = [*[{"type": "image", "image": picture()}] * images, {"type": "text", "text": "Compare them."}]
    said = [{"role": "assistant", "content": [{"type": "text", "text": "They are alike."}]},
            {"role": "user", "content": [{"type": "text", "text": QUESTION}]}]  # fmt: skip
    return processor.apply_chat_template(
        [{"role": "user", "content": content}, *said], tokenize=True, add_generation_prompt=True, return_dict=True,
        return_tensors="pt",
    )  # fmt: skip


@pytest.mark.parametrize("images", covering([1, 2], [2]))
@pytest.mark.parametrize("name", sorted(PUBLISHED.keys() & PROCESSORS.keys()))
def test_ids_of_several_images_and_turns_are_those_of_the_chat_template(name: str, images: int) -> None:
    target = target_of(name)
    shown = [picture() for _ in range(images)]
    ours = target.encode(shown if images > 1 else shown[0], QUESTION, [("Compare them.", "They are alike.")])
    same(ours, turns_by_transformers(target.processor, images))
    if images > 1:
        assert not torch.equal(ours["input_ids"], target.encode(picture(), QUESTION)["input_ids"])


@pytest.mark.parametrize("name", ["blip2", "instructblip", "paligemma", "kosmos2", "florence2"])
def test_a_family_without_a_template_is_refused_by_name(name: str) -> None:
    target = target_of(name)
    for what, asked in (("2 images", ([picture()] * 2, prompt_of(name))),
                        ("2 turns", (picture(), prompt_of(name), [("Look.", "Yes.")]))):  # fmt: skip
        with pytest.raises(UsageError, match=rf"model '{name}' .*one image and one question at a time, not {what}"):
            target.encode(*asked)


@pytest.mark.parametrize("name", sorted(PUBLISHED.keys() & PROCESSORS.keys()))
def test_ids_are_those_of_the_chat_template(name: str) -> None:
    target = target_of(name)
    ours = target.encode(picture(), QUESTION)
    same(ours, made_by_transformers(target.processor, QUESTION))
    first, bos = ours["input_ids"][0].tolist(), target.processor.tokenizer.bos_token_id
    assert bos is None or first[0] == bos
    assert PUBLISHED[name].bos is None or first.count(bos) == 1 or name == "smolvlm"  # whose BOS starts every turn
    written = target.render(QUESTION).startswith(target.processor.tokenizer.bos_token or "\0")
    assert (bos is not None and not written) == (name in ADDED)


@pytest.mark.parametrize("name", sorted(PROCESSORS.keys() - PUBLISHED.keys() - {"qwen3_5_moe"}))
def test_ids_are_those_of_the_model_card(name: str) -> None:
    """Families without a template: `processor(images=image, text=prompt)`, special tokens and all."""
    target = target_of(name)
    text = MODEL_CARDS["paligemma" if name == "paligemma2" else name.removesuffix("_t5")]
    ours = target.encode(picture(), prompt_of(name))
    same(ours, target.processor(images=picture(), text=text, return_tensors="pt"))
    tokenizer = target.processor.tokenizer
    assert tokenizer.bos_token_id in ours["input_ids"][0].tolist()


@pytest.mark.parametrize("name", MODEL_CARDS)
def test_texts_are_those_of_the_model_card(name: str) -> None:
    assert target_of(name).render(prompt_of(name)) == MODEL_CARDS[name]


def test_llava_next_over_vicuna() -> None:
    """Its template writes a system prompt and no BOS."""
    model, _ = FAMILIES["llava_next"]()
    processor, chat = llava_next(model), PUBLISHED["llava_next_vicuna"]
    processor.chat_template = chat.template
    target = Target("vicuna", model, processor, torch.device("cpu"), None)
    ours = target.encode(picture(), QUESTION)
    same(ours, made_by_transformers(processor, QUESTION))
    assert ours["input_ids"][0].tolist().count(1) == 1 and ours["input_ids"][0, 0] == 1


def test_options_follow_the_prompt_as_it_is_read() -> None:
    """The tokens of an answer that is ranked are those that follow the prompt's, and hold no BOS of their own."""
    target = target_of("llava")
    prompt, bos = target.encode(picture(), QUESTION)["input_ids"][0].tolist(), target.processor.tokenizer.bos_token_id
    (option,) = option_tokens(target, QUESTION, ["a dog"])
    whole = target.processor(text=f"{target.render(QUESTION)} a dog", images=picture(), return_tensors="pt")
    assert [*prompt, *option] == whole["input_ids"][0].tolist() and bos not in option


def test_a_tokenizer_as_llama_has_it() -> None:
    """Byte-fallback, metaspace and TemplateProcessing, as in LLaVA-1.5's tokenizer.json: exactly one BOS."""
    marks = ["<unk>", "<s>", "</s>", "<image>"]
    words = {word: i for i, word in enumerate([*marks, "\u2581", *"USERASSISTANT:What is it?\n"])}
    inner = Tokenizer(models.BPE({w: i for i, w in enumerate(dict.fromkeys(words))}, [], unk_token="<unk>"))
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    inner.add_special_tokens(marks)
    tokenizer = hf.PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<unk>"
    )
    target = replace(target_of("llava"))
    target.processor = hf.LlavaProcessor(
        target.processor.image_processor, tokenizer, patch_size=8, vision_feature_select_strategy="default",
        num_additional_image_tokens=1, chat_template=PUBLISHED["llava"].template,
    )  # fmt: skip
    ours = target.encode(picture(), QUESTION)
    same(ours, made_by_transformers(target.processor, QUESTION))
    assert ours["input_ids"][0, 0] == 1 and ours["input_ids"][0].tolist().count(1) == 1
