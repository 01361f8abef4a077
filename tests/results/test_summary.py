"""Every derived number of a small run worked out by hand, and the rules for failures, repeats and short answers."""

from types import SimpleNamespace
from typing import Any

import pytest

from fastvlm_bench import metrics
from fastvlm_bench.analysis.counts import Counts
from fastvlm_bench.analysis.energy import Energy
from fastvlm_bench.analysis.sameness import Sameness
from fastvlm_bench.analysis.speedup import Speedup
from fastvlm_bench.analysis.statistics import Estimate
from fastvlm_bench.analysis.summary import Row, summarise
from fastvlm_bench.analysis.times import Spread
from fastvlm_bench.analysis.verdict import judge
from fastvlm_bench.errors import UsageError
from fastvlm_bench.records.identities import check_line


def entry(sample: str, method: str, ids: list[int], ttft: float, decode: float, rounds: list[list[Any]],
          **changes: Any) -> dict[str, Any]:  # fmt: skip
    base = {"suite": "coco-caption", "sample_id": sample, "method": method, "repeat": 0, "order": 0, "token_ids": ids,
            "text": "a red circle", "stop": "length", "ttft_s": ttft, "vision_s": ttft / 2, "prefill_s": ttft / 2,
            "decode_s": decode, "rounds": rounds, "memory": {"peak_rss_bytes": 100, "peak_allocated_bytes": None},
            "scores": {}, "error": None}  # fmt: skip
    return {**base, **changes}


@pytest.fixture
def by_hand(fake: SimpleNamespace) -> list[Row]:
    """Two samples of 5 and 4 tokens; standard: 0.25 s a token, fastvlm: 3 drafts at 0.05 s, 0.3 s to verify."""
    single = [0, 0, 0, 1, 0.0, 0.25]
    lines = [
        entry("000", "standard", [3, 4, 5, 6, 7], 1.0, 1.2, [single] * 4),
        entry("000", "fastvlm", [3, 4, 5, 6, 7], 1.1, 0.6, [[3, 3, 3, 4, 0.15, 0.3]], memory={"peak_rss_bytes": 130}),
        entry("001", "standard", [3, 4, 5, 6], 1.0, 0.8, [single] * 3),
        entry("001", "fastvlm", [3, 4, 5, 6], 1.1, 1.4, [[3, 2, 1, 2, 0.15, 0.3], [3, 1, 0, 1, 0.15, 0.3]],
              memory={"peak_rss_bytes": 120}),
    ]  # fmt: skip
    run = fake.run(suites=[fake.suite(n=2)])
    assert [problem for line in lines for problem in check_line(line)] == []
    run.lines[:] = [{**line, "seq": seq} for seq, line in enumerate(lines)]
    return summarise(run)


def test_reference_row(by_hand: list[Row]) -> None:
    row = by_hand[0]
    times, phases = row.times, row.phases
    assert row.method == row.reference == "standard"
    assert row.counts == Counts(samples=2, samples_ok=2, samples_failed=0, samples_paired=0, samples_one_token=0,
                                turns=2, repeats=1, invocations=1)  # fmt: skip
    assert times.ttft_s == Spread(1.0, None, None)
    assert times.tpot_s.median == pytest.approx((1.2 / 4 + 0.8 / 3) / 2)
    assert times.e2e_s.median == pytest.approx((2.2 + 1.8) / 2)
    assert times.decode_tokens_per_s == pytest.approx(7 / 2.0)
    assert times.e2e_tokens_per_s == pytest.approx(9 / 4.0)
    assert times.new_tokens_median == 4.5
    assert phases.decode_share == pytest.approx(2.0 / 4.0)
    assert phases.vision_share == pytest.approx(1.0 / 4.0)
    assert row.costs.standard_s_per_token == pytest.approx(0.25)
    assert (row.acceptance.tau, row.acceptance.alpha, row.acceptance.draft_acceptance_rate) == (1.0, None, None)
    assert row.acceptance.acceptance_by_position == row.acceptance.accepted_per_round == ()
    assert row.speedup == Speedup() and row.sameness == Sameness() and row.energy == Energy()
    assert (
        row.costs.measured_over_predicted is row.costs.predicted_decode_speedup is row.costs.draft_s_per_token is None
    )
    assert row.memory.peak_rss_delta_bytes is None
    assert all(quality.delta is None and quality.verdict == "" for quality in row.quality)


