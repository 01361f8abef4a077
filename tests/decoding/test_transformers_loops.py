"""The loops of transformers run as they are: their counts add up, and their faults fail a sample, not the run."""

from typing import Any

import pytest
import torch
from covering import covering
from second_models import given, off
from targets import generate, random_llava
from through_runner import COUNT, outcomes, run
from torch import Tensor

from fastvlm_bench.decoding import hf_assisted
from fastvlm_bench.decoding.hf_prompt_lookup import HfPromptLookup
from fastvlm_bench.decoding.prompt_lookup import PromptLookup
from fastvlm_bench.drafters.transformers_loop import TransformersLoop
from fastvlm_bench.embedded import parts
from fastvlm_bench.embedded.train import tokenizer_texts
from fastvlm_bench.engine.measure import measure
from fastvlm_bench.errors import LoopFailed, UsageError

LONG = 40


def few_words(model: Any, seed: int) -> dict[str, Any]:
    """Only few tokens may be said, so that the output repeats itself and the prompt's tokens do not occur in it."""
    allowed = torch.randperm(900, generator=torch.Generator().manual_seed(seed))[:12].tolist()
    return {"suppress_tokens": [t for t in range(model.config.text_config.vocab_size) if t not in allowed]}


@pytest.mark.parametrize("seed", covering(range(3), [0]))
def test_counts_of_prompt_lookup(llava: Any, inputs: dict[str, Tensor], seed: int) -> None:
    options = few_words(llava, seed)
    expected = generate(llava, inputs, count=LONG, **options)
    method = HfPromptLookup(gamma=4)
    (row,) = measure(method, llava, inputs, LONG, generation={"do_sample": False, **options}).rows
    assert row.token_ids == expected and row.stop == "length"
    assert len(row.token_ids) == 1 + sum(r.emitted for r in row.rounds)
    assert sum(r.accepted for r in row.rounds) > 3 and any(r.tested > r.accepted for r in row.rounds)
    for last, r in ((r is row.rounds[-1], r) for r in row.rounds):
        assert r.accepted <= r.tested <= min(r.drafted, r.accepted + 1) and r.drafted <= 4
        assert r.emitted == r.accepted + 1 or (last and 1 <= r.emitted <= r.accepted)
    assert row.decode_s >= sum(r.draft_s + r.verify_s for r in row.rounds) - 1e-6
    assert "_get_candidate_generator" not in vars(llava), "the model is as it was"


class Guessing(TransformersLoop):
    """A loop whose candidates are the tokens of `known` that come next: also before the prefill."""

    def __init__(self, known: list[int]) -> None:
        super().__init__()
        self.known = known

    def asked(self, model: Any) -> dict[str, Any]:
        return {"prompt_lookup_num_tokens": 3}

    def generate(self, model: Any, decode: Any, **options: Any) -> None:
        start, known, made = options["input_ids"].shape[1], self.known, model._get_candidate_generator

        def make(*args: Any, **kwargs: Any) -> Any:
            generator = made(*args, **kwargs)

            def candidates(ids: Tensor, *_: Any, **__: Any) -> tuple[Tensor, None]:
                done = ids.shape[1] - start
                return torch.cat([ids, ids.new_tensor([known[done : done + 3]])], dim=1), None

            generator.get_candidates = candidates
            return generator

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(model), "_get_candidate_generator", lambda self, *a, **k: make(*a, **k))
            super().generate(model, decode, **options)


