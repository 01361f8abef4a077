"""The statistics against scipy and numpy, against numbers worked out by hand, and against their own promises."""

import math
import random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats  # type: ignore[import-untyped]

from fastvlm_bench.analysis.speedup import word
from fastvlm_bench.analysis.statistics import (
    Estimate,
    geometric_mean_ratio,
    holm,
    mean_difference,
    middle,
    p_of_beyond,
    p_of_one,
    percentile,
    ratio_of_totals,
    regularised_beta,
    relative_spread,
    rule_of_three,
    t_quantile,
    t_tail,
    welch_p,
)
from fastvlm_bench.analysis.summary import summarise

positive = st.floats(1e-3, 1e3)
seeded = settings(derandomize=True, deadline=None, max_examples=50, database=None)


@pytest.mark.parametrize("df", [1, 2, 3, 7.5, 29, 99, 1000, 100_000])
@pytest.mark.parametrize("p", [0.001, 0.025, 0.3, 0.5, 0.9, 0.95, 0.975, 0.9995])
def test_t_quantile_is_scipys(p: float, df: float) -> None:
    assert t_quantile(p, df) == pytest.approx(stats.t.ppf(p, df), rel=1e-8, abs=1e-12)


@seeded
@given(st.floats(0, 1), st.floats(0.05, 200), st.floats(0.05, 200))
def test_regularised_beta_is_scipys(x: float, a: float, b: float) -> None:
    assert regularised_beta(x, a, b) == pytest.approx(special.betainc(a, b, x), rel=1e-8, abs=1e-12)


@seeded
@given(st.floats(-50, 50), st.floats(1, 500))
def test_t_tail_is_scipys(t: float, df: float) -> None:
    assert t_tail(t, df) == pytest.approx(2 * stats.t.sf(abs(t), df), rel=1e-8, abs=1e-12)


@pytest.mark.parametrize(("p", "df"), [(0.0, 5), (1.0, 5), (0.5, 0)])
def test_t_quantile_refuses_what_has_no_answer(p: float, df: float) -> None:
    with pytest.raises(ValueError, match="t_quantile needs"):
        t_quantile(p, df)


@seeded
@given(st.lists(st.tuples(positive, positive), min_size=2, max_size=40))
def test_geometric_mean_ratio_is_scipys_t_interval_of_logs(pairs: list[tuple[float, float]]) -> None:
    logs = np.log([a / b for a, b in pairs])
    found = geometric_mean_ratio([a for a, _ in pairs], [b for _, b in pairs])
    assert found is not None and found.low is not None and found.high is not None
    low, high = stats.t.interval(0.95, len(logs) - 1, loc=logs.mean(), scale=stats.sem(logs) or 1e-300)
    assert found.value == pytest.approx(math.exp(logs.mean()))
    assert found.n == len(pairs)
    assert math.log(found.low) == pytest.approx(low, rel=1e-6, abs=1e-9)
    assert math.log(found.high) == pytest.approx(high, rel=1e-6, abs=1e-9)


def test_geometric_mean_ratio_leaves_out_pairs_without_a_ratio() -> None:
    assert geometric_mean_ratio([1.0, 0.0], [2.0, 0.0]) == Estimate(0.5, None, None, 1)
    assert geometric_mean_ratio([0.0], [1.0]) is None


def test_ratio_of_totals_by_hand() -> None:
    found = ratio_of_totals([2.0, 4.0, 6.0], [1.0, 2.0, 5.0])
    # R = 12/8; residuals a - R b = 0.5, 1, -1.5; s² = 3.5/2; SE = sqrt(3 * 1.75)/8; t(0.975, 2) = 4.302652729749
    assert found is not None and found.low is not None and found.high is not None
    half = 4.302652729749464 * math.sqrt(3 * 1.75) / 8
    assert found.value == 1.5
    assert found.high == pytest.approx(1.5 + half)
    assert found.low == pytest.approx(1.5 - half)


def test_ratios_without_data_are_none_and_one_pair_has_no_interval() -> None:
    assert ratio_of_totals([], []) is None
    assert ratio_of_totals([1.0], [0.0]) is None
    assert ratio_of_totals([3.0], [2.0]) == Estimate(1.5, None, None, 1)