def test_method_row(by_hand: list[Row]) -> None:
    row = by_hand[1]
    speedup, acceptance, costs, phases = row.speedup, row.acceptance, row.costs, row.phases
    assert speedup.decode_speedup_geomean is not None and speedup.e2e_speedup_geomean is not None
    assert speedup.decode_speedup_totals is not None and speedup.e2e_speedup_totals is not None
    assert speedup.decode_speedup_totals.value == pytest.approx((1.2 + 0.8) / (0.6 + 1.4))
    assert speedup.e2e_speedup_totals.value == pytest.approx((2.2 + 1.8) / (1.7 + 2.5))
    assert speedup.decode_speedup_geomean.value == pytest.approx(((1.2 / 0.6) * (0.8 / 1.4)) ** 0.5)
    assert speedup.e2e_speedup_geomean.value == pytest.approx(((2.2 / 1.7) * (1.8 / 2.5)) ** 0.5)
    assert speedup.e2e_speedup_ceiling == pytest.approx(((2.2 / 1.0) * (1.8 / 1.0)) ** 0.5)
    assert acceptance.alpha == pytest.approx(4 / 6)  # accepted 3 + 1 + 0, tested 3 + 2 + 1
    assert acceptance.draft_acceptance_rate == pytest.approx(4 / 9)
    assert acceptance.tau == pytest.approx(7 / 3)
    assert acceptance.acceptance_by_position == pytest.approx((2 / 3, 1 / 2, 1.0))
    assert acceptance.accepted_per_round == pytest.approx((1 / 3, 1 / 3, 0, 1 / 3))  # rounds that accepted 3, 1 and 0
    assert (acceptance.rounds, acceptance.drafted_per_round) == (3, 3.0)
    assert costs.draft_s_per_token == pytest.approx(0.05)
    assert costs.verify_s_per_round == pytest.approx(0.3)
    # 7 tokens in 3 rounds of 9 drafts, each round with one more pass, at the costs that were measured apart.
    predicted = 7 * 0.010 / ((9 + 3) * 0.0015 + 3 * 0.0095)
    assert costs.predicted_decode_speedup == pytest.approx(predicted)
    assert costs.measured_over_predicted == pytest.approx(1.0 / predicted)
    assert (acceptance.undrafted, acceptance.alpha_without_stop) == (0, acceptance.alpha)
    shares = (phases.draft_share, phases.verify_share, phases.other_share)
    assert shares == pytest.approx((0.45 / 2, 0.9 / 2, 0.65 / 2))
    assert (row.sameness.identical, row.counts.samples_paired, row.counts.samples_one_token) == (2, 2, 0)
    assert row.sameness.different_rate_upper == 1.0
    memory = row.memory
    assert (memory.peak_rss_bytes, memory.peak_rss_delta_bytes, memory.peak_allocated_bytes) == (130, 30, None)
    assert [(q.metric, q.delta, q.verdict) for q in row.quality] == [
        (metric, Estimate(0.0, None, None, 2), "identical") for metric in ("bleu4", "rouge_l", "cider_d")
    ]


def close(estimate: Estimate | None) -> Estimate | None:
    """The estimate without the rounding errors of logarithms in its last places."""
    return estimate and Estimate(*(round(x, 12) if isinstance(x, float) else x for x in vars(estimate).values()))


