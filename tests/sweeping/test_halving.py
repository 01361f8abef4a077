"""Sequential halving: who stays, what it costs, and that the best of noisy candidates is found."""

import math
import random

import pytest

from fastvlm_bench.sweeping.halving import CONFIRMING, FEWEST, Race, affordable, least_seconds, rungs, survivors


@pytest.mark.parametrize(("count", "sizes"), [(1, []), (2, [2]), (5, [5, 3, 2]), (8, [8, 4, 2])])
def test_rungs(count: int, sizes: list[int]) -> None:
    assert survivors(count) == sizes and rungs(count) == len(sizes)


def test_half_of_them_leave_and_what_failed_leaves_first() -> None:
    race = Race(["a", "b", "c", "d", "e"])
    race.add({"a": 0.1, "b": 0.5, "c": 0.3, "d": -0.2})
    race.add({"a": 0.3, "b": 0.1, "c": 0.3, "d": -0.2})
    assert race.halve() == ["d", "e"] and sorted(race.left) == ["a", "b", "c"]
    assert race.out == {"d": 0, "e": 0} and race.score("e") == -math.inf
    race.add({"a": 0.9, "b": 0.0, "c": 0.3})
    race.halve()
    race.halve()
    assert race.left == ["a"] and race.out["b"] == 1 and race.out["c"] == 2


def test_least_seconds_by_hand() -> None:
    """Three candidates: rungs of 3 and 2, then the winner alone, each beside the reference."""
    assert least_seconds(10.0, [1.0, 2.0, 4.0]) == FEWEST * (10 + 7) + FEWEST * (10 + 3) + CONFIRMING * (10 + 1)
    own = [1.0, 2.0, 4.0]
    assert affordable(10.0, own, least_seconds(10.0, own)) == 3
    assert affordable(10.0, own, least_seconds(10.0, own) - 1) == 2
    assert affordable(10.0, own, CONFIRMING * 11.0 - 1) == 0


def test_the_winner_is_near_the_best() -> None:
    """16 candidates up to 1.6 times as slow as the best, 4 samples a rung with 10 % noise: seeded, 200 races."""
    source, near = random.Random(3), 0
    for _ in range(200):
        truth = {str(number): -0.03 * number for number in range(16)}
        race = Race(source.sample(list(truth), len(truth)))
        while len(race.left) > 1:
            for _ in range(4):
                race.add({name: truth[name] + source.gauss(0, 0.1) for name in race.left})
            race.halve()
        near += truth[race.left[0]] >= -0.09
    assert near >= 180
