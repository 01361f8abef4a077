"""Outliers, slow starts and trends, by hand and on simulated times."""

import random

import pytest
from scipy.stats import kendalltau, theilslopes

from fastvlm_bench.analysis.drift import modified_z, outliers, slow_start, trend


def test_modified_z_by_hand() -> None:
    assert modified_z([1.0, 2.0, 3.0, 4.0, 5.0]) == pytest.approx([-1.349, -0.6745, 0, 0.6745, 1.349])
    assert modified_z([1.0, 2.0, 3.0]) == [0, 0, 0], "three values have no outliers"
    assert outliers([1.0, 1.1, 0.9, 1.05, 0.95, 100.0]) == [5]


def test_where_the_mad_is_zero_the_quartiles_decide_and_then_nothing() -> None:
    # A MAD of 0 means that more than half are equal: the quartiles may still differ.
    assert outliers([1.0] * 5 + [1.5, 1.5, 1.5, 90.0]) == [8]
    assert outliers([1.0] * 9 + [50.0]) == []


def test_one_value_a_hundred_times_as_long_is_flagged_among_noise() -> None:
    source = random.Random(0)
    values = [source.gauss(1, 0.05) for _ in range(60)]
    assert outliers(values) == []
    values[17] *= 100
    assert outliers(values) == [17]


def test_a_slow_start_is_told_and_a_fast_one_is_none() -> None:
    source = random.Random(1)
    values = [source.gauss(1, 0.02) for _ in range(30)]
    assert not slow_start(values)
    assert slow_start([1.5, *values]) and not slow_start([0.5, *values])
    assert not slow_start([1.5, 1.0]), "too few to tell"


def test_a_trend_is_told_with_its_size() -> None:
    source = random.Random(2)
    for n in (40, 1000):
        drifting = [source.gauss(1, 0.02) * (1 + 0.1 * i / n) for i in range(n)]
        assert trend(drifting) == pytest.approx(0.1, abs=0.03)
    assert trend([source.gauss(1, 0.02) * (1 + 0.02 * i / 200) for i in range(200)]) is None, "2 % do no harm"
    assert trend([1.0, 2.0, 3.0]) is None


def test_noise_alone_is_seldom_a_trend() -> None:
    source = random.Random(3)
    told = sum(trend([source.gauss(1, 0.3) for _ in range(30)]) is not None for _ in range(200))
    assert told <= 6, "nominal 1 % of 200"


def test_trend_agrees_with_scipy() -> None:
    source = random.Random(4)
    for _ in range(30):
        values = [source.gauss(1, 0.05) * (1 + source.random() * 0.004 * i) for i in range(40)]
        p, slope = kendalltau(range(40), values).pvalue, theilslopes(values)[0]
        found = trend(values)
        if found is not None:
            assert p < 0.02 and found == pytest.approx(slope * 39 / sorted(values)[20], rel=0.05)
        else:
            assert p > 0.005 or abs(slope * 39) < 0.06
