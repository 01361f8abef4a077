"""Costs between timed exits, predicted hierarchies by hand, and predictions beside a run."""

import random
from dataclasses import replace
from itertools import combinations, product
from pathlib import Path
from typing import Any

import pytest
from covering import covering

from fastvlm_bench.agreement.against import check_against, compare
from fastvlm_bench.agreement.guesses import Guess, Text
from fastvlm_bench.agreement.pricing import Prices, timed_exits
from fastvlm_bench.agreement.rates import Matrix
from fastvlm_bench.agreement.sources import Source
from fastvlm_bench.agreement.speedups import (
    MOST_DRAFTED,
    best_of,
    expected,
    hierarchies,
    hierarchy_speedup,
    independent,
    promises,
)
from fastvlm_bench.analysis.prediction import PassCosts
from fastvlm_bench.errors import UsageError
from fastvlm_bench.records.record import read_run
from fastvlm_bench.training.prediction import Checked, simulate

LAYERS, LAYER_S, TAIL_S = 12, 0.01, 0.02
(REFERENCE,) = (Path(__file__).parents[2] / "results").glob("*-tiny-describe-*")


def cost(layer: int) -> PassCosts:
    """Costs in which a layer takes the same for any number of positions, and the LM head, too."""
    return PassCosts(LAYERS * LAYER_S + TAIL_S, layer * LAYER_S + TAIL_S, [(LAYERS - layer) * LAYER_S + TAIL_S] * 9)


@pytest.fixture
def prices() -> Prices:
    return Prices(LAYERS, cost(1).standard_s, {layer: cost(layer) for layer in timed_exits(LAYERS)}, {})


def test_exits_between_the_timed_ones_are_interpolated(prices: Prices) -> None:
    assert timed_exits(LAYERS) == [1, 4, 8, 11] and timed_exits(2) == [1]
    for layer in range(1, LAYERS):
        found = prices.of(Source(layer, "raw"))
        assert found.draft_s == pytest.approx(cost(layer).draft_s)
        assert list(found.verify_s) == pytest.approx(list(cost(layer).verify_s))


def test_a_hierarchy_by_hand(prices: Prices) -> None:
    lower, upper = Source(2, "raw"), Source(6, "raw")
    agreement = Matrix((lower, upper), ((None, 0.8), (None, None)), (0.5, 0.9))
    token = (3 * 0.04 + (4 * 0.01 + 0.02)) / (1 + 0.8 + 0.64)  # 2 drafts, then layers 3 .. 6 and the LM head
    round_s = 4 * token + 0.08 + (6 * 0.01 + 0.02)  # 4 such tokens, the last one through layers 1 .. 6, verification
    wanted = (1 + 0.9 + 0.9**2 + 0.9**3 + 0.9**4) * 0.14 / round_s
    assert hierarchy_speedup(lower, upper, 2, 4, agreement, prices) == pytest.approx(wanted)
    alone = {gamma: (sum(0.9**i for i in range(gamma + 1))) * 0.14 / ((gamma + 1) * 0.08 + 0.08) for gamma in (2, 4)}
    assert independent(upper, 4, agreement, prices) == pytest.approx(alone[4])
    (one,) = hierarchies([lower, upper], [2, 4], agreement, prices)
    assert one.single == pytest.approx(max(alone.values())) and one.speedup >= wanted * (1 - 1e-12)
    assert hierarchies([upper], [2], Matrix((upper,), ((None,),), (0.9,)), prices) == []


@pytest.mark.parametrize("count", covering([6, 12], [6]))
def test_the_dynamic_programme_is_brute_force(count: int) -> None:
    """On random costs and agreements, of all hierarchies with all numbers, by the recursion written out."""
    draws = random.Random(0)
    longer = 0
    for _ in range(count):
        layers, sources = 10, [Source(layer, "raw") for layer in (1, 3, 6, 8)]
        head = draws.uniform(0.005, 0.05)
        raw = {n: PassCosts(1.0, n / layers + head, [(layers - n) / layers * (1 + k / 20) + head for k in range(9)])
               for n in timed_exits(layers)}  # fmt: skip
        own = Prices(layers, 1.0, raw, {})
        target = sorted(draws.uniform(0.3, 0.99) for _ in sources)
        shares = tuple(tuple(draws.uniform(0.4, 0.99) if j > i else None for j in range(4)) for i in range(4))
        agreement = Matrix(tuple(sources), shares, tuple(target))

        def price(levels: Any, each: Any, gamma: int, own: Prices = own, agreement: Matrix = agreement) -> float:
            token = own.of(levels[0]).draft_s
            for lower, upper, n in zip(levels, levels[1:], each, strict=False):
                middle = own.raw(own.layers - (upper.exit_layer - lower.exit_layer)).verification(n + 1)
                token = (n * token + own.of(lower).draft_s + middle) / expected(agreement.between(lower, upper), n)
            top = own.of(levels[-1])
            round_s = gamma * token + top.draft_s + top.verification(gamma + 1)
            return expected(agreement.with_target(levels[-1]), gamma) / round_s

        every = max(
            price(levels, each, gamma)
            for count in (2, 3) for levels in combinations(sources, count)
            for each in product(range(1, MOST_DRAFTED + 1), repeat=count - 1) for gamma in (2, 4, 8)
        )  # fmt: skip
        found = hierarchies(sources, [2, 4, 8], agreement, own)
        assert found[0].speedup == pytest.approx(price(found[0].levels, found[0].each, found[0].gamma))
        assert found[0].speedup >= every * (1 - 1e-9)
        assert len(found[0].levels) > 3 or found[0].speedup == pytest.approx(every)
        longer += len(found[0].levels) > 2
    assert 0 < longer < count, "now two exits are best, now more"


