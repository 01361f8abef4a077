"""Greedy output of every lossless method equals transformers' own, token by token: exits, γ, EOS, stops."""

from collections.abc import Callable
from functools import cache
from itertools import product
from typing import Any

import pytest
import torch
from covering import covering
from targets import LAYERS, OracleHead, oracle_draft
from targets import generate as generate_any
from transformers import LogitsProcessorList, RepetitionPenaltyLogitsProcessor, StoppingCriteria, StoppingCriteriaList

from fastvlm_bench.decoding.fastvlm import FastVLM
from fastvlm_bench.decoding.hf_generate import HfGenerate
from fastvlm_bench.decoding.layerskip import LayerSkip
from fastvlm_bench.decoding.standard import Standard
from fastvlm_bench.drafts.heads import HEADS, new_head
from fastvlm_bench.drafts.imitation_head import Draft
from fastvlm_bench.drafts.reduced_vocabulary import ReducedOutput, most_frequent
from fastvlm_bench.errors import UsageError

EXITS = range(1, LAYERS)
COUNT = 26


def generate(model: Any, inputs: dict[str, Any], method: Any = None, count: int = COUNT, **options: Any) -> list[int]:
    return generate_any(model, inputs, method, count, **options)


@pytest.fixture(scope="module")
def expected(llava: Any, inputs: dict[str, Any]) -> list[int]:
    tokens = generate(llava, inputs)
    assert len(set(tokens)) >= COUNT // 2, "the random target repeats itself: identity would prove little"
    return tokens


@pytest.mark.parametrize(
    ("exit_layer", "gamma"),
    covering(product(EXITS, (1, 2, 3, 5, 8, 50)), [(1, 1), (4, 5)]),
)
def test_oracle_draft(llava: Any, inputs: dict[str, Any], expected: list[int], exit_layer: int, gamma: int) -> None:
    method = FastVLM(oracle_draft(llava, exit_layer), gamma=gamma)
    assert generate(llava, inputs, method) == expected
    assert method.last is not None and method.last.token_ids == expected
    rounds = method.last.rounds
    assert 1 + sum(r.emitted for r in rounds) == len(expected)
    assert all(r.accepted <= r.tested <= r.drafted <= gamma for r in rounds)
    assert all(r.emitted == r.accepted + 1 for r in rounds)  # no EOS here: each round gives its correction or bonus
    accepted, rejected = sum(r.accepted for r in rounds), sum(r.tested - r.accepted for r in rounds)
    assert accepted > 5 and rejected > 0, "the draft must meet acceptances and rejections"


EXITS_OF_HEADS = list(product(EXITS, (*HEADS, None)))
FEW_HEADS = [(2, "eagle"), (3, "attention"), (4, None)]


@pytest.mark.parametrize(("exit_layer", "head"), covering(EXITS_OF_HEADS, FEW_HEADS))
def test_untrained_heads(
    llava: Any, inputs: dict[str, Any], expected: list[int], exit_layer: int, head: str | None
) -> None:
    options = {"depth": min(2, LAYERS - exit_layer)} if head == "twig" else {}
    draft = Draft(exit_layer, new_head(head, llava, exit_layer, options) if head else None)
    assert generate(llava, inputs, FastVLM(draft, gamma=4), 16) == expected[:16]


@pytest.mark.parametrize("exit_layer", covering(EXITS, [LAYERS - 1]))
def test_layerskip(llava: Any, inputs: dict[str, Any], expected: list[int], exit_layer: int) -> None:
    assert generate(llava, inputs, LayerSkip(exit_layer, gamma=4)) == expected


@pytest.mark.parametrize("kept", covering([3, 12], [12]))
def test_reduced_vocabulary(llava: Any, inputs: dict[str, Any], expected: list[int], kept: int) -> None:
    """A token that the draft's vocabulary lacks is never drafted, but the target still emits it where it belongs."""
    output = llava.get_output_embeddings()
    ids = most_frequent([expected], kept, always=[2])
    draft = oracle_draft(llava, 2, spoiled=0.0)
    draft.output = ReducedOutput(output, ids)
    method = FastVLM(draft, gamma=4)
    assert generate(llava, inputs, method) == expected
    assert method.last is not None
    left_out = [t for t in expected[1:] if t not in ids]
    assert left_out, "the output must need a token that was left out"
    rounds = method.last.rounds
    assert sum(r.accepted for r in rounds) > 0
    # With a perfect head, every rejection is at a token that is left out. Such a token may also be a bonus token.
    assert 0 < sum(r.tested - r.accepted for r in rounds) <= len(left_out)
    assert output.forward.__func__ is type(output).forward, "the gate restores the LM head"


def test_a_head_that_recurs_sees_the_state_before(llava: Any, inputs: dict[str, Any], expected: list[int]) -> None:
    """`previous` is the target's own last state for the first draft of a round, and then the head's output."""
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    class Watching(OracleHead):
        recurs = True

        def forward(self, states: torch.Tensor, *args: Any, previous: Any = None, **kwargs: Any) -> torch.Tensor:
            made = super().forward(states, *args, **kwargs)
            seen.append((previous, made))
            return made

    method = FastVLM(Draft(2, Watching(llava, 2, 0.0)), gamma=4)
    assert generate(llava, inputs, method) == expected
    prompt, rest = seen[0], seen[1:]
    torch.testing.assert_close(prompt[0][:, 1:], prompt[1][:, :-1])
    assert not prompt[0][:, 0].any()
    made = [prompt[1][:, -1:], *(m for _, m in rest)]
    # The head is the target's own upper part, so its output is the target's last state, within and across rounds.
    for (previous, _), before in zip(rest, made, strict=False):
        torch.testing.assert_close(previous, before, atol=1e-4, rtol=1e-3)