def test_repeats_are_medians_of_times_within_a_sample(fake: SimpleNamespace) -> None:
    def outlier(line: dict[str, Any]) -> dict[str, Any]:
        seconds = {0: 0.5, 1: 0.5, 2: 50.0}[line["repeat"]]
        return {**line, "decode_s": seconds if line["method"] == "fastvlm" else 1.0}

    row = summarise(fake.run(suites=[fake.suite(n=4)], repeats=3, change=outlier))[1]
    assert row.counts.repeats == 3
    assert row.speedup.decode_speedup_totals == Estimate(2.0, 2.0, 2.0, 4) == close(row.speedup.decode_speedup_geomean)


def test_a_sample_that_failed_in_one_arm_leaves_both_arms_of_the_pair(fake: SimpleNamespace) -> None:
    def change(line: dict[str, Any]) -> dict[str, Any]:
        if line["sample_id"] == "001":  # would change every ratio if it were counted
            return fake.failed(line) if line["method"] == "fastvlm" else {**line, "decode_s": 1000.0}
        return {**line, "decode_s": 1.0 if line["method"] == "fastvlm" else 3.0}

    reference, row = summarise(fake.run(suites=[fake.suite(n=4)], change=change))
    counts = row.counts
    assert reference.counts.samples_ok == 4
    assert (counts.samples_ok, counts.samples_failed, counts.samples_paired) == (3, 1, 3)
    assert row.speedup.decode_speedup_totals == Estimate(3.0, 3.0, 3.0, 3) == close(row.speedup.decode_speedup_geomean)
    assert row.sameness.identical == 3
    assert row.speedup.e2e_speedup_geomean is not None and row.speedup.e2e_speedup_geomean.n == 3


def test_a_sample_that_failed_in_one_repeat_is_failed(fake: SimpleNamespace) -> None:
    def change(line: dict[str, Any]) -> dict[str, Any]:
        return fake.failed(line) if (line["sample_id"], line["repeat"]) == ("002", 1) else line

    rows = summarise(fake.run(suites=[fake.suite(n=4)], repeats=2, change=change))
    assert [(row.counts.samples_ok, row.counts.samples_failed) for row in rows] == [(3, 1)] * 2


def test_all_failed_and_nothing_run_give_rows_without_numbers(fake: SimpleNamespace) -> None:
    for change in (fake.failed, lambda line: None):
        for row in summarise(fake.run(suites=[fake.suite(n=3)], change=change)):
            assert row.counts.samples_ok == 0
            assert row.speedup.decode_speedup_geomean is None and row.acceptance.alpha is None
            assert row.times.decode_tokens_per_s is None
            assert row.times.ttft_s == Spread(None, None, None)
            assert all(quality.value is None for quality in row.quality)


def test_one_token_answers_have_no_decode_ratio_and_are_counted(fake: SimpleNamespace) -> None:
    row = summarise(fake.run(suites=[fake.suite("vqa-v2", n=6)], tokens=1))[1]
    assert (row.counts.samples_one_token, row.counts.samples_paired) == (6, 6)
    assert row.speedup.decode_speedup_geomean is None
    assert row.times.tpot_s.median is None and row.times.decode_tokens_per_s is None
    assert row.speedup.e2e_speedup_geomean is not None and row.speedup.e2e_speedup_geomean.n == 6
    assert row.speedup.e2e_speedup_ceiling == 1.0


def test_one_token_answers_among_longer_ones(fake: SimpleNamespace) -> None:
    def change(line: dict[str, Any]) -> dict[str, Any]:
        if line["sample_id"] == "000":
            return {**line, "token_ids": line["token_ids"][:1], "rounds": [], "decode_s": 0.0, "stop": "length"}
        return {**line, "decode_s": 1.0 if line["method"] == "fastvlm" else 2.0}

    row = summarise(fake.run(suites=[fake.suite(n=3)], change=change))[1]
    assert row.counts.samples_one_token == 1
    assert row.speedup.decode_speedup_totals == Estimate(2.0, 2.0, 2.0, 2) == close(row.speedup.decode_speedup_geomean)


