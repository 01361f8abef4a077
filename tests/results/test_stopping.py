"""Stop rules: the width, from twenty pairs on; the time; and what they say of themselves."""

import random
from typing import Any

import pytest

from fastvlm_bench.analysis.stopping import StopRule, check_stopping
from fastvlm_bench.errors import UsageError
from fastvlm_bench.machine.clock import FakeClock


def group(reference_s: float, own_s: float, error: str | None = None) -> list[dict[str, Any]]:
    return [{"method": "standard", "decode_s": reference_s, "ttft_s": 1.0, "error": error},
            {"method": "fastvlm", "decode_s": own_s, "ttft_s": 1.0, "error": None}]  # fmt: skip


def test_it_ends_when_the_interval_is_narrow_and_not_before_twenty_pairs() -> None:
    source = random.Random(0)
    rule, count = StopRule("standard", FakeClock(), 0.02, None), 0
    while rule.by is None:
        rule.add([group(2.0 * source.gauss(1, 0.08), 1.0 * source.gauss(1, 0.02))])
        count += 1
    assert rule.by == "width" and 20 < count < 200
    (width,) = rule.widths().values()
    assert width is not None and width <= 0.02 and rule.summary()["groups"] == count
    quick = StopRule("standard", FakeClock(), 0.5, None)
    quick.add([group(2.0, 1.0)] * 19)
    assert quick.by is None and quick.widths() == {"fastvlm": None}
    quick.add([group(2.0, 1.0)])
    assert quick.by == "width"


def test_the_budget_is_in_seconds_of_the_clock() -> None:
    clock = FakeClock(ticks=0.0)
    rule = StopRule("standard", clock, None, 10.0)
    while rule.by is None:
        clock.advance(1.0)
        rule.add([group(2.0, 1.0)])
    assert rule.by == "budget" and rule.groups == 10
    assert rule.summary()["seconds"] == 10.0


def test_failed_samples_say_nothing_and_all_samples_is_the_usual_end() -> None:
    rule = StopRule("standard", FakeClock(), 0.5, None)
    rule.add([group(2.0, 1.0, error="out_of_memory: 3 GiB")] * 40)
    assert rule.by is None and rule.summary()["by"] == "samples" and rule.summary()["groups"] == 40


@pytest.mark.parametrize(("given", "message"), [
    ((1.5, None, 1), "--until-width is 1.5; it must be a share below 1, such as 0.02, above 0"),
    ((None, 0, 1), "--budget is 0; it must be a number of seconds, above 0"),
    ((0.02, None, 3), "--invocations measures the same samples in each process; leave --until-width out"),
])  # fmt: skip
def test_refusals(given: Any, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_stopping(*given)
    assert str(caught.value) == message
