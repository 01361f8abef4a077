"""Each family in a batch: every row decodes as it does alone, though rows differ in acceptance, padding and end."""

import random
from typing import Any

import pytest
import torch
from covering import covering
from families.builders import FAMILIES, build, plain
from families.shapes import LAYERS, VOCABULARY
from torch import Tensor

from fastvlm_bench.checks.batch_check import batch_self_check
from fastvlm_bench.decoding.fastvlm import FastVLM
from fastvlm_bench.decoding.standard import Standard
from fastvlm_bench.drafts.heads import new_head
from fastvlm_bench.drafts.imitation_head import Draft
from fastvlm_bench.engine.batch_inputs import collate
from fastvlm_bench.engine.session import Session
from fastvlm_bench.errors import UsageError

FAST = ("qwen2_5_vl",)
"""Positions of three axes; `decoding` has batches of a plain decoder, and of one with sliding windows."""
COUNT = 20
REFUSED = {
    **dict.fromkeys(
        ("lfm2_vl", "lfm3_vl", "inkling", "qwen3_5", "qwen3_5_moe", "minicpmv4_6", "nemotron_h_omni", "glm5_next"),
        "convolutions and recurrent layers keep states that cannot be moved row by row",
    ),
    "kosmos2": "positions count the padding as soon as there is a cache",
    "florence2": "the encoder's positions count the padding",
}
"""Why a family is not decoded in batches: the batch's self-check says so before anything is measured."""
NO_ATTENTION_HEAD = {
    "mllama": "the layer after the exit looks at the image only",
}
WORDS = ([], [44, 55, 66], [77], [12, 13, 14, 15, 16, 17])


class Scripted(FastVLM):
    """Drafts each row's own tokens, wrong at a share of the places, so that rows accept different numbers of them."""

    def __init__(self, expected: list[list[int]], exit_layer: int, spoiled: float = 0.3, **options: Any) -> None:
        super().__init__(Draft(exit_layer, None), **options)
        self.expected, self.spoiled, self.random = expected, spoiled, random.Random(0)

    def _draft(self, session: Session, kwargs: Any) -> Any:
        def choose(logits: Any, ahead: Any, first: int) -> list[list[int]]:
            tokens = []
            for row in session.rows:
                expected, place = self.expected[row.place], len(row.tokens) + first
                token = expected[place] if place < len(expected) else 5
                tokens.append([(token + 7) % (VOCABULARY - 20) if self.random.random() < self.spoiled else token])
            return tokens

        session.choose = choose  # type: ignore[method-assign, assignment]
        try:
            return super()._draft(session, kwargs)
        finally:
            del session.choose


def variants(inputs: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    """The sample and others like it: another image, and words before the last, so that lengths differ."""
    made = []
    for number, words in enumerate(WORDS):
        ids = inputs["input_ids"]
        longer = {}
        for key, value in inputs.items():
            if value.ndim >= 2 and value.shape[1] == ids.shape[1] and key != "pixel_values":
                new = (
                    torch.tensor([words]).long()
                    if key == "input_ids"
                    else value[:, -1:].expand(-1, len(words), *value.shape[2:])
                )
                longer[key] = torch.cat([value[:, :-1], new.to(value.dtype), value[:, -1:]], dim=1)
            elif key == "pixel_values":
                noise = torch.randn(value.shape, generator=torch.Generator().manual_seed(number))
                longer[key] = value + number * 0.5 * noise
            else:
                longer[key] = value
        made.append(longer)
    return made


def decode(model: Any, inputs: dict[str, Any], method: Any, count: int = COUNT, **options: Any) -> list[list[int]]:
    with torch.inference_mode():
        model.generate(**inputs, max_new_tokens=count, do_sample=False, custom_generate=method, **options)
    return [row.token_ids for row in method.trace.rows]


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) for n in REFUSED])
def test_refused_in_one_line(name: str) -> None:
    model, inputs, _ = build(name)
    with pytest.raises(UsageError, match="use --batch-size 1") as caught:
        batch_self_check(model, variants(inputs)[:2], Draft(2, None))
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module", params=covering(FAMILIES, FAST))
def family(request: pytest.FixtureRequest) -> Any:
    if request.param in REFUSED:
        pytest.skip(REFUSED[request.param])
    model, inputs, _ = build(request.param)
    singles = variants(inputs)
    expected = [plain(model, single, COUNT) for single in singles]
    assert len({tuple(tokens) for tokens in expected}) > 1, "the rows must differ"
    return model, collate(singles, 0), singles, expected


def test_rows_are_what_they_are_alone(family: Any) -> None:
    model, batch, _, expected = family
    assert decode(model, batch, Standard()) == expected
    accepted = rejected = 0
    for exit_layer in (1, 2, LAYERS - 1):
        for gamma in (1, 4):
            method = Scripted(expected, exit_layer, gamma=gamma)
            assert decode(model, batch, method) == expected, f"exit {exit_layer}, gamma {gamma}"
            rounds = [r for row in method.trace.rows for r in row.rounds]
            accepted += sum(r.accepted for r in rounds)
            rejected += sum(r.tested - r.accepted for r in rounds)
    assert accepted > 50 and rejected > 20


@pytest.mark.slow  # in the default run, rows of a plain decoder do
def test_rows_end_at_different_times(family: Any) -> None:
    model, batch, _, expected = family

    def cut(eos: list[int]) -> list[list[int]]:
        ends = [next((i + 1 for i, token in enumerate(row) if token in eos), COUNT) for row in expected]
        return [row[:end] for row, end in zip(expected, ends, strict=True)]

    def lengths(eos: list[int]) -> int:
        return len({len(row) for row in cut(eos)})

    tokens = sorted({token for row in expected for token in row})
    one = max(tokens, key=lambda token: lengths([token]))
    two = [one, max(tokens, key=lambda token: lengths([one, token]))]
    assert lengths(two) > 2, "the rows must end at different times"
    for eos in ([2, one], [2, *two], [2, expected[1][0]]):  # 2 is the models' own
        assert decode(model, batch, Standard(), eos_token_id=eos) == cut(eos)
        for spoiled in (0.0, 0.4):
            assert decode(model, batch, Scripted(expected, 2, spoiled, gamma=5), eos_token_id=eos) == cut(eos)


@pytest.mark.slow
def test_self_check(family: Any) -> None:
    model, _, singles, _ = family
    assert batch_self_check(model, singles, None) < 1e-4
    for exit_layer in (1, LAYERS - 1):
        assert batch_self_check(model, singles, Draft(exit_layer, None)) < 1e-4


@pytest.mark.slow  # in the default run, a batch of a plain decoder has heads
def test_heads(family: Any, request: pytest.FixtureRequest) -> None:
    model, batch, _, expected = family
    limited = request.node.callspec.params["family"] in NO_ATTENTION_HEAD
    for kind in ("mlp",) if limited else ("mlp", "attention"):
        draft = Draft(3, new_head(kind, model, 3))
        assert decode(model, batch, FastVLM(draft, gamma=3)) == expected