def test_identical_is_about_token_ids_in_every_repeat(fake: SimpleNamespace) -> None:
    def change(line: dict[str, Any]) -> dict[str, Any]:
        if line["method"] == "fastvlm" and (line["sample_id"], line["repeat"]) == ("001", 1):
            return {**line, "token_ids": [*line["token_ids"][:3], 1000, *line["token_ids"][4:]]}  # the same text
        return line

    row = summarise(fake.run(suites=[fake.suite(n=4)], repeats=2, change=change))[1]
    assert (row.sameness.identical, row.counts.samples_paired, row.sameness.diverged) == (3, 4, ("001@3",))
    assert row.sameness.different_rate_upper is None
    assert {quality.verdict for quality in row.quality} == {"identical"}


def test_a_shorter_output_diverges_where_it_ends(fake: SimpleNamespace) -> None:
    def change(line: dict[str, Any]) -> dict[str, Any]:
        return {**line, "token_ids": line["token_ids"][:5]} if line["method"] == "fastvlm" else line

    assert summarise(fake.run(suites=[fake.suite(n=1)], change=change))[1].sameness.diverged == ("000@5",)


def test_early_exit_has_no_alpha_and_no_prediction(fake: SimpleNamespace) -> None:
    def change(line: dict[str, Any]) -> dict[str, Any]:
        if line["method"] != "early-exit":
            return {**line, "rounds": [[0, 0, 0, 1, 0.0, 0.010] for _ in line["rounds"]]}
        return {**line, "rounds": [[1, 0, 0, 1, 0.002, 0.0] for _ in line["rounds"]]}

    row = summarise(fake.run(suites=[fake.suite(n=3)], labels=("standard", "early-exit"), change=change))[1]
    assert not row.settings.lossless
    assert (row.acceptance.alpha, row.acceptance.draft_acceptance_rate, row.acceptance.tau) == (None, None, 1.0)
    assert row.costs.predicted_decode_speedup is None


@pytest.mark.parametrize("factor", [0.5, 2.0, 3.0])
@pytest.mark.parametrize("method", ["standard", "fastvlm"])
def test_the_prediction_does_not_follow_the_seconds_of_the_samples(
    fake: SimpleNamespace, method: str, factor: float
) -> None:
    """Every second of one arm of a record is multiplied: the prediction stays, and a warning names what parted."""

    def change(line: dict[str, Any]) -> dict[str, Any]:
        if line["method"] != method:
            return line
        rounds = [[*counts, draft_s * factor, verify_s * factor] for *counts, draft_s, verify_s in line["rounds"]]
        return {**line, "rounds": rounds, **{name: line[name] * factor for name in ("ttft_s", "decode_s")}}

    kept, edited = fake.run(), fake.run(change=change)
    (_, row), (_, other) = summarise(kept), summarise(edited)
    assert other.costs.predicted_decode_speedup == row.costs.predicted_decode_speedup
    assert not any("ThanPredicted" in notice.name for notice in judge(kept).warnings)
    faster = (factor > 1) == (method == "standard")
    wanted = {"FasterThanPredicted"} if faster else {"SlowerThanPredicted", "SlowerThanReference"}  # one for the cause
    assert len(wanted & {notice.name for notice in judge(edited).warnings}) == 1


def test_whatever_was_predicted_a_doubled_reference_cannot_pass(fake: SimpleNamespace) -> None:
    """A run may lie anywhere within the limits before its reference's seconds are doubled."""
    for slower in (0.6, 0.75, 0.9, 1.0, 1.2, 1.5):
        warned = []
        for reference in (1.0, 2.0):

            def change(line: dict[str, Any], by: float = slower, reference: float = reference) -> dict[str, Any]:
                factor = reference if line["method"] == "standard" else by
                return {**line, "decode_s": line["decode_s"] * factor,
                        "rounds": [[*r[:4], r[4] * factor, r[5] * factor] for r in line["rounds"]]}  # fmt: skip

            warned.append({notice.name for notice in judge(fake.run(change=change)).warnings})
        assert warned[1] & {"FasterThanPredicted"} or "SlowerThanPredicted" in warned[0], slower


