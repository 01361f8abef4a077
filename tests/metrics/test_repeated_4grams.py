"""rep-4 by hand, and in a suite that has no references."""

import pytest

from fastvlm_bench.errors import UsageError
from fastvlm_bench.metrics.repeated_4grams import score
from fastvlm_bench.suites.suite import load_suite


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", 0.0), ("a b c", 0.0), ("a b c d", 0.0), ("a b c d a b c d", 1 / 5), ("a a a a a a", 2 / 3),
        ("a b c d\nA b c d", 0.0),
    ],
)  # fmt: skip
def test_by_hand(text: str, wanted: float) -> None:
    assert score([text], [[]]).per_sample == [pytest.approx(wanted)]


def test_it_is_the_mean_over_samples() -> None:
    assert score(["a a a a a a", "a b c"], [[], []]).value == pytest.approx(1 / 3)
    with pytest.raises(UsageError, match="no samples"):
        score([], [])


def test_a_suite_without_references_keeps_only_metrics_that_need_none() -> None:
    suite = load_suite("stories", metrics=["bleu4"])
    assert suite.metrics == ("repeated_4grams",) and not any(sample.references for sample in suite.samples)
    assert len({sample.prompt for sample in suite.samples}) > 3
