"""Stop rules: the width, which is the report's, from twenty images on; the time; and what they say of themselves."""

import itertools
import random
from types import SimpleNamespace
from typing import Any

import pytest

from fastvlm_bench.analysis import stopping
from fastvlm_bench.analysis.stopping import StopRule, check_stopping
from fastvlm_bench.analysis.summary import summarise
from fastvlm_bench.errors import UsageError
from fastvlm_bench.machine.clock import FakeClock

numbers = itertools.count()


def group(reference_s: float, own_s: float, error: str | None = None) -> list[dict[str, Any]]:
    """One sample's lines, of an image of its own."""
    sample = {"sample_id": str(next(numbers)), "token_ids": [5, 6, 7, 2], "ttft_s": 1.0, "repeat": 0}
    return [{**sample, "method": "standard", "decode_s": reference_s, "error": error},
            {**sample, "method": "fastvlm", "decode_s": own_s, "error": None}]  # fmt: skip


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
    quick.add([group(2.0, 1.0) for _ in range(19)])
    assert quick.by is None and quick.widths() == {"fastvlm": None}
    quick.add([group(2.0, 1.0)])
    assert quick.by == "width"


def test_what_the_looks_cost_grows_with_the_samples_and_no_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    """To look after each sample at all samples so far costs four times as much for twice the samples."""
    costs, real = [0], stopping.medians
    monkeypatch.setattr(stopping, "medians", lambda lines: costs.__setitem__(0, costs[0] + 1) or real(lines))
    found = dict[int, int]()
    for samples in (400, 800):
        costs[0] = 0
        rule, source = StopRule("standard", FakeClock(), 1e-9, None), random.Random(0)
        for _ in range(samples):
            rule.add([group(2.0 * source.gauss(1, 0.08), 1.0)])
        assert rule.by is None
        found[samples] = costs[0]
    assert found[800] < 2.2 * found[400] and found[800] < 2 * 25 * 800, "each sample is looked at 21 times in all"


def test_what_comes_before_the_samples_does_not_use_up_the_budget() -> None:
    clock = FakeClock(0)
    rule = StopRule("standard", clock, None, 5.0)
    clock.advance(60.0)  # warming up, pricing single passes
    rule.start()
    clock.advance(4.0)
    assert rule.summary()["seconds"] == 4.0


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
    rule.add([group(2.0, 1.0, error="out_of_memory: 3 GiB") for _ in range(40)])
    assert rule.by is None and rule.summary()["by"] == "samples" and rule.summary()["groups"] == 40


# ------------------------------------------------------------------------------------------ the report's own width


def watched(fake: SimpleNamespace, until_width: float, repeats: int, temperature: float, batch: int) -> Any:
    """The rule after it ended a suite of two questions per image, and the row of the report of these lines alone.

    A sample's ratio differs from the others' by 30 %, an image's by 20 %, and a repeat's by 1 %.
    """
    suite, source = fake.suite("vqav2", n=1200), random.Random(7)
    of_image: dict[str, float] = {}
    of_sample: dict[str, float] = {}
    images = {sample["sample_id"]: sample["image_id"] for sample in suite["samples"]}

    def change(line: dict[str, Any]) -> dict[str, Any]:
        sample = line["sample_id"]
        base = of_image.setdefault(images[sample], source.gauss(0, 0.2))
        base += of_sample.setdefault(sample, source.gauss(0, 0.3))
        fast = line["method"] == "fastvlm"
        seconds = 2.718 ** (base if fast else 1) * source.gauss(1, 0.01)
        ids = line["token_ids"] + ([9] * source.randint(0, 5) if temperature and fast else [])
        place = int(sample) % batch
        group = (
            {}
            if batch == 1
            else {
                "batch": {
                    "id": int(sample) // batch,
                    "size": batch,
                    "row": place,
                    "ttft_s": batch * line["ttft_s"],
                    "decode_s": batch * seconds,
                }
            }
        )
        return {**line, "decode_s": seconds, "token_ids": ids, **group}  # fmt: skip

    meta, lines = fake.made(suites=[suite], repeats=repeats, change=change, tokens=6,
                            meta={"config": {"temperature": temperature, "batch_size": batch}})  # fmt: skip
    rule = StopRule("standard", FakeClock(), until_width, None, images=images, sampled=bool(temperature),
                    repeats=repeats)  # fmt: skip
    groups: dict[Any, list[dict[str, Any]]] = {}
    for line in lines:
        groups.setdefault((int(line["sample_id"]) // batch, line["repeat"]), []).append(line)
    taken: list[dict[str, Any]] = []
    for own in groups.values():
        rule.add([own])
        taken += own
        if rule.by is not None:
            break
    keys = {(line["sample_id"], line["repeat"]) for line in taken}
    run = fake.run(suites=[suite], repeats=repeats, change=lambda line: None)
    run.meta["config"] |= meta["config"]
    run.lines.extend(line for line in lines if (line["sample_id"], line["repeat"]) in keys)
    return rule, summarise(run)[1]


@pytest.mark.slow
@pytest.mark.parametrize(("repeats", "temperature", "batch"), [(1, 0.0, 1), (4, 0.0, 1), (3, 0.7, 1), (2, 0.0, 3)])
def test_the_width_at_which_it_ends_is_the_reports(
    fake: SimpleNamespace, repeats: int, temperature: float, batch: int
) -> None:
    """Repeats are no samples, and two questions about one image are not independent: neither makes it end earlier."""
    rule, row = watched(fake, 0.06, repeats, temperature, batch)
    estimate = row.speedup.decode_speedup_geomean
    assert rule.by == "width" and estimate is not None and estimate.high is not None
    width = (estimate.high - estimate.value) / estimate.value
    assert rule.widths()["fastvlm"] == pytest.approx(width, rel=1e-9) and 0.05 < width <= 0.06
    assert rule.groups % repeats == 0, "it ends after the last repeat of a sample"


@pytest.mark.slow
def test_more_repeats_do_not_end_a_suite_earlier(fake: SimpleNamespace) -> None:
    once, four_times = (watched(fake, 0.06, repeats, 0.0, 1)[0] for repeats in (1, 4))
    assert four_times.groups / 4 > 0.6 * once.groups, "a quarter of the samples would do if repeats were samples"


def test_twenty_questions_on_few_images_do_not_end_a_suite() -> None:
    rule = StopRule("standard", FakeClock(), 0.5, None, images={str(n): str(n % 19) for n in range(10_000)})
    rule.add([group(2.0, 1.0) for _ in range(60)])
    assert rule.by is None and rule.widths() == {"fastvlm": None}


@pytest.mark.parametrize(("given", "message"), [
    ((1.5, None, 1), "--until-width is 1.5; it must be a share below 1, such as 0.02, above 0"),
    ((None, 0, 1), "--budget is 0; it must be a number of seconds, above 0"),
    ((0.02, None, 3), "--invocations measures the same samples in each process; leave --until-width out"),
])  # fmt: skip
def test_refusals(given: Any, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_stopping(*given)
    assert str(caught.value) == message
