"""SWIFT improves its set while it decodes, within its share of the work, the same way each time; `reset` forgets."""

from typing import Any

import pytest
import torch
from targets import generate, muted_llava
from through_runner import run
from torch import Tensor

import fastvlm_bench.decoding.swift as swift_module
from fastvlm_bench.decoding.swift import WINDOW, Learning, Swift
from fastvlm_bench.drafters.skip_drafting import spread
from fastvlm_bench.drafters.skip_proposals import Proposals
from fastvlm_bench.drafts.skip_set import SkipSet

IDLE = (3, 4, 5, 6)
"""The layers of the target that add nothing: skipping them is free."""


@pytest.fixture(scope="module")
def target() -> Any:
    return muted_llava(8, 0.0, IDLE)[0]


def pictures(inputs: dict[str, Tensor], count: int) -> list[dict[str, Tensor]]:
    return [
        {**inputs, "pixel_values": torch.randn(1, 3, 120, 120, generator=torch.Generator().manual_seed(seed))}
        for seed in range(count)
    ]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials are judged after fewer tokens, so that a few short answers are enough."""
    monkeypatch.setattr(swift_module, "WINDOW", 12)


def alpha(method: Swift) -> float:
    assert method.last is not None
    return sum(r.accepted for r in method.last.rounds) / max(sum(r.tested for r in method.last.rounds), 1)


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_it_finds_a_better_set_and_keeps_it(target: Any, inputs: dict[str, Tensor]) -> None:
    method, found = Swift(gamma=4, skip=0.25, share=0.9), list[float]()
    for one in pictures(inputs, 6):
        generate(target, one, method, 24)
        found.append(alpha(method))
    known, idle = method.known, frozenset(IDLE)
    first = known.proposals.set_of(known.proposals.uniform(known.count))
    best = known.proposals.set_of(known.best)
    assert len(best) == len(first) == known.count == 4
    free = [len(s.attention & idle) + len(s.mlp & idle) for s in (first, best)]
    assert free[1] > free[0], "more of what is skipped must be idle than at first"
    assert sum(found[-2:]) > sum(found[:2])
    assert known.spent <= method.share * known.work
    assert known.trials > 3


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_it_is_the_same_each_time_and_reset_forgets(target: Any, inputs: dict[str, Tensor]) -> None:
    def story(method: Swift) -> list[Any]:
        told = []
        for one in pictures(inputs, 2):
            generate(target, one, method, 20)
            assert method.last is not None
            told.append((method.known.best, [(r.drafted, r.accepted) for r in method.last.rounds]))
        return told

    method = Swift(gamma=4, skip=0.25, share=0.9, seed=1)
    first = story(method)
    assert story(method) != first, "it remembers"
    method.reset()
    assert method.learning is None
    assert story(method) == first
    assert story(Swift(gamma=4, skip=0.25, share=0.9, seed=2)) != first


@pytest.mark.slow  # a corner: a share of nothing
def test_with_no_share_it_tries_nothing(target: Any, inputs: dict[str, Tensor]) -> None:
    method = Swift(gamma=4, skip=0.25, share=0.0)
    generate(target, inputs, method, 24)
    assert method.known.trials == method.known.spent == 0


def test_another_model_begins_anew(target: Any, inputs: dict[str, Tensor]) -> None:
    method = Swift(gamma=4, skip=0.25, share=0.6)
    generate(target, inputs, method, 8)
    other = muted_llava(6)[0]
    assert generate(other, inputs, method, 16) == generate(other, inputs, count=16)
    assert len(method.known.proposals.units) == 2 * 4


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_the_runner_lets_it_forget_what_the_warm_up_taught(target: Any, inputs: dict[str, Tensor]) -> None:
    def rounds(method: Swift) -> list[Any]:
        return [line["rounds"] for line in run(target, inputs, method) if line["method"] == "fastvlm"]

    def counts(told: list[Any]) -> list[Any]:
        return [[tuple(done[:4]) for done in one] for one in told]

    fresh, warm = Swift(gamma=4, skip=0.25, share=0.9), Swift(gamma=4, skip=0.25, share=0.9)
    for one in pictures(inputs, 4):
        generate(target, one, warm, 20)
    assert warm.known.best != warm.known.proposals.uniform(warm.known.count)
    assert counts(rounds(warm)) == counts(rounds(fresh))


UNITS = [SkipSet(attention=frozenset([i])) if half == 0 else SkipSet(mlp=frozenset([i]))
         for i in range(1, 7) for half in (0, 1)]  # fmt: skip


def learning(**changes: Any) -> Learning:
    return Learning(Proposals(UNITS, 0), 4, frozenset(range(4)), **changes)


def test_a_trial_wins_only_with_more_tokens_over_a_whole_window() -> None:
    for right, wins in ((WINDOW // 2 + 1, True), (WINDOW // 2, False)):
        told = learning()
        trial = told.next_trial()
        assert told.next_trial() == trial, "it is on trial until it is judged"
        told.tell(right - 1, WINDOW // 2, WINDOW - 1)
        assert told.trial == trial
        told.tell(1, 0, 1)
        assert told.trial is None and (told.best == trial) == wins


def test_a_hopeless_trial_ends_early() -> None:
    told = learning()
    told.next_trial()
    told.tell(0, 4, 5)
    assert told.trial is None and told.best == frozenset(range(4)) and not told.finished


def test_it_is_finished_when_the_set_is_good_enough() -> None:
    told = learning()
    told.next_trial()
    told.tell(WINDOW - 1, WINDOW, WINDOW)
    assert told.finished


def test_proposals_learn_which_units_cost_nothing() -> None:
    """Skipping an even unit is free, an odd one costs: the model proposes mostly even ones, chance does not."""
    made = Proposals(UNITS, 3)
    for _ in range(40):
        chosen = made.fresh(6)
        assert len(chosen) == 6
        made.learn(chosen, 1.0 - 0.1 * sum(i % 2 for i in chosen))
    assert (
        sum(i % 2 for _ in range(10) for i in made.modelled(6))
        < 10
        < sum(i % 2 for _ in range(10) for i in made.fresh(6))
    )
    swapped = made.near(frozenset(range(6)))
    assert len(swapped) == 6 and 4 <= len(swapped & frozenset(range(6))) < 6


def test_spread() -> None:
    layers = [SkipSet.of_layers([i]) for i in range(1, 9)]
    for units, count in ((UNITS, 4), (UNITS, 5), (layers, 6), (UNITS, 12)):
        skipped = SkipSet.union(units[i] for i in spread(units, count))
        assert len(skipped) == count
    four = SkipSet.union(UNITS[i] for i in spread(UNITS, 4))
    assert four.attention == four.mlp and max(four.whole) - min(four.whole) >= 2