@pytest.mark.parametrize("shift", covering(range(5), [2]))
def test_a_first_pass_that_gives_several_tokens(llava: Any, inputs: dict[str, Tensor], shift: int) -> None:
    """The first of them is the prefill's; the others are a round without seconds. Every fifth draft is wrong."""
    known = generate(llava, inputs, count=LONG)
    drafts = [t if i % 5 != shift else (t + 1) % 900 for i, t in enumerate(known)]
    (row,) = measure(Guessing(drafts), llava, inputs, LONG).rows
    assert row.token_ids == known
    assert len(row.token_ids) == 1 + sum(r.emitted for r in row.rounds)
    assert all(r.emitted == r.accepted + 1 for r in row.rounds[:-1])
    surplus = [r for r in row.rounds if r.verify_s == 0.0]
    right = min(shift, 3)  # three drafts come before the prefill, and `right` of them stand
    if right == 0:
        assert surplus == []
    else:  # the first of them is the prefill's own token, and the pass adds one of its own
        assert surplus == row.rounds[:1] and surplus[0].draft_s == 0.0
        assert (surplus[0].drafted, surplus[0].accepted, surplus[0].emitted) == (2, right - 1, right)


class Faulty(HfPromptLookup):
    """A loop that raises whatever transformers may raise."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def asked(self, model: Any) -> dict[str, Any]:
        raise self.error


RAISED = [AttributeError("no attribute 'num_hidden_layers'"), TypeError("x"), KeyError("y"), IndexError("z"),
          NotImplementedError(), AssertionError("a\nb"), UsageError("u")]  # fmt: skip


@pytest.mark.parametrize("error", covering(RAISED, [RAISED[0], RAISED[5]]))
def test_whatever_it_raises_fails_its_sample_alone(llava: Any, inputs: dict[str, Tensor], error: Exception) -> None:
    lines = run(llava, inputs, Faulty(error))
    failed = [line["error"] for line in lines if line["method"] == "fastvlm"]
    assert len(failed) == 2 and all(text.startswith(f"transformers: {type(error).__name__}: ") for text in failed)
    assert all(line["error"] is None for line in lines if line["method"] == "standard")


def test_assisted_by_a_second_model(
    llava: Any, inputs: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    _, tokenizer = random_llava(2)
    target, second = given(llava, tokenizer, inputs), given(off(llava, 0.05), tokenizer, inputs)
    monkeypatch.setattr(hf_assisted, "load_draft_model", lambda *_: second)
    method = hf_assisted.HfAssisted("second", target=target, gamma=4, stop_below=0.0)
    assert not method.tokenizers, "transformers refuses two that are the same"
    (row,) = measure(method, llava, inputs, LONG).rows
    assert row.token_ids == generate(llava, inputs, count=LONG)
    assert all(r.drafted <= 4 for r in row.rounds) and any(r.drafted for r in row.rounds)
    assert method.drafter["name"] == "given" and method.weight_bytes > 0
    other = parts.build_tokenizer(tokenizer_texts(3, scenes=60))
    second.processor = other
    assert hf_assisted.HfAssisted("second", target=target).tokenizers == {
        "tokenizer": tokenizer, "assistant_tokenizer": other
    }  # fmt: skip


def test_image_placeholders_are_drafted_by_transformers_and_not_by_us(llava: Any, inputs: dict[str, Tensor]) -> None:
    """A prompt that ends like what came before the image: transformers copies what stands for the image, and fails."""
    start = inputs["input_ids"][:, :4]
    ids = torch.cat([inputs["input_ids"], start[:, 1:]], dim=1)
    given = {**inputs, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with pytest.raises(LoopFailed, match="ValueError: Image features and image tokens do not match"):
        measure(HfPromptLookup(), llava, given, COUNT)
    assert measure(PromptLookup(), llava, given, COUNT).rows[0].token_ids == generate(llava, given, count=COUNT)


def test_through_the_runner(llava: Any, inputs: dict[str, Tensor]) -> None:
    options = {"do_sample": False, **few_words(llava, 0)}
    assert outcomes(run(llava, inputs, HfPromptLookup(), **options)) == ["identical"] * 2


def test_as_a_custom_method_it_says_what_to_call(llava: Any, inputs: dict[str, Tensor]) -> None:
    with pytest.raises(UsageError, match="its own arguments, not with custom_generate"):
        generate(llava, inputs, HfPromptLookup(), 4)