def test_perfect_draft_is_always_accepted(llava: Any, inputs: dict[str, Any], expected: list[int]) -> None:
    method = FastVLM(oracle_draft(llava, 2, spoiled=0.0), gamma=6)
    assert generate(llava, inputs, method) == expected
    assert method.last is not None
    assert all(r.accepted == r.drafted for r in method.last.rounds)
    assert len(method.last.rounds) == -(-(len(expected) - 1) // 7)  # γ + 1 tokens a round


@pytest.mark.parametrize("stop_below", covering([0.001, 0.05, 0.5, 0.99], [0.05]))
def test_confidence_stop(llava: Any, inputs: dict[str, Any], expected: list[int], stop_below: float) -> None:
    method = FastVLM(oracle_draft(llava, 3), gamma=8, stop_below=stop_below)
    assert generate(llava, inputs, method) == expected


PLACES = range(1, 14)


@pytest.fixture(scope="module")
def ended(llava: Any, inputs: dict[str, Any], expected: list[int]) -> Callable[[int], list[int]]:
    """What transformers' own loop gives where the token at a place is declared to be EOS."""
    return cache(lambda place: generate(llava, inputs, eos_token_id=expected[place]))


GAMMAS = (1, 4, 12)
FEW = (1, 5, 12)
"""Places of EOS in the default run: the first token after the prefill, within a draft and at the end; each γ once."""


@pytest.mark.parametrize(
    ("place", "gamma"), covering(product(PLACES, GAMMAS), [(place, GAMMAS[place % len(GAMMAS)]) for place in FEW])
)
def test_eos_at_each_place(
    llava: Any, inputs: dict[str, Any], expected: list[int], ended: Callable[[int], list[int]], place: int, gamma: int
) -> None:
    """Whatever token is declared to be EOS, inside or outside a draft, the output ends with it as standard does."""
    eos, wanted = expected[place], ended(place)
    for spoiled in (0.0, 0.4):
        method = FastVLM(oracle_draft(llava, 2, spoiled), gamma=gamma)
        assert generate(llava, inputs, method, eos_token_id=eos) == wanted
        assert method.last is not None and method.last.stop == "eos"
        assert method.last.token_ids == wanted and wanted.count(eos) == 1


@pytest.mark.parametrize("place", covering(PLACES, FEW))
def test_eos_at_each_place_of_standard(
    llava: Any, inputs: dict[str, Any], expected: list[int], ended: Callable[[int], list[int]], place: int
) -> None:
    standard = Standard()
    assert generate(llava, inputs, standard, eos_token_id=expected[place]) == ended(place)
    assert standard.last is not None and standard.last.stop == "eos"


@pytest.mark.parametrize("count", covering([1, 2, 3, 7, 8], [1, 2, 8]))
def test_token_limit(llava: Any, inputs: dict[str, Any], expected: list[int], count: int) -> None:
    for method in (FastVLM(oracle_draft(llava, 2, 0.0), gamma=5), Standard()):
        assert generate(llava, inputs, method, count) == expected[:count]
        assert method.last is not None and method.last.stop == "length"


def test_standard_and_transformers_loop(llava: Any, inputs: dict[str, Any], expected: list[int]) -> None:
    for method in (Standard(), HfGenerate()):
        assert generate(llava, inputs, method) == expected
        assert method.last is not None and method.last.token_ids == expected
        assert len(method.last.rounds) == len(expected) - 1


def test_logits_processors_see_the_right_prefix(llava: Any, inputs: dict[str, Any]) -> None:
    def processors() -> LogitsProcessorList:
        return LogitsProcessorList([RepetitionPenaltyLogitsProcessor(1.5)])

    wanted = generate(llava, inputs, logits_processor=processors())
    assert wanted != generate(llava, inputs), "the processor must matter here"
    method = FastVLM(oracle_draft(llava, 2), gamma=5)
    assert generate(llava, inputs, method, logits_processor=processors()) == wanted


def test_users_stopping_criteria(llava: Any, inputs: dict[str, Any], expected: list[int]) -> None:
    class StopAt(StoppingCriteria):  # type: ignore[misc]
        def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
            return torch.tensor([input_ids[0, -1].item() == expected[11]])

    method = FastVLM(oracle_draft(llava, 2, 0.0), gamma=9)
    wanted = generate(llava, inputs, stopping_criteria=StoppingCriteriaList([StopAt()]))
    assert generate(llava, inputs, method, stopping_criteria=StoppingCriteriaList([StopAt()])) == wanted


def test_generations_leave_no_trace(llava: Any, inputs: dict[str, Any], expected: list[int]) -> None:
    """Neither another image nor another method in between changes an output, and the model is left as it was."""
    other = {**inputs, "pixel_values": -inputs["pixel_values"]}
    method = FastVLM(oracle_draft(llava, 2), gamma=5)
    other_expected = generate(llava, other)
    assert other_expected != expected
    for given, wanted in ((other, other_expected), (inputs, expected), (other, other_expected)):
        assert generate(llava, given, method) == wanted
    assert not any("forward" in layer.__dict__ for layer in llava.model.language_model.layers)


def test_refuses_what_it_cannot_do(llava: Any, inputs: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="num_beams=1"):
        llava.generate(**inputs, max_new_tokens=3, custom_generate=LayerSkip(2), num_beams=3)
    two = {key: torch.cat([value, value]) for key, value in inputs.items()}
    with pytest.raises(UsageError, match="a batch is decoded greedily"):
        llava.generate(**two, max_new_tokens=3, do_sample=True, custom_generate=LayerSkip(2))
