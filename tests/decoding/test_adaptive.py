"""`adaptive` decodes as the target does, whenever it drafts and wherever it stops; a head takes up what it missed."""

import random
from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest
import torch
from covering import covering
from targets import LAYERS, generate, oracle_draft

from fastvlm_bench.decoding.adaptive import Adaptive
from fastvlm_bench.decoding.fastvlm import FastVLM
from fastvlm_bench.drafts.heads import HEADS, new_head
from fastvlm_bench.drafts.imitation_head import Draft
from fastvlm_bench.engine.layer_gate import Mode
from fastvlm_bench.engine.pacing import Pacing
from fastvlm_bench.errors import UsageError
from fastvlm_bench.machine.clock import FakeClock

EXITS, COUNT = range(1, LAYERS), 26


class Scripted(Pacing):
    """Decides by a generator of its own, so that every order of plain and drafting rounds comes up."""

    def __init__(self, seed: int, plain: float, stops: float = 0.2) -> None:
        super().__init__(32)
        self.random, self.share, self.stops = random.Random(seed), plain, stops

    def drafts(self, before: int) -> bool:
        return self.random.random() >= self.share

    def worth(self, chance: float) -> bool:
        return self.random.random() >= self.stops


class PlainFirst(Pacing):
    """Plain rounds until so many tokens are there, then drafts of every length."""

    def __init__(self, tokens: int) -> None:
        super().__init__(32)
        self.tokens = tokens

    def drafts(self, before: int) -> bool:
        return before >= self.tokens

    def worth(self, chance: float) -> bool:
        return True


def adaptive(draft: Draft, pacing: Pacing, gamma: int = 4) -> Adaptive:
    method = Adaptive(draft, gamma=gamma)
    method.pacing = pacing
    return method


@pytest.fixture(scope="module")
def expected(llava: Any, inputs: dict[str, Any]) -> list[int]:
    tokens = generate(llava, inputs, None, COUNT)
    assert len(set(tokens)) >= COUNT // 2
    return tokens


@pytest.mark.parametrize(("exit_layer", "plain"), covering(product(EXITS, (0.0, 0.3, 0.8, 1.0)), [(1, 0.3), (4, 1.0)]))
def test_identical_in_every_order_of_rounds(
    llava: Any, inputs: dict[str, Any], expected: list[int], exit_layer: int, plain: float
) -> None:
    method = adaptive(oracle_draft(llava, exit_layer), Scripted(exit_layer, plain))
    assert generate(llava, inputs, method, COUNT) == expected
    assert method.last is not None
    rounds = method.last.rounds
    assert 1 + sum(r.emitted for r in rounds) == COUNT
    if plain == 1.0:
        assert all(r.drafted == 0 and r.draft_s == 0 for r in rounds) and len(rounds) == COUNT - 1
    if plain in (0.3, 0.8):
        kinds = {r.drafted > 0 for r in rounds}
        assert kinds == {True, False}


@pytest.mark.parametrize("exit_layer", covering(EXITS, [2]))
def test_a_head_with_kv_takes_up_what_it_missed(
    llava: Any, inputs: dict[str, Any], expected: list[int], exit_layer: int
) -> None:
    """A perfect head is never rejected, after however many plain rounds: so its KV is as if it had read them."""
    method = adaptive(oracle_draft(llava, exit_layer, spoiled=0.0), Scripted(3, 0.5, stops=0.0))
    assert generate(llava, inputs, method, COUNT) == expected
    assert method.last is not None
    drafted, accepted = (sum(getattr(r, name) for r in method.last.rounds) for name in ("drafted", "accepted"))
    assert drafted == accepted > 8 and sum(r.drafted == 0 for r in method.last.rounds) >= 2


@pytest.mark.parametrize("head", covering([*HEADS, None], ["eagle"]))
def test_heads_draft_as_after_a_prefill(
    llava: Any, inputs: dict[str, Any], expected: list[int], head: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The drafts after plain rounds are those of a generation whose prompt has these tokens."""
    torch.manual_seed(5)
    options = {"depth": 2} if head == "twig" else {}
    draft = Draft(2, new_head(head, llava, 2, options) if head else None)
    seen: list[list[int]] = []
    verify = FastVLM._verify

    def watched(self: Any, session: Any, kwargs: Any, drafts: Any) -> Any:
        seen.append(list(drafts.tokens[0]))
        return verify(self, session, kwargs, drafts)

    monkeypatch.setattr(FastVLM, "_verify", watched)
    for tokens in (1, 2, 5):
        seen.clear()
        assert generate(llava, inputs, adaptive(draft, PlainFirst(tokens)), 12) == expected[:12]
        late = seen[0]
        ids = torch.cat([inputs["input_ids"], torch.tensor([expected[: tokens - 1]], dtype=torch.long)], dim=1)
        longer = {**inputs, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
        seen.clear()
        generate(llava, longer, FastVLM(draft, gamma=4), 6)  # its first drafts are looked at
        assert late == seen[0] and len(late) == 4


@pytest.mark.slow  # what is told of rounds without a stop is beside the output
def test_never_stopping_drafts_to_gamma_in_every_round(llava: Any, inputs: dict[str, Any], expected: list[int]) -> None:
    method = adaptive(oracle_draft(llava, 2), Scripted(1, 1.0))
    assert method.stops
    with method.never_stopping():
        assert not method.stops and generate(llava, inputs, method, COUNT) == expected
    assert method.last is not None and all(r.drafted == 4 for r in method.last.rounds[:-2])
    assert method.stops and generate(llava, inputs, method, COUNT) == expected
    assert all(r.drafted == 0 for r in method.last.rounds)


def test_what_was_learnt_is_forgotten_at_reset(llava: Any, inputs: dict[str, Any]) -> None:
    method = Adaptive(oracle_draft(llava, 2))
    learnt = method.pacing
    generate(llava, inputs, method, 8)
    assert method.pacing is learnt
    method.reset()
    assert method.pacing is not learnt
    with pytest.raises(ValueError, match="explore must be at least 2"):
        Adaptive(oracle_draft(llava, 2), explore=1)


def test_a_batch_is_refused(llava: Any, inputs: dict[str, Any]) -> None:
    two = {key: value.expand(2, *value.shape[1:]).clone() for key, value in inputs.items()}
    with pytest.raises(UsageError, match="Adaptive decodes one sequence at a time, and got 2"):
        llava.generate(**two, max_new_tokens=4, do_sample=False, custom_generate=Adaptive(oracle_draft(llava, 2)))


@pytest.fixture
def modes(monkeypatch: pytest.MonkeyPatch, llava: Any) -> Iterator[list[Mode]]:
    """The mode of the gate in each pass of the model."""
    found: list[Mode] = []
    round_ = Adaptive.round

    def watched(self: Any, session: Any) -> Any:
        result = round_(self, session)
        found.append(session.gate.mode)
        return result

    monkeypatch.setattr(Adaptive, "round", watched)
    yield found


def test_short_answers_are_decoded_plainly(llava: Any, inputs: dict[str, Any], modes: list[Mode]) -> None:
    """With a clock in which a drafting round costs more than a plain one, one-token answers soon are not drafted."""
    # Each reading is a second later: a plain pass takes one, a drafting round at least two.
    method: Any = Adaptive(oracle_draft(llava, 2, spoiled=0.0), clock=FakeClock())
    for _ in range(20):
        generate(llava, inputs, method, 2)
    assert len(modes) == 20 and modes[:2] == [Mode.VERIFY] * 2
    assert modes.count(Mode.VERIFY) <= 4 and modes[-1] is Mode.PLAIN
