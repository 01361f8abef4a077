"""The library as others call it: whole outputs, streams, further turns, other models, caches that cannot roll back."""

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from covering import covering
from transformers import DynamicCache, TextStreamer
from transformers.generation.utils import GenerateDecoderOnlyOutput

from fastvlm_bench.decoding.build import build
from fastvlm_bench.decoding.fastvlm import FastVLM
from fastvlm_bench.decoding.standard import Standard
from fastvlm_bench.engine.method import Method
from fastvlm_bench.errors import UsageError
from fastvlm_bench.machine.clock import Clock
from fastvlm_bench.method_spec import MethodSpec
from fastvlm_bench.models.load import Target, load_target
from fastvlm_bench.models.names import TINY_DRAFTS
from fastvlm_bench.suites.suite import load_suite, open_image

HEADS = ("eagle-exit1", "attention-exit2", "mlp-exit4")
NEW = 10


@pytest.fixture(scope="module")
def target() -> Target:
    return load_target("tiny", device="cpu")


@pytest.fixture(scope="module")
def inputs(target: Target) -> Any:
    sample = load_suite("describe", limit=1).samples[0]
    return target.encode(open_image(sample), sample.prompt)


def methods() -> Iterator[Method]:
    yield Standard()
    for head in HEADS:
        yield FastVLM.from_pretrained(TINY_DRAFTS / head, gamma=6)


def generate(target: Target, inputs: Any, **options: Any) -> Any:
    return target.model.generate(**inputs, **{"max_new_tokens": NEW, "do_sample": False, **options})


class Collected:
    """A streamer that keeps what it was given."""

    def __init__(self) -> None:
        self.given: list[list[int]] = []
        self.ended = 0

    def put(self, value: torch.Tensor) -> None:
        self.given.append(value.reshape(-1).tolist())

    def end(self) -> None:
        self.ended += 1


def test_a_streamer_gets_prompt_and_tokens_as_they_are_emitted(target: Target, inputs: Any) -> None:
    whole = generate(target, inputs)[0].tolist()
    for method in methods():
        method.streamer = stream = Collected()
        generate(target, inputs, custom_generate=method)
        assert sum(stream.given, []) == whole and stream.ended == 1
        assert len(stream.given) == 2 + len(method.last.rounds), "the prompt, the first token, and every round"  # type: ignore[union-attr]


