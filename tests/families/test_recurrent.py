"""Recurrent state: it is rolled back exactly, without reading weights twice; a wrong state is noticed; refusals."""

from typing import Any

import pytest
import torch
from covering import covering
from families.builders import build, plain, randomise, vary
from families.proof import COUNT, Scripted, decode
from families.recurrent import OTHER_TEXTS, inkling2, llava_over, qwen3_5, qwen4_exp
from transformers import DynamicCache

from fastvlm_bench.checks.batch_check import batch_self_check
from fastvlm_bench.checks.self_check import self_check
from fastvlm_bench.decoding.control import Control
from fastvlm_bench.decoding.early_exit import EarlyExit
from fastvlm_bench.decoding.fastvlm import FastVLM
from fastvlm_bench.drafts.heads import new_head
from fastvlm_bench.drafts.imitation_head import Draft
from fastvlm_bench.engine import recurrent_state
from fastvlm_bench.engine.measure import cache_bytes
from fastvlm_bench.engine.recurrent_state import RestorableLayer, make_restorable, undoable
from fastvlm_bench.engine.session import Session
from fastvlm_bench.errors import UsageError
from fastvlm_bench.machine.clock import Clock
from fastvlm_bench.models.layers import decoder_layers

FAMILIES = ["qwen3_5", *(pytest.param(n, marks=pytest.mark.slow) for n in ("nemotron_h_omni", "glm5_next"))]
Family = tuple[Any, dict[str, Any], list[int]]


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> Family:
    return build(request.param)


def test_identity_in_short(family: Family) -> None:
    """The part of `test_families.py` (all exits, heads and ends) that is fast enough for each commit."""
    model, inputs, expected = family
    for exit_layer, gamma in ((1, 6), (2, 3), (4, 2)):
        method = Scripted(expected, exit_layer, gamma=gamma)
        assert decode(model, inputs, method) == expected
        assert sum(r.accepted for r in method.last.rounds) and sum(r.tested > r.accepted for r in method.last.rounds)
    ended = plain(model, inputs, COUNT, eos_token_id=expected[9])
    assert decode(model, inputs, Scripted(expected, 3, gamma=6), eos_token_id=expected[9]) == ended


class Passes:
    """A `custom_generate` that makes passes of `lengths` tokens after the prompt, and rolls each back by `rejected`.

    Only the tokens that are kept go into the ids, so `states` must be what these tokens alone leave in every layer.
    """

    def __init__(self, lengths: list[int], rejected: list[int]) -> None:
        self.lengths, self.rejected = lengths, rejected
        self.states: list[torch.Tensor] = []

    def __call__(self, model: Any, input_ids: torch.Tensor, **prepared: Any) -> torch.Tensor:
        session = Session(model, input_ids, clock=Clock(), **prepared)
        session.prefill()
        session.record_past()
        with undoable(decoder_layers(model)):
            for length, rejected in zip(self.lengths, self.rejected, strict=True):
                place = session.length - session.prompt_length
                ahead = [(7 * (place + i)) % 90 + 3 for i in range(length - 1)]
                kwargs = dict(session.kwargs)
                if length > 1:
                    session.advance_kwargs(Output(session.cache), kwargs, length - 1)
                outputs = session.forward(length, [ahead], kwargs)
                kept = length - rejected
                session.roll_back(rejected)
                session.emit([[(7 * (place + i)) % 90 + 3 for i in range(kept)]])
                session.advance_kwargs(outputs, session.kwargs, kept)
        for layer in session.cache.layers:
            for part in (getattr(layer, "conv_states", {}), getattr(layer, "recurrent_states", {})):
                self.states += [state for state in part.values() if state is not None]
        return session.sequences


class Output(dict[str, Any]):
    """As much of a model's output as `transformers` reads when it counts the tokens of a pass."""

    def __init__(self, cache: Any) -> None:
        super().__init__(past_key_values=cache)
        self.past_key_values = cache


def states_after(model: Any, inputs: dict[str, Any], lengths: list[int], rejected: list[int]) -> list[torch.Tensor]:
    method = Passes(lengths, rejected)
    with torch.inference_mode():
        model.generate(**inputs, max_new_tokens=40, min_new_tokens=40, do_sample=False, custom_generate=method)
    return method.states


def test_rolled_back_is_never_drafted(family: Family) -> None:
    """Passes of one and of several tokens, kept in whole, in part or not at all, leave the states of what was kept."""
    model, inputs, _ = family
    wanted = states_after(model, inputs, [1] * 9, [0] * 9)
    found = states_after(model, inputs, [5, 1, 4, 1, 6], [2, 0, 4, 1, 1])
    assert len(wanted) == len(found) >= 4
    for mine, own in zip(found, wanted, strict=True):
        assert mine.shape == own.shape and (mine - own).abs().max() < 1e-4 * own.abs().max()
    other = states_after(model, inputs, [1] * 8, [0] * 8)
    assert any((mine - own).abs().max() > 1e-2 * own.abs().max() for mine, own in zip(other, wanted, strict=True))


