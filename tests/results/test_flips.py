"""McNemar's exact test: scipy's binomial test with one sample per image, else a count over all possible signs."""

import itertools
import random
from types import SimpleNamespace
from typing import Any

import pytest
from results.test_quality_parts import always_yes, pope_suite, printed
from scipy.stats import binomtest

from fastvlm_bench.analysis.flips import Flips, count_flips, exact_p
from fastvlm_bench.analysis.summary import summarise
from fastvlm_bench.report.columns import row_dict


@pytest.mark.parametrize(("won", "lost"), [(1, 0), (0, 5), (2, 5), (5, 5), (3, 40), (120, 80), (900, 1100)])
def test_one_sample_an_image_is_mcnemar(won: int, lost: int) -> None:
    ours, theirs = [1.0] * won + [0.0] * lost + [1.0, 0.0], [0.0] * won + [1.0] * lost + [1.0, 0.0]
    found = count_flips(ours, theirs, range(len(ours)))
    assert found is not None and (found.won, found.lost) == (won, lost)
    assert found.p == pytest.approx(binomtest(won, won + lost).pvalue, rel=1e-9)


def test_questions_of_an_image_change_their_sign_together() -> None:
    dice = random.Random(5)
    for _ in range(50):
        differences = [dice.choice((-1, 0, 1)) for _ in range(20)]
        images = [dice.randrange(8) for _ in differences]
        nets = [sum(d for d, i in zip(differences, images, strict=True) if i == image) for image in range(8)]
        seen, extreme = abs(sum(nets)), 0
        for signs in itertools.product((-1, 1), repeat=8):
            extreme += abs(sum(sign * net for sign, net in zip(signs, nets, strict=True))) >= seen
        expected = extreme / 2**8 if any(nets) else None
        assert exact_p(differences, images) == (None if expected is None else pytest.approx(expected, abs=1e-12))


def test_ten_changes_of_one_image_are_one_coin() -> None:
    assert exact_p([1] * 10, ["a"] * 10) == 1.0
    assert exact_p([1] * 10, range(10)) == pytest.approx(2 / 2**10)


def test_what_is_not_right_or_wrong_has_no_flips() -> None:
    assert count_flips([0.3, 1.0], [1.0, 1.0], [0, 1]) is None
    assert count_flips([], [], []) is None
    assert count_flips([1.0, 0.0], [1.0, 0.0], [0, 1]) == Flips(0, 0, None)
    assert count_flips([1.0] * 2001, [0.0] * 2001, range(2001)) == Flips(2001, 0, None)


def test_flips_reach_the_export_and_the_terminal(fake: SimpleNamespace) -> None:
    run = fake.run(suites=[pope_suite(fake)], labels=("standard", "fastvlm", "early-exit"), change=always_yes)
    rows: list[dict[str, Any]] = [row_dict(row) for row in summarise(run)]
    assert (rows[2]["quality_pope_won"], rows[2]["quality_pope_lost"]) == (0, 20)
    images = {sample["image_id"] for sample in run.meta["suites"][0]["samples"] if sample["references"] == ["no"]}
    assert rows[2]["quality_pope_mcnemar_p"] == pytest.approx(2 / 2 ** len(images))
    assert rows[0]["quality_pope_won"] is None  # the reference itself
    assert (rows[1]["quality_pope_won"], rows[1]["quality_pope_mcnemar_p"]) == (0, None)  # identical
    assert "worse (0 won, 20 lost, exact p " in printed(run, 120)
