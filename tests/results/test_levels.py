"""Simulations of what the words and intervals promise: they are wrong in at most 5 % of runs, and still can be said.

Each allows for the chance of so few runs: three standard deviations above 5 %.
"""

import math
import random
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from covering import covering

from fastvlm_bench.analysis import bounds
from fastvlm_bench.analysis.bounds import Bounds, mean_bounds, pooled_bounds
from fastvlm_bench.analysis.differences import extremes, judged
from fastvlm_bench.analysis.quality import Quality, adjust
from fastvlm_bench.analysis.statistics import Estimate, geometric_mean_ratio, ratio_of_totals
from fastvlm_bench.analysis.summary import summarise
from fastvlm_bench.metrics import bleu4
from fastvlm_bench.report.sentences import conclusion


def due(runs: int, level: float = 0.05) -> float:
    """The most errors among so many runs that a level of 5 % explains."""
    return runs * level + 3 * math.sqrt(runs * level * (1 - level))


@pytest.fixture
def few_draws(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fewer draws than in a report: 5 % are then 5 % ± 0.7 %, and a simulation takes seconds."""
    bounds._weights.cache_clear()
    monkeypatch.setattr(bounds, "DRAWS", 1000)
    yield
    bounds._weights.cache_clear()


# ------------------------------------------------------------------------------------------ equivalence

Drawn = Callable[[random.Random, int, float], list[float]]


def only_lost(source: random.Random, n: int, loss: float) -> list[float]:
    return [-float(source.random() < loss) for _ in range(n)]


def lost_and_won(source: random.Random, n: int, loss: float) -> list[float]:
    return [-1.0 if (u := source.random()) < 1.5 * loss else float(u < 2 * loss) for _ in range(n)]


def partly_lost(source: random.Random, n: int, loss: float) -> list[float]:
    return [-source.uniform(0.1, 0.5) * (source.random() < loss / 0.3) for _ in range(n)]


SIZES = ((50, 0.005), (50, 0.06), (200, 0.005), (200, 0.02), (600, 0.005), (600, 0.02))
LOSSES = [(n, loss, drawn) for n, loss in SIZES for drawn in (only_lost, lost_and_won, partly_lost)]


@pytest.mark.parametrize(
    ("n", "loss", "drawn"),
    covering(
        LOSSES,
        [(50, 0.005, only_lost), (50, 0.06, lost_and_won), (200, 0.02, partly_lost)],
    ),
)
def test_a_loss_of_the_margin_is_seldom_called_equivalent(few_draws: None, n: int, loss: float, drawn: Drawn) -> None:
    """The margin is the true loss, so that every "equivalent" is an error; the t interval made 20 to 77 % of them."""
    source, runs, errors = random.Random(n), 200, 0
    for _ in range(runs):
        found = mean_bounds(drawn(source, n, loss), list(range(n)), 1.0)
        assert found is not None
        errors += judged(found, 0, loss).verdict == "equivalent"
    assert errors <= due(runs)


def test_several_answers_of_an_image_that_are_lost_together_are_one(few_draws: None) -> None:
    """All the questions about an image fall together, of which there are one to five."""
    source, runs, errors = random.Random(3), 200, 0
    for _ in range(runs):
        differences: list[float] = []
        images: list[int] = []
        for image in range(150):
            size, lost = source.randint(1, 5), source.random() < 0.02
            differences += [-float(lost)] * size
            images += [image] * size
        found = mean_bounds(differences, images, 1.0)
        assert found is not None
        errors += judged(found, 0, 0.02).verdict == "equivalent"
    assert errors <= due(runs)


WORDS = [f"w{n}" for n in range(40)]


class Captions:
    """Captions of 7 to 14 words: as the reference gives them, and as a method that loses the thread would."""

    def __init__(self) -> None:
        source = random.Random(1)
        truth = [[source.choice(WORDS) for _ in range(source.randint(7, 14))] for _ in range(80)]
        texts = [[word if source.random() < 0.85 else source.choice(WORDS) for word in words] for words in truth]
        references = [[" ".join(words)] for words in truth]
        self.texts = [" ".join(words) for words in texts]
        self.kept = bleu4.counts(self.texts, references)
        self.lost = bleu4.counts([" ".join(["zz"] * len(words)) for words in texts], references)
        self.wrong, self.right = extremes(bleu4, (self.texts, self.texts))

    def loss(self, share: float) -> float:
        """The true loss of BLEU-4 where this share of the captions is lost."""
        whole = [sum(column) for column in zip(*self.kept, strict=True)]
        gone = [sum(column) for column in zip(*self.lost, strict=True)]
        mixed: list[Any] = [(1 - share) * a + share * b for a, b in zip(whole, gone, strict=True)]
        return bleu4.combine(whole) - bleu4.combine(mixed)

    def bounds(self, source: random.Random, n: int, share: float) -> Bounds:
        chosen = [source.randrange(len(self.kept)) for _ in range(n)]
        ours = [self.lost[i] if source.random() < share else self.kept[i] for i in chosen]
        found = pooled_bounds(ours, [self.kept[i] for i in chosen], range(n), bleu4.combine,  # type: ignore[arg-type]
                              self.wrong, self.right)  # fmt: skip
        assert found is not None
        return found


@pytest.mark.parametrize(("n", "share", "runs"), [
    (50, 0.02, 30),
    *(pytest.param(*case, marks=pytest.mark.slow) for case in ((200, 0.005, 40), (600, 0.005, 30))),
    *(pytest.param(n, share, 400, marks=pytest.mark.slow) for n, share in ((50, 0.08), (200, 0.02), (600, 0.005))),
])  # fmt: skip
def test_bleu_4_holds_its_level_where_few_texts_change(few_draws: None, n: int, share: float, runs: int) -> None:
    """A loss of the margin is seldom called equivalent; the interval holds the truth, a bootstrap's in 0.34 to 0.78."""
    captions, source, errors, missed = Captions(), random.Random(n), 0, 0
    margin = captions.loss(share)
    for _ in range(runs):
        found = captions.bounds(source, n, share)
        interval = found.interval()
        assert interval.low is not None and interval.high is not None
        errors += judged(found, 0, margin).verdict == "equivalent"
        missed += not interval.low <= -margin <= interval.high
    assert errors <= due(runs) and missed <= due(runs)


def test_equivalence_is_within_reach_of_enough_samples(few_draws: None) -> None:
    """No true difference: 1000 unchanged scores suffice for half a point, and 400 with two changes for two points.

    BLEU-4 of captions takes 1500.
    """
    unchanged, captions = (
        mean_bounds([0.0] * 1000, list(range(1000)), 1.0),
        Captions().bounds(random.Random(0), 1500, 0),
    )
    changed = mean_bounds([1.0, -1.0] + [0.0] * 398, list(range(400)), 1.0)
    assert unchanged is not None and changed is not None
    for found, margin in ((unchanged, 0.005), (captions, 0.005), (changed, 0.02)):
        assert judged(found, 0, margin).verdict == "equivalent"
    assert judged(changed, 2, 0.005).verdict == "undecided"


# ------------------------------------------------------------------------------------------ several methods


@pytest.mark.slow
def test_of_eleven_equal_methods_one_is_seldom_called_faster_or_slower(fake: SimpleNamespace) -> None:
    """From lines to words: unadjusted, a run in three has such a word among 11 methods, and more over two suites."""
    methods = [fake.method("standard"), *(fake.method(f"hf-generate:{n}") for n in range(11))]
    suites, runs = [fake.suite("coco-caption", n=12, metrics=[]), fake.suite("describe-caption", n=12, metrics=[])], 60
    errors, unadjusted = {"decode": 0, "e2e": 0}, 0
    for seed in range(runs):
        rows = [
            row.speedup for row in summarise(fake.run(suites=suites, methods=methods, seed=seed, noise=0.1, tokens=5))
        ]
        said = {
            "decode": [row.decode_speedup_verdict for row in rows],
            "e2e": [row.e2e_speedup_verdict for row in rows],
        }
        for phase, words in said.items():
            errors[phase] += any(word in ("FASTER", "SLOWER") for word in words)
        intervals = [row.decode_speedup_geomean for row in rows if row.decode_speedup_geomean is not None]
        assert len(intervals) == 22
        unadjusted += any(not (e.low or 0) <= 1 <= (e.high or 2) for e in intervals)
    assert max(errors.values()) <= due(runs)
    assert unadjusted > runs / 5, "the intervals stay as they are: so many of them leave out 1"


def test_a_word_that_the_adjustment_takes_away_says_why(fake: SimpleNamespace) -> None:
    """One of eleven methods is 2 % slower, as far as its own interval can tell: that is no longer said among eleven."""
    methods = [fake.method("standard"), *(fake.method(f"fastvlm:{n}", options={}) for n in range(11))]
    for seed in range(60):
        run = fake.run(suites=[fake.suite(n=12, metrics=[])], methods=methods, seed=seed, noise=0.1, tokens=5)
        for row in summarise(run):
            estimate, word = row.speedup.decode_speedup_geomean, row.speedup.decode_speedup_verdict
            if estimate is not None and (estimate.low or 0) > 1 and word == "AMBIGUOUS":
                assert "as fast as standard" in conclusion(run, row) and "by chance" in conclusion(run, row)
                return
    pytest.fail("no interval of 660 left out 1")


@pytest.mark.slow
def test_eleven_methods_at_the_margin_are_seldom_called_same(fake: SimpleNamespace) -> None:
    """Each is 1 % slower than the reference, so that SAME is an error."""
    methods = [fake.method("standard"), *(fake.method(f"hf-generate:{n}") for n in range(11))]
    suite, runs, errors = fake.suite(n=15, metrics=[]), 60, 0

    def slower(line: dict[str, Any]) -> dict[str, Any]:
        return line if line["method"] == "standard" else {**line, "decode_s": line["decode_s"] / 0.99}

    for seed in range(runs):
        rows = summarise(fake.run(suites=[suite], methods=methods, seed=seed, noise=0.004, tokens=5, change=slower))
        errors += any(row.speedup.decode_speedup_verdict == "SAME" for row in rows)
    assert errors <= due(runs)


@pytest.mark.slow
def test_of_eleven_equal_methods_one_is_seldom_better_worse_or_equivalent(few_draws: None) -> None:
    source, runs, n = random.Random(5), 60, 100

    def qualities(loss: float, change: float, margin: float) -> list[str]:
        families = []
        for _ in range(11):
            differences = [-1.0 if (u := source.random()) < loss + change else float(u > 1 - change) for _ in range(n)]
            found = mean_bounds(differences, list(range(n)), 1.0)
            assert found is not None
            families.append([Quality("pope", 0.5, **vars(judged(found, 0, margin)))])
        return [quality.verdict for (quality,) in adjust(families)]

    wrong = sum(bool({"better", "worse"} & set(qualities(0.0, 0.1, 0.001))) for _ in range(runs))
    at_the_margin = sum("equivalent" in qualities(0.05, 0.0, 0.05) for _ in range(runs))
    assert wrong <= due(runs) and at_the_margin <= due(runs)


# ------------------------------------------------------------------------------------------ clusters


@pytest.mark.parametrize("estimator", [geometric_mean_ratio, ratio_of_totals])
def test_speed_ups_of_several_questions_per_image_cover_the_truth(
    estimator: Callable[..., Estimate | None],
) -> None:
    """Five questions about each of 40 images, intra-image correlation 0.3: unclustered, 95 % would cover 0.81."""
    source, runs, covered, unclustered = random.Random(11), 400, 0, 0
    for _ in range(runs):
        ratios: list[float] = []
        images: list[int] = []
        for image in range(40):
            common = source.gauss(0, math.sqrt(0.3))
            ratios += [math.exp(0.1 * (common + source.gauss(0, math.sqrt(0.7)))) for _ in range(5)]
            images += [image] * 5
        truth = 1.0 if estimator is geometric_mean_ratio else math.exp(0.1**2 / 2)
        for found, clusters in (
            (estimator(ratios, [1.0] * 200, images), True),
            (estimator(ratios, [1.0] * 200), False),
        ):
            assert found is not None and found.low is not None and found.high is not None
            held = found.low <= truth <= found.high
            covered, unclustered = covered + (held and clusters), unclustered + (held and not clusters)
    assert covered >= 0.93 * runs > 0.9 * runs > unclustered