def test_alpha_without_the_stop_is_that_of_the_rounds_decoded_apart(fake: SimpleNamespace) -> None:
    told = {"suite": "coco-caption", "method": "fastvlm", "samples": 9, "rounds": 40, "drafted": 400, "tested": 200,
            "accepted": 134, "emitted": 174}  # fmt: skip
    stopping = fake.method("fastvlm", options={"gamma": 6, "exit_layer": 2, "head": "mlp", "stop_below": 0.5})
    methods = [fake.method("standard"), stopping]
    acceptance = summarise(fake.run(methods=methods, meta={"without_stop": [told]}))[1].acceptance
    assert (acceptance.alpha_without_stop, acceptance.tau_without_stop) == (134 / 200, 174 / 40)
    assert acceptance.alpha != acceptance.alpha_without_stop
    unknown = summarise(fake.run(methods=methods))[1].acceptance
    assert unknown.alpha_without_stop is unknown.tau_without_stop is None, "a record that lacks it does not claim α"


def test_quality_difference_is_paired_and_clustered_by_image(fake: SimpleNamespace) -> None:
    def change(line: dict[str, Any]) -> dict[str, Any]:
        wrong = line["method"] == "early-exit" and int(line["sample_id"]) % 4 < 2  # both questions of every other image
        return {**line, "text": "wrong"} if wrong else line

    suite = fake.suite("vqa-v2", n=40)
    row = summarise(fake.run(suites=[suite], labels=("standard", "early-exit"), change=change))[1]
    (quality,) = row.quality
    assert quality.delta is not None and quality.delta.low is not None and quality.delta.high is not None
    assert quality.value == pytest.approx(0.5)
    assert quality.delta.value == pytest.approx(-0.5)
    # Ten of twenty images fell by 1: the lower bound is Clopper-Pearson's, the 0.975 quantile of Beta(11, 10).
    assert quality.delta.low == pytest.approx(-0.728, abs=0.005)
    assert (quality.delta.n, quality.delta.groups, quality.changed, quality.verdict) == (40, 20, 20, "worse")


class Pooled:
    """A corpus metric, matches / length over all samples, that also returns the counts of each sample."""

    calls = 0

    def counts(self, predictions: list[str], references: object) -> list[tuple[float, float]]:
        return [(float(text.count("a")), float(len(text))) for text in predictions]

    def combine(self, sums: list[float]) -> float:
        return sums[0] / sums[1]

    def score(self, predictions: list[str], references: object) -> metrics.MetricScore:
        self.calls += 1
        each = self.counts(predictions, references)
        pooled = self.combine([sum(column) for column in zip(*each, strict=True)])
        return metrics.MetricScore(pooled, [self.combine(list(one)) for one in each])


@pytest.mark.parametrize("n", [100, 20])
def test_a_pooled_metric_is_bounded_by_its_counts(
    fake: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, n: int
) -> None:
    scorer = Pooled()
    monkeypatch.setattr(metrics, "load", lambda name: scorer)

    def change(line: dict[str, Any]) -> dict[str, Any]:
        if line["method"] == "early-exit":
            return {**line, "text": "aab" * (1 + int(line["sample_id"]) % 7) + "b"}
        return {**line, "text": "ab" * (1 + int(line["sample_id"]) % 5)}

    suite = fake.suite(n=n, metrics=["bleu4"])
    row = summarise(fake.run(suites=[suite], labels=("standard", "early-exit"), change=change))[1]
    (quality,) = row.quality
    assert quality.delta is not None
    exact = sum(2 * (1 + i % 7) for i in range(n)) / sum(3 * (1 + i % 7) + 1 for i in range(n)) - 0.5
    assert quality.delta.value == pytest.approx(exact)
    assert quality.delta.low is not None and quality.delta.high is not None
    assert 0 < quality.delta.low < quality.delta.value < quality.delta.high and quality.verdict == "better"
    assert scorer.calls < 10