def test_weights_are_not_read_again(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """A replay runs the recurrence alone; the layer's linear maps return what they computed before."""
    model, inputs, _ = family
    calls: list[torch.Size] = []
    linear = torch.nn.functional.linear

    def counting(states: torch.Tensor, *args: Any) -> torch.Tensor:
        calls.append(states.shape)
        return linear(states, *args)

    monkeypatch.setattr(torch.nn.functional, "linear", counting)
    states_after(model, inputs, [4], [0])
    whole = len(calls)
    calls.clear()
    states_after(model, inputs, [4], [2])
    assert len(calls) == whole > 0


MUTANTS = ("nothing restored", "nothing replayed", "all replayed")


@pytest.mark.parametrize("mutant", covering(MUTANTS, MUTANTS[:1]))
def test_a_state_left_wrong_shows(family: Family, mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The self-check and the identity tests are not blind: they notice each fault in the rollback."""
    model, inputs, expected = family
    if mutant == "nothing restored":
        monkeypatch.setattr(RestorableLayer, "crop", lambda self, count: setattr(self, "passes", []))
        with pytest.raises(UsageError, match="verification differs from a full pass by .*; use --method standard"):
            self_check(model, inputs, 2)
    else:
        crop = RestorableLayer.crop

        def wrong(self: RestorableLayer, count: int) -> None:
            if recurrent_state.recurs(self) and count < 0:
                for index, one in enumerate(self.passes or []):
                    replay = (lambda _: None) if mutant == "nothing replayed" else _whole(one)
                    self.passes[index] = recurrent_state.Pass(one.tokens, one.before, replay)
            crop(self, count)

        monkeypatch.setattr(RestorableLayer, "crop", wrong)
    assert decode(model, inputs, Scripted(expected, 2, gamma=6)) != expected


def _whole(one: recurrent_state.Pass) -> Any:
    return lambda _: one.replay(one.tokens)


@pytest.mark.slow  # in the default run, a draft of a recurrent model is verified
def test_other_arms(family: Family) -> None:
    model, inputs, expected = family
    for gamma in (0, 3):
        assert decode(model, inputs, Control(gamma=gamma)) == expected
    head = new_head("attention", model, 2)
    alone = decode(model, inputs, EarlyExit(Draft(2, head)))
    assert len(alone) == COUNT and alone != expected  # not lossless: an untrained head


@pytest.mark.slow
def test_a_head_that_starts_within_the_convolution(family: Family) -> None:
    """A prompt shorter than the convolution's kernel: the head's own states are padded as the target's are."""
    model, inputs, _ = family
    short = {"input_ids": torch.tensor([[1, 11]]), "attention_mask": torch.ones(1, 2, dtype=torch.long)}
    expected = plain(model, short, COUNT)
    for exit_layer in (1, 2):  # a head that attends, and one that recurs
        draft = Draft(exit_layer, new_head("attention", model, exit_layer))
        assert decode(model, short, FastVLM(draft, gamma=3)) == expected


def test_the_model_is_left_as_it_was(family: Family) -> None:
    model, inputs, expected = family
    assert decode(model, inputs, Scripted(expected, 2, gamma=3)) == expected
    assert not any("forward" in vars(module) for module in model.modules())
    assert plain(model, inputs, COUNT) == expected


def test_batches_are_refused_in_one_line() -> None:
    model, inputs = qwen3_5()
    randomise(model, 0)
    with pytest.raises(UsageError, match="state, which cannot be moved row by row; use --batch-size 1") as e:
        batch_self_check(model, [inputs, inputs], Draft(2, None))
    assert "\n" not in str(e.value)


def test_state_outside_the_recurrence_is_refused() -> None:
    model, inputs = qwen4_exp()
    randomise(model, 0)
    with pytest.raises(UsageError, match="state that cannot be rolled back.*use --method standard") as caught:
        self_check(model, inputs, 2)
    assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="cannot be rolled back: the model can be decoded by --method standard"):
        decode(model, inputs, FastVLM(Draft(2, None), gamma=2))  # also without a self-check before it


def test_attention_over_earlier_layers_is_refused_by_the_measured_difference() -> None:
    """Inkling 2 keeps sums of earlier layers beside the states: an exit after the first sum would lose them."""
    model, inputs = inkling2()
    randomise(model, 0)
    assert self_check(model, inputs, 1).difference < 1e-4
    with pytest.raises(UsageError, match="differs from a full pass by .* at exit 3; use --method standard"):
        self_check(model, inputs, 3)


def test_what_was_not_kept_is_not_guessed() -> None:
    model, inputs = qwen3_5()
    randomise(model, 0)
    cache = DynamicCache(config=model.config)
    make_restorable(cache)
    model(**inputs, past_key_values=cache)
    with pytest.raises(RuntimeError, match="from before the last rollback is not kept"):
        cache.layers[0].crop(-1)
    cache.layers[0].crop(0)


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHER_TEXTS)
def test_any_model_over_a_recurrent_text_model(name: str) -> None:
    """LLaVA over each of these text models decodes exactly or is refused. It never decodes wrongly."""
    torch.manual_seed(0)
    model, inputs = llava_over(name)
    expected = vary(model, inputs, COUNT)
    assert len(set(expected)) >= 8
    for exit_layer in (1, 3):
        if reason := REFUSED.get(name):
            with pytest.raises(UsageError, match=f"{reason}.*use --method standard"):
                self_check(model, inputs, exit_layer)
            continue
        assert self_check(model, inputs, exit_layer).difference < 1e-4
        for gamma in (2, 6):
            assert decode(model, inputs, Scripted(expected, exit_layer, gamma=gamma)) == expected


REFUSED = {"jamba": "differs from a full pass", "falcon_h1": "state that cannot be rolled back"}
"""Mamba 1 starts each longer pass from nothing in transformers; Falcon-H1's layers attend and recur at once."""


def test_memory_counts_states_once() -> None:
    """By hand: three layers of 4 heads of 8 x 8, and 4 columns of 2 * (2 * 8) + 4 * 8 channels, in float32."""
    model, inputs = qwen3_5()
    cache = DynamicCache(config=model.config)
    model(**inputs, past_key_values=cache)
    tokens = inputs["input_ids"].shape[1]
    attention = 2 * 2 * (2 * 12 * tokens) * 4  # two layers, keys and values, two heads of 12
    assert cache_bytes(cache) == 3 * (4 * 8 * 8 + 4 * 64) * 4 + attention
