"""The simulated rounds are those of the loop, and their price is worked out by hand."""

import random
from itertools import product
from typing import Any

import pytest
import torch
from covering import covering
from targets import generate, oracle_draft

from fastvlm_bench.analysis.prediction import PassCosts
from fastvlm_bench.decoding.fastvlm import FastVLM
from fastvlm_bench.drafts.imitation_head import Draft
from fastvlm_bench.training.prediction import GAMMAS, STOPS, Advice, Checked, advise, simulate
from fastvlm_bench.training.refine import BOOST, rejection_weights
from fastvlm_bench.training.refine_run import corrected

COUNT = 24


class Fixed:
    """Guesses in the place of a head: at each place of the text the target's own token or, if not `right`, another."""

    def __init__(self, text: list[int], right: list[bool], vocabulary: int, eos: int) -> None:
        self.text, self.right, self.vocabulary, self.eos = text, right, vocabulary, eos

    def guess(self, place: int) -> int:
        """The drafted token at `place` of the answer; beyond the text, and after a wrong one, any that is not EOS."""
        if place < len(self.text) and self.right[place - 1]:
            return self.text[place]
        own = self.text[place] if place < len(self.text) else 5
        return next(t for t in range(own + 1, own + 4) if t % self.vocabulary != self.eos) % self.vocabulary


class Scripted(FastVLM):
    """The real loop, which drafts the guesses of `Fixed`."""

    def __init__(self, fixed: Fixed, **options: Any) -> None:
        super().__init__(Draft(2, None), **options)
        self.fixed = fixed

    def _draft(self, session: Any, kwargs: Any) -> Any:
        said = session.length - session.prompt_length
        session.draft = lambda logits, drafts, *_, **__: drafts.take([[self.fixed.guess(said + drafts.count)]])
        try:
            return super()._draft(session, kwargs)
        finally:
            del session.draft


@pytest.mark.parametrize(
    ("share", "ends_with_eos"),
    covering(product((0.3, 0.75, 1.0), (False, True)), [(0.75, True)]),
)
def test_rounds_are_those_of_the_loop(llava: Any, inputs: dict[str, Any], share: float, ends_with_eos: bool) -> None:
    text = generate(llava, inputs, count=COUNT)
    eos = llava.generation_config.eos_token_id
    options = {}
    if ends_with_eos:
        place = next(i for i in range(11, COUNT) if text[i] not in text[:i])
        eos, text = text[place], text[: place + 1]
        options = {"eos_token_id": eos}
    rng = random.Random(1)
    right = [rng.random() < share for _ in text[1:]]
    checked = Checked(right, [1.0] * len(right), ends_with_eos)
    fixed = Fixed(text, right, 500, eos)
    for gamma in (1, 3, 6, 10):
        method = Scripted(fixed, gamma=gamma)
        assert generate(llava, inputs, method, COUNT, **options) == text
        assert method.last is not None
        found, rounds = simulate([checked], gamma, 0.0), method.last.rounds
        mine = (found.rounds, found.drafted, found.tested, found.accepted, found.tokens)
        theirs = (
            len(rounds), *(sum(getattr(r, key) for r in rounds) for key in ("drafted", "tested", "accepted", "emitted"))
        )  # fmt: skip
        assert mine == theirs, f"gamma {gamma}"
        at, rejected, by_place = 0, [], [[0, 0] for _ in range(gamma)]
        for r in rounds:
            rejected += [at + r.accepted] if r.tested > r.accepted else []
            at += r.emitted
            for i in range(r.tested):
                by_place[i] = [by_place[i][0] + (i < r.accepted), by_place[i][1] + 1]
        assert found.rejected == [rejected] and found.by_position == by_place
        assert found.alpha == (theirs[3] / theirs[2] if theirs[2] else 0) and found.tau == theirs[4] / theirs[0]
        for room in (0, 1, 5) if ends_with_eos and gamma in (3, 10) else ():  # EOS at the very limit is never drafted
            assert generate(llava, inputs, method, len(text) + room, **options) == text
            found = simulate([Checked(right, [1.0] * len(right), True, room)], gamma, 0.0)
            last = method.last.rounds
            assert (found.rounds, found.drafted, found.accepted) == (
                len(last), sum(r.drafted for r in last), sum(r.accepted for r in last),
            ), f"gamma {gamma}, room {room}"  # fmt: skip
        if gamma == 10:  # the weights of refinement are those that `run --refine` reads off the trace
            (row,) = rejection_weights({"a": [checked]}, ["a"])
            told = [(r.drafted, r.tested, r.accepted, r.emitted) for r in rounds]
            assert row["a"] == corrected(told, len(right))
            assert [i for i, w in enumerate(row["a"]) if w == 1 + BOOST] == rejected


