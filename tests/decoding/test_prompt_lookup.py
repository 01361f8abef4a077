"""Prompt lookup: what it copies, and that its output is standard decoding's, alone and in a batch."""

from itertools import product
from typing import Any

import pytest
import torch
from covering import covering
from targets import PROMPT, generate, random_llava
from torch import Tensor

from fastvlm_bench.decoding.prompt_lookup import PromptLookup, continuation
from fastvlm_bench.engine.batch_inputs import collate

COUNT = 40


@pytest.mark.parametrize(
    ("text", "longest", "count", "never", "wanted"),
    [
        ([1, 2, 3, 4, 1, 2], 3, 2, (), [3, 4]),
        ([1, 2, 3, 9, 2, 7, 1, 2], 3, 9, (), [3, 9, 2, 7, 1, 2]),  # the longer n-gram counts, though 2 came later
        ([5, 2, 8, 5, 2, 9, 5, 2], 2, 1, (), [9]),  # of several, the latest
        ([1, 2, 3, 4], 3, 4, (), []),
        ([1, 2, 3, 1], 3, 9, (3,), [2]),  # up to a placeholder
        ([1, 3, 2, 1], 1, 9, (3,), []),
        ([2, 2, 2], 3, 2, (), [2]),
        ([1, 2, 1, 2], 3, 0, (), []),
        ([1], 3, 2, (), []),
    ],
)
def test_what_is_copied(text: list[int], longest: int, count: int, never: Any, wanted: list[int]) -> None:
    assert continuation(text, longest, count, never) == wanted


def repetitive(model: Any, seed: int) -> Any:
    """A target that repeats itself at times: only few tokens may be said, some of them with a penalty."""
    allowed = torch.randperm(900, generator=torch.Generator().manual_seed(seed))[:12].tolist()
    return {"suppress_tokens": [t for t in range(model.config.text_config.vocab_size) if t not in allowed]}


@pytest.mark.parametrize(("gamma", "seed"), covering(product((1, 3, 10), (0, 1)), [(3, 0)]))
def test_it_is_standard_decoding(llava: Any, inputs: dict[str, Tensor], gamma: int, seed: int) -> None:
    options = repetitive(llava, seed)
    expected = generate(llava, inputs, count=COUNT, **options)
    method = PromptLookup(gamma=gamma)
    assert generate(llava, inputs, method, COUNT, **options) == expected
    assert method.last is not None
    rounds = method.last.rounds
    assert sum(r.accepted for r in rounds) and any(r.tested > r.accepted for r in rounds)
    assert all(r.accepted <= r.tested <= r.drafted <= gamma for r in rounds)
    eos = expected[9]
    wanted = expected[: expected.index(eos) + 1]
    assert generate(llava, inputs, PromptLookup(gamma=gamma), COUNT, eos_token_id=eos, **options) == wanted


@pytest.mark.slow
def test_rows_copy_what_they_copy_alone(llava: Any) -> None:
    _, tokenizer = random_llava(2)
    singles, options = [], repetitive(llava, 0)
    for seed, prompt in enumerate((PROMPT, "\nWhat is it? ASSISTANT:", PROMPT.replace("image", "large image"))):
        ids = torch.tensor([tokenizer.encode("<s>USER: " + "<image>" * 36 + prompt, add_special_tokens=False)])
        pixels = torch.randn(1, 3, 120, 120, generator=torch.Generator().manual_seed(seed))
        singles.append({"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels})
    alone, rounds = [], []
    for single in singles:
        method = PromptLookup(gamma=4)
        alone.append(generate(llava, single, method, COUNT, **options))
        assert method.last is not None
        rounds.append([(r.drafted, r.accepted) for r in method.last.rounds])
    method = PromptLookup(gamma=4)
    with torch.inference_mode():
        llava.generate(**collate(singles, 0), max_new_tokens=COUNT, do_sample=False, custom_generate=method, **options)
    assert method.trace is not None
    assert [row.token_ids for row in method.trace.rows] == alone
    assert [[(r.drafted, r.accepted) for r in row.rounds] for row in method.trace.rows] == rounds