def test_bleu_itself_has_an_interval(fake: SimpleNamespace) -> None:
    def change(line: dict[str, Any]) -> dict[str, Any]:
        worse = line["method"] == "early-exit" and int(line["sample_id"]) % 2
        return {**line, "text": line["text"].replace("a ", "some ")} if worse else line

    suite = fake.suite(n=100, metrics=["bleu4"])
    (quality,) = summarise(fake.run(suites=[suite], labels=("standard", "early-exit"), change=change))[1].quality
    assert quality.delta is not None and quality.delta.low is not None and quality.delta.high is not None
    assert quality.delta.low < quality.delta.value < quality.delta.high < 0 and quality.verdict == "worse"


def test_interrupted_half_group_is_not_paired(fake: SimpleNamespace) -> None:
    def change(line: dict[str, Any]) -> dict[str, Any] | None:
        return None if (line["method"], line["sample_id"], line["repeat"]) == ("fastvlm", "003", 1) else line

    row = summarise(fake.run(suites=[fake.suite(n=4)], repeats=2, change=change))[1]
    assert (row.counts.samples_ok, row.counts.samples_paired) == (4, 3)


def test_percentiles_only_from_a_hundred_samples(fake: SimpleNamespace) -> None:
    few = summarise(fake.run(suites=[fake.suite(n=99, metrics=[])]))[0].times.e2e_s
    many = summarise(fake.run(suites=[fake.suite(n=100, metrics=[])]))[0].times.e2e_s
    assert few.p95 is None and few.median is not None
    assert many.p5 is not None and many.p95 is not None and many.p5 < many.p95


def test_a_run_that_ended_before_its_model_was_loaded(fake: SimpleNamespace) -> None:
    run = fake.run(suites=[fake.suite(n=2)], change=lambda line: None, meta={"error": "no such model"})
    run.meta["model"] = {"id": "tiny"}
    with pytest.raises(UsageError, match=r"run has no measurement: .* loaded \(no such model\); run it again"):
        summarise(run)


def test_control_costs_the_other_methods_no_word(fake: SimpleNamespace) -> None:
    """It is measured beside the methods in half precision without being asked for, so no p value may grow by it."""
    control = fake.method("control", options={"gamma": 4})
    alone, beside = (
        {row.method: row.speedup for row in summarise(fake.run(methods=[fake.method("standard"), *own]))}
        for own in ([fake.method("fastvlm")], [fake.method("fastvlm"), control])
    )
    assert beside["control"].decode_speedup_geomean is not None
    assert beside["control"].decode_speedup_holm_p is beside["fastvlm"].decode_speedup_holm_p is None
    assert alone["fastvlm"].decode_speedup_holm_p is None, "one method alone is not adjusted"


def test_control_costs_the_other_methods_no_word_of_quality(fake: SimpleNamespace) -> None:
    def change(line: dict[str, Any]) -> dict[str, Any]:
        lost = line["method"] != "standard" and int(line["sample_id"]) < 20
        return {**line, "text": "nothing of this"} if lost else line

    control = fake.method("control", options={"gamma": 4})
    alone, beside = (
        {row.method: row.quality for row in summarise(fake.run(methods=[fake.method("standard"), *own], change=change))}
        for own in ([fake.method("fastvlm")], [fake.method("fastvlm"), control])
    )
    assert [q.difference_p for q in alone["fastvlm"]] == [q.difference_p for q in beside["fastvlm"]]
    assert any(q.difference_p is not None for q in alone["fastvlm"])
    assert all(q.delta is not None for q in beside["control"]), "its own difference is still told"
