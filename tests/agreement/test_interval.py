"""The interval of an agreement holds its level: over images that differ, with few of them, and next to 100 %."""

import numpy as np
import pytest

from fastvlm_bench.analysis.shares import share_of

DRAWS = 600


def held(mean: float, alike: float, images: int, draws: int) -> float:
    """How often the interval has `mean`, where images agree at shares of a beta distribution (mean, alike)."""
    rng, hits = np.random.default_rng([int(1000 * mean), int(alike), images]), 0
    for _ in range(draws):
        tokens = rng.integers(20, 90, size=images)
        agreeing = rng.binomial(tokens, rng.beta(mean * alike, (1 - mean) * alike, size=images))
        found = share_of(np.stack([agreeing, tokens], axis=1).astype(float))
        assert found.low is not None and found.high is not None and 0 <= found.low <= found.high <= 1
        hits += found.low <= mean <= found.high
    return hits / draws


@pytest.mark.parametrize("images", [5, 10, 40])
@pytest.mark.parametrize(("mean", "alike"), [(0.5, 10), (0.9, 10), (0.98, 200)])
def test_it_holds_its_level(mean: float, alike: float, images: int) -> None:
    assert held(mean, alike, images, DRAWS) > 0.95 - 3 * (0.95 * 0.05 / DRAWS) ** 0.5


def test_where_few_images_have_the_disagreement_it_holds_less_and_the_page_says_so() -> None:
    assert all(held(0.98, 10, images, DRAWS) > 0.87 for images in (5, 10, 40))


def test_images_that_all_agree_leave_room_for_those_that_were_not_seen() -> None:
    few, many = (share_of(np.tile([50.0, 50.0], (images, 1))) for images in (5, 100))
    assert few.value == many.value == 1.0 and few.high == many.high == 1.0
    assert few.low is not None and many.low is not None and few.low < 0.5 < 0.9 < many.low < 1
    none = share_of(np.tile([0.0, 50.0], (5, 1)))
    assert none.low == 0.0 and none.high == pytest.approx(1 - few.low)


def test_images_that_are_all_alike_count_as_one_token_each() -> None:
    found = share_of(np.tile([25.0, 50.0], (10, 1)))
    assert found.low is not None and found.high is not None
    assert 0.15 < found.low < 0.3 and found.high == pytest.approx(1 - found.low)