@seeded
@given(st.lists(st.tuples(positive, positive), min_size=3, max_size=20), st.floats(0.01, 100), st.randoms())
def test_ratios_do_not_depend_on_the_unit_of_time_or_on_the_order(
    pairs: list[tuple[float, float]], scale: float, source: random.Random
) -> None:
    shuffled = source.sample(pairs, len(pairs))
    for estimator in (ratio_of_totals, geometric_mean_ratio):
        one = estimator([a for a, _ in pairs], [b for _, b in pairs])
        other = estimator([a * scale for a, _ in shuffled], [b * scale for _, b in shuffled])
        assert one is not None and other is not None
        assert (other.value, other.low, other.high) == pytest.approx((one.value, one.low, one.high), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("q", [1, 5, 50, 95, 99])
@pytest.mark.parametrize("n", [1000, 1001, 1537])
def test_percentile_is_numpys_where_n_allows_it(n: int, q: float) -> None:
    source = random.Random(n)
    values = [source.gauss(0, 100) for _ in range(n)]
    assert percentile(values, q) == pytest.approx(np.percentile(values, q), abs=1e-9)


@pytest.mark.parametrize(("n", "q", "given_"), [(99, 95, False), (100, 95, True), (99, 5, False), (100, 5, True),
                                               (999, 99, False), (1000, 99, True), (999, 1, False)])  # fmt: skip
def test_percentiles_need_samples(n: int, q: float, given_: bool) -> None:
    assert (percentile([float(i) for i in range(n)], q) is not None) == given_


def test_middle_and_relative_spread() -> None:
    assert middle([]) is None
    assert middle([3.0, 1.0, 2.0, 10.0]) == 2.5
    assert relative_spread([1.0, 2.0, 3.0]) is None
    assert relative_spread([1.0, 2.0, 3.0, 4.0, 5.0]) == pytest.approx(2 / 3)
    assert relative_spread([-1.0, -1.0, -1.0, -1.0]) is None


@seeded
@given(st.lists(st.floats(-1, 1), min_size=2, max_size=50))
def test_mean_difference_without_clusters_is_scipys_paired_interval(values: list[float]) -> None:
    found = mean_difference(values, list(range(len(values))))
    assert found is not None
    scale = stats.sem(values)
    half = stats.t.ppf(0.975, len(values) - 1) * scale
    assert found.value == pytest.approx(np.mean(values), abs=1e-12)
    assert found.high == pytest.approx(np.mean(values) + half, abs=1e-9)


def test_mean_difference_counts_images_not_questions() -> None:
    values, images = [1.0, 0.0, 0.0, 1.0], ["a", "b", "c", "d"]
    once = mean_difference(values, images)
    tenfold = mean_difference(values * 10, images * 10)
    assert once is not None and tenfold is not None
    assert (tenfold.low, tenfold.high) == pytest.approx((once.low, once.high))
    assert (tenfold.n, tenfold.groups, tenfold.independent) == (40, 4, 4)
    assert (once.groups, once.independent) == (None, 4)


def test_speed_ups_count_images_not_questions() -> None:
    """Ten copies of four pairs say what the four say: their intervals, p values and words are the same."""
    seconds, images = ([2.0, 2.1, 1.9, 2.3], [1.0, 1.1, 1.0, 1.2]), ["a", "b", "c", "d"]
    for estimator in (geometric_mean_ratio, ratio_of_totals):
        once = estimator(*seconds)
        tenfold = estimator(seconds[0] * 10, seconds[1] * 10, images * 10)
        assert once is not None and tenfold is not None
        assert (tenfold.low, tenfold.high) == pytest.approx((once.low, once.high))
        assert p_of_one(tenfold) == pytest.approx(p_of_one(once)) and tenfold.groups == 4
        assert word(tenfold) == "AMBIGUOUS", "four images are too few, however many questions there are"
        one_image = estimator(*seconds, ["a"] * 4)
        assert one_image is not None and one_image.low is None and p_of_one(one_image) is None


def test_mean_difference_of_one_image_has_no_interval() -> None:
    assert mean_difference([1.0, 0.0], ["a", "a"]) == Estimate(0.5, None, None, 2, 1)
    assert mean_difference([], []) is None


def test_rule_of_three() -> None:
    assert rule_of_three(200) == 0.015
    assert rule_of_three(2) == 1.0
    assert rule_of_three(0) is None


@seeded
@given(st.lists(st.floats(-5, 5), min_size=3, max_size=30), st.lists(st.floats(-5, 5), min_size=3, max_size=30))
def test_welch_is_scipys(first: list[float], second: list[float]) -> None:
    if np.var(first) + np.var(second) < 1e-9:
        return
    assert welch_p(first, second) == pytest.approx(stats.ttest_ind(first, second, equal_var=False).pvalue, abs=1e-7)


def test_welch_needs_three_and_handles_constants() -> None:
    assert welch_p([1.0, 2.0], [1.0, 2.0, 3.0]) is None
    assert welch_p([1.0] * 3, [1.0] * 3) == 1.0
    assert welch_p([1.0] * 3, [2.0] * 3) == 0.0


def test_two_identical_noisy_arms_are_seldom_called_faster(fake: SimpleNamespace) -> None:
    """A/A: the whole chain, from lines to the verdict's word, on 200 runs of two equal arms with 10 % noise."""
    suite = fake.suite(n=20, metrics=[])
    words = []
    for seed in range(200):
        run = fake.run(suites=[suite], methods=[fake.method("standard"), fake.method("hf-generate")], seed=seed,
                       noise=0.1, tokens=8)  # fmt: skip
        row = summarise(run)[1]
        words += [word(row.speedup.decode_speedup_geomean), word(row.speedup.e2e_speedup_geomean)]
    for phase in (words[::2], words[1::2]):
        assert phase.count("FASTER") <= 10
        assert phase.count("SLOWER") <= 10


def test_a_known_ratio_lies_in_its_interval(fake: SimpleNamespace) -> None:
    """An arm made exactly 1.30 times slower: 95 % of the intervals hold 1/1.30, here at least 90 %."""
    suite, held = fake.suite(n=20, metrics=[]), 0

    def slow(line: dict[str, Any]) -> dict[str, Any]:
        return line if line["method"] == "standard" else {**line, "decode_s": line["decode_s"] * 1.30}

    for seed in range(100):
        run = fake.run(suites=[suite], methods=[fake.method("standard"), fake.method("slow")], seed=seed, noise=0.05,
                       change=slow)  # fmt: skip
        row = summarise(run)[1]
        assert word(row.speedup.decode_speedup_geomean) == "SLOWER"
        estimate = row.speedup.decode_speedup_geomean
        assert estimate is not None and estimate.low is not None and estimate.high is not None
        held += estimate.low <= 1 / 1.30 <= estimate.high
    assert held >= 90


def test_p_of_one_is_the_interval_turned_round() -> None:
    source = np.random.default_rng(3)
    for shift, n in ((0.2, 10), (-0.05, 30), (0.0, 5)):
        ratios = np.exp(source.normal(shift, 0.15, n))
        estimate = geometric_mean_ratio(ratios.tolist(), [1.0] * n)
        assert p_of_one(estimate) == pytest.approx(stats.ttest_1samp(np.log(ratios), 0).pvalue, abs=1e-9)
    assert p_of_one(Estimate(1.2, 1.0, 1.44, 8)) == pytest.approx(0.05, abs=1e-9)
    assert p_of_one(None) is None and p_of_one(Estimate(1.1, None, None, 1)) is None
    assert p_of_one(Estimate(1.0, 1.0, 1.0, 4)) == 1.0 and p_of_one(Estimate(2.0, 2.0, 2.0, 4)) == 0.0


def test_p_of_beyond_is_the_interval_within_the_share_turned_round() -> None:
    source = np.random.default_rng(4)
    for n in (6, 30, 300):
        ratios = np.exp(source.normal(0.002, 0.01, n))
        estimate = geometric_mean_ratio(ratios.tolist(), [1.0] * n)
        p = p_of_beyond(estimate, 0.01)
        assert estimate is not None and estimate.low is not None and estimate.high is not None and p is not None
        assert (p <= 0.05) == (estimate.low >= 0.99 and estimate.high <= 1.01)
        upper = stats.ttest_1samp(np.log(ratios), math.log(1.01), alternative="less").pvalue
        lower = stats.ttest_1samp(np.log(ratios), math.log(0.99), alternative="greater").pvalue
        assert p == pytest.approx(min(1.0, 2 * max(upper, lower)), abs=1e-9)
    assert p_of_beyond(Estimate(1.5, 1.4, 1.6, 9), 0.01) == 1.0 and p_of_beyond(None, 0.01) is None


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([0.02]) == [0.02] and holm([]) == []