def test_rounds_by_hand() -> None:
    # Right, wrong, right, right, EOS right. γ 2: (r w) -> 2 tokens; (r r) -> the two and EOS from verification.
    text = Checked([True, False, True, True, True], [0.9, 0.2, 0.9, 0.9, 0.4], ended=True)
    found = simulate([text], 2, 0.0)
    assert (found.rounds, found.drafted, found.tested, found.accepted, found.tokens) == (2, 4, 4, 3, 5)
    assert found.passes == 6 and found.verified == {3: 2} and found.by_position == [[2, 2], [1, 2]]
    assert found.alpha == 3 / 4 and found.tau == 5 / 2 and found.alpha_by_position == [1.0, 0.5]
    # γ 3: (r w .) -> 2; (r r EOS) -> 3, and the drafted EOS has not passed the early layers.
    found = simulate([text], 3, 0.0)
    assert (found.rounds, found.drafted, found.accepted, found.passes) == (2, 6, 4, 7)
    assert found.verified == {4: 1, 3: 1}
    # In doubt below 0.5: (r | doubt) -> 2; (r r | doubt) -> 3. Nothing is rejected.
    found = simulate([text], 3, 0.5)
    assert (found.rounds, found.drafted, found.tested, found.accepted, found.tokens) == (2, 3, 3, 3, 5)
    # Cut by the limit, its last token is never drafted: (r w .) (r r |)
    found = simulate([Checked(text.right, text.confidence, ended=False)], 3, 0.0)
    assert (found.rounds, found.drafted, found.accepted, found.passes) == (2, 5, 3, 7)


def test_speedup_by_hand() -> None:
    text = Checked([True] * 6, [1.0] * 6, ended=False)
    # γ 2: (2 + 1) (2 + 1): 6 tokens, 6 passes, two verifications of 3.
    found = simulate([text], 2, 0.0)
    assert found.speedup(PassCosts(1.0, 0.1, [0.5, 0.6, 0.7])) == pytest.approx(6 / (6 * 0.1 + 2 * 0.7))


def test_verification_beyond_what_was_measured() -> None:
    costs = PassCosts(1.0, 0.1, [0.5, 0.6, 0.8])
    assert [costs.verification(k) for k in (1, 3, 4, 6)] == pytest.approx([0.5, 0.8, 1.0, 1.4])
    assert PassCosts(1.0, 0.1, [0.5, 0.4]).verification(5) == 0.4, "noise must not make more positions cheaper"
    assert PassCosts(1.0, 0.1, [0.5]).verification(3) == 0.5


def test_advice_is_the_best_of_the_grid() -> None:
    rng = random.Random(3)
    texts = [
        Checked([rng.random() < 0.8 for _ in range(30)], [rng.random() for _ in range(30)], rng.random() < 0.5)
        for _ in range(6)
    ]
    for costs in (
        PassCosts(1.0, 0.05, [0.9] * 11),
        PassCosts(1.0, 0.5, [0.6, 0.9, 1.2]),
        PassCosts(1.0, 0.1, [0.9, 0.95]),
    ):
        everything = [
            Advice(g, s, o.speedup(costs), o.alpha, o.tau) for g in GAMMAS for s in STOPS
            for o in [simulate(texts, g, s)]
        ]  # fmt: skip
        assert advise(texts, costs) == max(everything, key=lambda a: a.speedup)
    never = advise([Checked([False] * 9, [0.5] * 9, True)], PassCosts(1.0, 0.1, [1.0] * 11))
    assert (never.gamma, never.stop_below, never.alpha) == (2, 0.7, 0.0), "it drafts as little as it can"


def test_nothing_to_simulate() -> None:
    found = simulate([Checked([], [], False)], 4, 0.0)
    assert (found.alpha, found.tau, found.speedup(PassCosts(1.0, 0.1, [1.0]))) == (0.0, 0.0, 0.0)


@pytest.mark.slow
def test_costs_are_measured(target: Any, examples: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastvlm_bench.training import costs as module
    from fastvlm_bench.training.costs import POSITIONS, measure_costs

    monkeypatch.setattr(module, "ATTEMPTS", 2)
    before = {name: id(layer.forward.__func__) for name, layer in enumerate(target.layers)}
    draft = oracle_draft(target.model, 2, spoiled=0.0)
    costs = measure_costs(target, examples[0].inputs(target), examples[0].answer, draft)
    assert len(costs.verify_s) == POSITIONS
    assert all(seconds > 0 for seconds in (costs.standard_s, costs.draft_s, *costs.verify_s))
    assert {name: id(layer.forward.__func__) for name, layer in enumerate(target.layers)} == before
    assert torch.is_grad_enabled()


def test_advice_of_a_trained_draft_drafts_unless_it_never_can() -> None:
    """A draft that does not pay is best where it never drafts; who trained it wants the best setting that drafts."""
    unsure = [Checked([False] * 40, [0.4] * 40, False)]
    costs = PassCosts(1.0, 0.1, [1.0] * 20)
    for texts in (unsure, [Checked([True, False] * 20, [0.4, 0.2] * 20, True)]):
        idle, made = advise(texts, costs), advise(texts, costs, must_draft=True)
        found = simulate(texts, made.gamma, made.stop_below)
        assert found.drafted >= found.rounds / 2 and made.speedup <= idle.speedup
    assert simulate(unsure, idle.gamma, advise(unsure, costs).stop_below).drafted == 0, "or the test shows nothing"