def test_the_streamers_of_transformers_print_the_answer(
    target: Target, inputs: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    method = FastVLM.from_pretrained(
        TINY_DRAFTS / HEADS[0], streamer=TextStreamer(target.processor.tokenizer, skip_prompt=True)
    )
    generate(target, inputs, custom_generate=method)
    assert method.last is not None
    assert capsys.readouterr().out.strip() == target.processor.tokenizer.decode(method.last.token_ids).strip()


def test_whole_outputs_where_they_are_asked_for(target: Target, inputs: Any) -> None:
    expected = generate(target, inputs, return_dict_in_generate=True)
    for method in methods():
        found = generate(target, inputs, custom_generate=method, return_dict_in_generate=True)
        assert type(found) is GenerateDecoderOnlyOutput and torch.equal(found.sequences, expected.sequences)
        assert found.past_key_values.get_seq_length() == expected.past_key_values.get_seq_length()
        for own, other in zip(found.past_key_values.layers, expected.past_key_values.layers, strict=True):
            torch.testing.assert_close(own.keys, other.keys, atol=1e-4, rtol=1e-4)


OTHERS = ("layerskip:exit_layer=2,topk=2", "adaptive", "early-exit:exit_layer=6", "hierarchical:levels=2+8", "medusa",
          "prompt-lookup", "draft-verify", "swift", "clasp", "hf-generate")  # fmt: skip


@pytest.mark.parametrize("text", covering(OTHERS, ["early-exit:exit_layer=6", "hf-generate"]))
def test_whole_outputs_of_every_other_method(target: Target, inputs: Any, text: str) -> None:
    """Layers that passes leave out have not read what was emitted: no cache is then given that lacks it."""
    method = build(MethodSpec.parse(text), target, TINY_DRAFTS, Clock()).method
    plain = generate(target, inputs, custom_generate=method)
    found = generate(target, inputs, custom_generate=method, return_dict_in_generate=True)
    assert torch.equal(found.sequences, plain)
    if found.past_key_values is None:
        assert text.startswith("early-exit")
    else:
        assert {layer.get_seq_length() for layer in found.past_key_values.layers} == {plain.shape[1] - 1}


@pytest.mark.parametrize("asked", ["output_scores", "output_logits", "output_attentions", "output_hidden_states"])
def test_what_is_not_kept_of_each_pass_is_refused(target: Target, inputs: Any, asked: str) -> None:
    for method in methods():
        with pytest.raises(UsageError, match=f"{asked} is not supported.*leave it out"):
            generate(target, inputs, custom_generate=method, return_dict_in_generate=True, **{asked: True})


@pytest.mark.parametrize("eos_inside", covering([False, True], [True]))
def test_a_second_turn_goes_on_with_the_cache_of_the_first(target: Target, inputs: Any, eos_inside: bool) -> None:
    """Heads with a cache of their own have seen nothing of the first turn, and say so."""
    ends = {"eos_token_id": generate(target, inputs)[0, -NEW // 2].item()} if eos_inside else {}
    first = generate(target, inputs, return_dict_in_generate=True, **ends)
    further = target.processor.tokenizer(" It is", return_tensors="pt", add_special_tokens=False).input_ids
    ids = torch.cat([first.sequences, further], dim=1)
    asked = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "max_new_tokens": NEW, "do_sample": False}
    expected = target.model.generate(**asked, past_key_values=copy.deepcopy(first.past_key_values))
    for method in methods():
        before = generate(target, inputs, custom_generate=method, return_dict_in_generate=True, **ends)
        draft = method.draft
        if draft is not None and draft.head.attends:
            with pytest.raises(UsageError, match="has not seen: leave them out"):
                target.model.generate(**asked, past_key_values=before.past_key_values, custom_generate=method)
        else:
            found = target.model.generate(**asked, past_key_values=before.past_key_values, custom_generate=method)
            assert found.tolist() == expected.tolist()


@pytest.mark.parametrize("cache", ["static"])
def test_a_cache_that_cannot_be_rolled_back_is_refused(target: Target, inputs: Any, cache: str) -> None:
    standard, *drafting = methods()
    plain = generate(target, inputs)
    assert torch.equal(generate(target, inputs, custom_generate=standard, cache_implementation=cache), plain)
    for method in drafting:
        with pytest.raises(UsageError, match="out of a cache of StaticLayers: leave cache_implementation out"):
            generate(target, inputs, custom_generate=method, cache_implementation=cache)
    given = generate(target, inputs, custom_generate=drafting[0], past_key_values=DynamicCache())
    assert torch.equal(given, plain)


def test_a_draft_is_checked_again_on_another_model(target: Target, inputs: Any) -> None:
    method = FastVLM.from_pretrained(TINY_DRAFTS / HEADS[0])
    generate(target, inputs, custom_generate=method, max_new_tokens=2)
    other = copy.deepcopy(target.model)
    layers = other.model.language_model.layers
    other.model.language_model.layers = layers[:3]
    with pytest.raises(UsageError, match=f"loaded for a model with {len(layers)} as its layers, not 3"):
        other.generate(**inputs, max_new_tokens=2, do_sample=False, custom_generate=method)
    generate(target, inputs, custom_generate=method, max_new_tokens=2)


@pytest.mark.parametrize("again", covering([False, True], [True]))
def test_a_draft_is_checked_again_on_a_model_of_another_dtype(inputs: Any, again: bool) -> None:
    """A second model, and the first where it was cast between two calls."""
    target = load_target("tiny", device="cpu")
    cast = {key: value.double() if value.is_floating_point() else value for key, value in inputs.items()}
    for head in HEADS:
        method = FastVLM.from_pretrained(TINY_DRAFTS / head)
        generate(target, inputs, custom_generate=method, max_new_tokens=2)
        other = target.model if again else copy.deepcopy(target.model)
        other.double()
        with pytest.raises(UsageError, match=r"for a model with torch.float32 as its dtype, not torch.float64; load"):
            other.generate(**cast, max_new_tokens=2, do_sample=False, custom_generate=method)
        target.model.float()
        generate(target, inputs, custom_generate=method, max_new_tokens=2)


def test_without_a_cache_nothing_is_decoded(target: Target, inputs: Any) -> None:
    for method in methods():
        with pytest.raises(UsageError, match="use_cache=False is not supported: .*; leave it out"):
            generate(target, inputs, custom_generate=method, use_cache=False)