def test_expected_tokens_of_a_round() -> None:
    assert expected(1.0, 5) == 6 and expected(0.0, 5) == 1
    assert expected(0.7, 4) == pytest.approx((1 - 0.7**5) / 0.3)


def test_the_best_cell_of_each_exit(prices: Prices) -> None:
    good, bad = Source(1, "raw"), Source(4, "raw")
    tokens = tuple(range(1, 10))
    wrong = (0,) * 8
    texts = [Text("s/1", "s/1", tokens, ("x",) * 9, False, 0, tokens[1:],
                  {good: Guess(tokens[1:], (0.9,) * 8), bad: Guess(wrong, (0.3,) * 8)})]  # fmt: skip
    cells = promises(texts, [good, bad], [1, 4], [0.0, 0.5], {False: prices, True: prices})
    assert len(cells) == 8
    first, second = best_of(cells)
    assert (first.source, first.gamma) == (good, 4) and first.alpha == 1 and first.speedup > 1
    assert (second.source, second.gamma, second.stop_below) == (bad, 1, 0.5) and second.speedup < 1


def test_beside_a_run(prices: Prices) -> None:
    """The measured speed-up and α are those of the record, over the samples that both have."""
    run = read_run(REFERENCE)
    run = replace(run, meta={key: value for key, value in run.meta.items() if key != "costs"})
    raw = next(method for method in run.meta["methods"] if method["name"] == "layerskip")
    label, options = raw["label"], raw["options"]
    source = Source(options["exit_layer"], "raw")
    mine = [line for line in run.lines if line["method"] == "standard"][:3]
    texts = [
        Text(f"describe/{line['sample_id']}", "i", tuple(line["token_ids"]), (), True, 9, tuple(line["token_ids"][1:]),
             {source: Guess(tuple(line["token_ids"][1:]), (0.9,) * (len(line["token_ids"]) - 1))}) for line in mine
    ]  # fmt: skip
    found = compare(run, "describe", texts, [source], {False: prices, True: prices})
    (one,) = found.compared
    ids = {line["sample_id"] for line in mine}
    own = [line for line in run.lines if line["method"] == label and line["sample_id"] in ids]
    assert one.method == label and one.samples == 3 and not one.own_costs and found.other_answers == 0
    assert one.speedup_measured == sum(r["decode_s"] for r in mine) / sum(r["decode_s"] for r in own)
    rounds = [r for line in own for r in line["rounds"]]
    assert one.alpha_measured == sum(r[2] for r in rounds) / sum(r[1] for r in rounds) and one.alpha_predicted == 1
    checked = [Checked([True] * (len(line["token_ids"]) - 1), [0.9] * len(line["token_ids"]), True, 9) for line in mine]
    simulated = simulate(checked, options["gamma"], options["stop_below"])
    assert one.speedup_predicted == simulated.speedup(prices.of(source))
    assert one.error == one.speedup_predicted / one.speedup_measured - 1
    ours = [method for method in run.meta["methods"] if method["name"] == "fastvlm"]
    trees = {method["label"] for method in ours if method["options"].get("topk")}
    chains = {method["label"] for method in ours} - trees
    assert chains and chains <= set(found.skipped) and "early-exit" not in found.skipped
    assert trees and not trees & set(found.skipped), "only chains are predicted"
    assert f"within 5 % on {found.close} of 1 cells" in found.sentence


@pytest.mark.parametrize(
    "suite, model, told", [("vqav2", "tiny", "give --suite describe"), ("describe", "me/it", "--model")]
)
def test_a_run_of_something_else_is_refused(suite: str, model: str, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        check_against(read_run(REFERENCE), suite, model)
