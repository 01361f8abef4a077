"""The bounds of a paired difference: against Clopper-Pearson's, at the ends, and what they say in tables."""

import io
import random
from types import SimpleNamespace
from typing import Any

import pytest
from covering import covering
from rich.console import Console
from scipy import stats  # type: ignore[import-untyped]

from fastvlm_bench import metrics
from fastvlm_bench.analysis import bounds
from fastvlm_bench.analysis.bounds import mean_bounds, pooled_bounds, typical_size
from fastvlm_bench.analysis.quality import Quality, adjust, difference
from fastvlm_bench.analysis.summary import summarise
from fastvlm_bench.report.columns import row_dict
from fastvlm_bench.report.numbers import score
from fastvlm_bench.report.quality_tables import difference as said
from fastvlm_bench.report.terminal import print_report

SUITE: dict[str, Any] = {"samples": []}


@pytest.mark.parametrize("n", [2, 50, 600])
def test_where_nothing_changed_the_bound_is_exact_and_counts_images(n: int) -> None:
    found, doubled = (mean_bounds([0.0] * (n * k), [i // k for i in range(n * k)], 1.0) for k in (1, 2))
    assert found is not None and doubled is not None
    assert found.margin() == pytest.approx(1 - 0.05 ** (1 / n), abs=1e-5)
    assert doubled.margin() == found.margin(), "two questions about each image say no more than one"
    wide = found.interval()
    assert (wide.low, wide.high) == pytest.approx((-(1 - 0.025 ** (1 / n)), 1 - 0.025 ** (1 / n)), abs=1e-4)
    assert found.p_of_none() == 1.0


@pytest.mark.parametrize(("n", "lost"), [(50, 1), (200, 4), (200, 40), (600, 7)])
def test_where_scores_only_fell_the_lower_bound_is_clopper_pearsons(n: int, lost: int) -> None:
    found = mean_bounds([-1.0] * lost + [0.0] * (n - lost), list(range(n)), 1.0)
    assert found is not None
    interval = found.interval()
    assert interval.low == pytest.approx(-stats.beta.ppf(0.975, lost + 1, n - lost), rel=0.02)
    # And the other bound leaves out 0 where the sign test does: p = 2 · 2^-lost.
    assert found.p_of_none() == pytest.approx(min(1.0, 2 * 0.5**lost), abs=0.01)


def test_images_of_unequal_size_count_by_the_image_of_a_random_sample() -> None:
    assert typical_size([3.0, 3.0]) == 3.0 and typical_size([1.0, 3.0]) == 2.5
    images = ["a"] * 30 + list("bcdefghijklmnopqrstuvwxyz")
    one = mean_bounds([0.0] * len(images), images, 1.0)
    even = mean_bounds([0.0] * len(images), [i % 26 for i in range(55)], 1.0)
    assert one is not None and even is not None and one.margin() > 2 * even.margin()


@pytest.mark.parametrize("lost", covering([3, 40], [3]))
def test_many_images_of_few_kinds_have_the_bounds_of_weights_drawn_for_each(
    monkeypatch: pytest.MonkeyPatch, lost: int
) -> None:
    """The sum of n weights of Exp(1) is one of Gamma(n): the same bounds, but for what 10,000 draws leave open."""
    drawn, real = list[int](), bounds._weights
    monkeypatch.setattr(bounds, "_weights", lambda seed: drawn.append(seed) or real(seed))
    differences = [-0.3] * lost + [1.0] + [0.0] * (1200 - lost - 1)
    each = mean_bounds(differences, list(range(1200)), 1.0)
    assert drawn == [0, 1, 2, 3, 4]
    drawn.clear()
    monkeypatch.setattr(bounds, "MANY", 1000)
    kinds = mean_bounds(differences, list(range(1200)), 1.0)
    assert drawn == [], "three kinds of images need no blocks of weights"
    assert each is not None and kinds is not None and kinds.value == each.value
    ours, theirs = kinds.interval(), each.interval()
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), rel=0.05)
    assert mean_bounds([i / 1200 for i in range(1200)], list(range(1200)), 1.0) and drawn, "all of them differ"


def test_a_single_image_and_no_sample() -> None:
    assert mean_bounds([], [], 1.0) is None and pooled_bounds([], [], [], sum, [1.0], [1.0]) is None
    found = mean_bounds([0.0, 0.0], ["a", "a"], 1.0)
    assert found is not None and found.margin() == pytest.approx(0.95, abs=1e-3)


def test_a_pooled_metric_that_is_a_mean_has_the_bounds_of_the_mean() -> None:
    source = random.Random(2)
    ours, theirs = ([float(source.random() < 0.7) for _ in range(300)] for _ in range(2))
    images = [i // 3 for i in range(300)]
    mean = mean_bounds([a - b for a, b in zip(ours, theirs, strict=True)], images, 1.0)
    pooled = pooled_bounds([(a, 1.0) for a in ours], [(b, 1.0) for b in theirs], images,
                           lambda sums: sums[0] / sums[1], (0.0, 1.0), (1.0, 1.0))  # fmt: skip
    assert mean is not None and pooled is not None
    assert vars(pooled.interval()) == pytest.approx(vars(mean.interval()))
    assert pooled.margin() == pytest.approx(mean.margin()) and pooled.p_of(0.1) == mean.p_of(0.1)


def test_a_report_says_the_same_numbers_each_time() -> None:
    def once() -> Any:
        bounds._weights.cache_clear()
        found = mean_bounds([-0.5, 0.25, 0.0] * 100, list(range(300)), 1.0)
        assert found is not None
        return found.interval()

    assert once() == once()


# ------------------------------------------------------------------------------------------ words


@pytest.mark.parametrize("metric", ["pope", "bleu4", "rouge_l", "cider_d", "anls"])
def test_no_metric_is_equivalent_because_fifty_scores_stayed_the_same(metric: str) -> None:
    """One other text, and no score changed: the interval is no [0, 0], and the bound is about 5.8 % of the scale."""
    words = ["yes", "no"] if metric == "pope" else [f"a dog runs near tree {n}" for n in range(50)]
    other = [words[n % len(words)] for n in range(50)]
    references = [[text] for text in other]
    own = [other[0] + " ", *other[1:]]
    found = difference(metric, {"samples": [{"references": r} for r in references]}, own, other, references,
                       list(map(str, range(50))))  # fmt: skip
    assert found.delta is not None and found.delta.low is not None and found.delta.high is not None
    assert (found.delta.value, found.changed, found.verdict) == (0.0, 0, "undecided")
    assert found.delta.low <= -0.05 and found.delta.high >= 0.05
    assert (found.bound or 0) >= (1 - 0.05 ** (1 / 50)) * 0.95


def test_identical_texts_are_a_fact_and_later_repeats_belong_to_it(fake: SimpleNamespace) -> None:
    def change(line: dict[str, Any]) -> dict[str, Any]:
        odd = line["method"] == "fastvlm" and line["repeat"] == 1 and line["sample_id"] == "003"
        return {**line, "text": "another"} if odd else line

    suite = fake.suite("vqav2", n=60)
    (same,) = summarise(fake.run(suites=[suite]))[1].quality
    assert (same.verdict, same.changed) == ("identical", 0) and same.delta is not None and same.delta.low is None
    (one,) = summarise(fake.run(suites=[suite], repeats=2, change=change))[1].quality
    assert one.verdict == "undecided" and one.delta is not None and one.delta.low is not None and one.delta.low < -0.05


def test_the_evidence_is_printed_beside_the_word(fake: SimpleNamespace) -> None:
    def change(line: dict[str, Any]) -> dict[str, Any]:
        return {**line, "text": line["text"].upper()} if line["method"] == "early-exit" else line

    run = fake.run(suites=[fake.suite("vqav2", n=100)], labels=("standard", "early-exit"), change=change)
    stream = io.StringIO()
    print_report(run, Console(width=160, file=stream, _environ={}))
    assert "VQA acc. +0.0 [-7.1, +7.1] undecided (0 of 100 scores on 50 images changed, at most 5.8 at 95 %)" in (
        stream.getvalue()
    )
    row = row_dict(summarise(run)[1])
    assert (row["quality_vqa_accuracy_changed"], row["quality_vqa_accuracy_verdict"]) == (0, "undecided")
    assert row["quality_vqa_accuracy_bound"] == pytest.approx(1 - 0.05 ** (1 / 50), abs=1e-5)


def test_words_are_adjusted_over_the_methods_of_a_metric_alone() -> None:
    def quality(metric: str, difference_p: float, margin_p: float) -> Quality:
        found = mean_bounds([-0.1, 0.0], [1, 2], 1.0)
        assert found is not None
        return Quality(metric, 0.5, found.interval(), "", difference_p=difference_p, margin_p=margin_p)

    families = [[quality("anls", 0.03, 0.9), quality("pope", 0.03, 0.9)], [quality("anls", 0.5, 0.01)],
                [Quality("anls", 0.5, None, "")]]  # fmt: skip
    (first, alone), (second,), (reference,) = adjust(families)
    assert (first.verdict, first.difference_p) == ("undecided", pytest.approx(0.06))
    assert (alone.verdict, alone.difference_p) == ("worse", 0.03)
    assert (second.verdict, second.margin_p) == ("equivalent", pytest.approx(0.02))
    assert reference.verdict == "" and reference.difference_p is None


# ------------------------------------------------------------------------------------------ the scale of CIDEr-D


def test_cider_d_is_printed_on_its_own_scale(fake: SimpleNamespace) -> None:
    assert [(metrics.kind_of(m).scale, metrics.kind_of(m).unit) for m in ("cider_d", "bleu4")] == [
        (1, "0-10"), (100, "0-100")
    ]  # fmt: skip
    assert (score("cider_d", 3.778), score("bleu4", 0.3778), score("cider_d", -0.05, True)) == ("3.78", "37.8", "-0.05")

    def change(line: dict[str, Any]) -> dict[str, Any]:
        worse = line["method"] == "early-exit" and int(line["sample_id"]) % 2
        return {**line, "text": "nothing of this"} if worse else line

    run = fake.run(suites=[fake.suite(n=60)], labels=("standard", "early-exit"), change=change)
    value = next(q.value for q in summarise(run)[0].quality if q.metric == "cider_d")
    assert value is not None and 1 < value < 10
    stream = io.StringIO()
    print_report(run, Console(width=200, file=stream, _environ={}))
    text = stream.getvalue()
    header, scales = text[text.index("BLEU-4 ↑") :].splitlines()[:2]
    assert "CIDEr-D ↑" in header and scales.count("0-100 (Δ)") == 2 and scales.count("0-10 (Δ)") == 1
    assert f"{value:.2f}" in text and f"{value * 100:.1f}" not in text
    found = next(q for q in summarise(run)[1].quality if q.metric == "cider_d")
    assert found.delta is not None and said(found).startswith(f"CIDEr-D {found.delta.value:+.2f} [")
