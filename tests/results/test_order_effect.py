"""The order of methods is balanced, and an effect of order is seen within samples: simulated power and level."""

import random
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from fastvlm_bench.analysis.order_effect import ORDER_P, OrderEffect, Turn, strongest
from fastvlm_bench.analysis.verdict import judge
from fastvlm_bench.measuring import williams

METHODS = ("standard", "fastvlm", "layerskip", "hf-generate")
EFFECTS: dict[str, Callable[[int, str, str], bool]] = {
    "at place 1 of 4": lambda place, before, name: place == 0,
    "right after fastvlm": lambda place, before, name: before == "fastvlm",
    "of standard right after layerskip": lambda place, before, name: (before, name) == ("layerskip", "standard"),
}


# ------------------------------------------------------------------------------------------ the design


@pytest.mark.parametrize("count", range(1, 10))
def test_each_block_is_balanced(count: int) -> None:
    """Every method is equally often at every place, and follows every other method equally often."""
    size = len(williams.rows(count))
    assert size == (count if count % 2 == 0 or count == 1 else 2 * count)
    for block in range(3):
        orders = [williams.order(count, block * size + i, 7, "vqav2", 0) for i in range(size)]
        assert all(sorted(order) == list(range(count)) for order in orders)
        places = Counter((place, name) for order in orders for place, name in enumerate(order))
        follows = Counter(pair for order in orders for pair in zip(order, order[1:], strict=False))
        assert set(places.values()) == {size // count} and len(places) == count * count
        assert len(follows) == count * (count - 1) and len(set(follows.values())) <= 1


def test_rows_are_drawn_by_seed_suite_and_repeat_and_depend_on_nothing_else() -> None:
    def orders(*parts: object) -> list[Any]:
        return [williams.order(4, i, *parts) for i in range(40)]

    first = orders(0, "vqav2", 0)
    assert first == orders(0, "vqav2", 0) and [williams.order(4, i, 0, "vqav2", 0) for i in (39, 5)] == [
        first[39], first[5]]  # fmt: skip
    assert all(first != orders(*other) for other in ((1, "vqav2", 0), (0, "gqa", 0), (0, "vqav2", 1)))
    assert len({tuple(first[i : i + 4]) for i in range(0, 40, 4)}) > 5  # not the same block over and over


# ------------------------------------------------------------------------------------------ power and level


def simulated(seed: int, applies: Any = None, *, shift: float = 0.03, noise: float = 0.02) -> OrderEffect:
    """100 samples of 4 methods. Samples differ by 30 %, methods by a factor of two; 1 line in 100 has a hiccup."""
    source, groups = random.Random(seed), []
    for number in range(100):
        order = tuple(METHODS[i] for i in williams.order(4, number, seed, "s", 0))
        sample, logs = source.gauss(0, 0.3), {}
        for place, name in enumerate(order):
            slower = applies is not None and applies(place, order[place - 1] if place else "", name)
            hiccup = 1.0 if source.random() < 0.01 else 0.0
            logs[name] = sample + 0.2 * METHODS.index(name) + shift * slower + source.gauss(0, noise) + hiccup
        groups.append(Turn(order, logs))
    found = strongest(groups)
    assert found is not None
    return found


@pytest.mark.slow
@pytest.mark.parametrize("what", list(EFFECTS))
def test_three_per_cent_are_seen(what: str) -> None:
    """Of 100 samples x 4 methods, at a noise of 2 % a line: power above 0.8."""
    found = [simulated(seed, EFFECTS[what]) for seed in range(50)]
    seen = [effect for effect in found if effect.p < ORDER_P]
    assert len(seen) > 0.8 * len(found)
    named = [effect for effect in seen if effect.what == what]
    assert len(named) > 0.6 * len(seen)
    assert sum(effect.shift for effect in named) / len(named) == pytest.approx(0.03, abs=0.012)


@pytest.mark.slow
def test_without_an_effect_few_runs_are_warned() -> None:
    assert sum(simulated(seed).p < ORDER_P for seed in range(150)) <= 0.07 * 150


# ------------------------------------------------------------------------------------------ through the records


def in_williams_order(line: dict[str, Any]) -> dict[str, Any]:
    order = [METHODS[i] for i in williams.order(4, int(line["sample_id"]), 0, line["suite"], line["repeat"])]
    return {**line, "order": order.index(line["method"]), "before": order[order.index(line["method"]) - 1]}


def messages(fake: SimpleNamespace, factor: Callable[[dict[str, Any]], float], n: int = 100, **more: Any) -> list[str]:
    def change(line: dict[str, Any]) -> dict[str, Any]:
        line = in_williams_order(line)
        line.pop("before") if (slow := factor(line)) else None
        return {**line, **{name: line[name] * slow for name in ("ttft_s", "vision_s", "prefill_s", "decode_s")}}

    real = fake.suite(n=n, split="val", metrics=[])
    run = fake.run(suites=[real], labels=METHODS, alpha=0.6, change=change, **more)
    return [w.message for w in judge(run).warnings if w.name == "OrderEffect"]


def test_a_run_with_a_slow_first_place_is_warned(fake: SimpleNamespace) -> None:
    """Acceptance differs from sample to sample, so that ratios spread widely; 3 % are seen all the same."""
    (said,) = messages(fake, lambda line: 1.03 if line["order"] == 0 else 1.0)
    assert said.startswith("coco-caption: +") and "seconds at place 1 of 4 (p = " in said
    assert not messages(fake, lambda line: 1.0)


def test_a_run_with_a_slow_successor_is_warned(fake: SimpleNamespace) -> None:
    (said,) = messages(fake, lambda line: 1.03 if line["order"] and line["before"] == "fastvlm" else 1.0)
    assert "right after fastvlm" in said


def test_few_samples_say_nothing(fake: SimpleNamespace) -> None:
    assert not messages(fake, lambda line: 1.5 if line["order"] == 0 else 1.0, n=19)


def test_batches_are_one_observation(fake: SimpleNamespace) -> None:
    """Rows of a batch share its seconds: 100 samples in batches of 4 are 25 observations."""

    def change(line: dict[str, Any]) -> dict[str, Any]:
        number, row = divmod(int(line["sample_id"]), 4)
        order = [METHODS[i] for i in williams.order(4, number, 0, line["suite"], 0)]
        place = order.index(line["method"])
        slow = (1.3 if place == 0 else 1.0) * (1 + 0.01 * ((number * 7 + place) % 5))
        batch = {"id": number, "size": 4, "row": row, "ttft_s": 0.2 * slow, "decode_s": 0.4 * slow}
        return {**line, "order": place, "batch": batch}

    real = fake.suite(n=100, split="val", metrics=[])
    run = fake.run(suites=[real], labels=METHODS, change=change, tokens=12, meta={"config": {"batch_size": 4}})
    (said,) = [w.message for w in judge(run).warnings if w.name == "OrderEffect"]
    assert "at place 1 of 4" in said
