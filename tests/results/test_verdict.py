"""Each warning appears for its cause and not without it; each reason makes a run INVALID."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fastvlm_bench.analysis.notices import Notice
from fastvlm_bench.analysis.speedup import word
from fastvlm_bench.analysis.statistics import Estimate
from fastvlm_bench.analysis.summary import summarise
from fastvlm_bench.analysis.verdict import WARNINGS, Verdict, judge


def names(verdict: Verdict) -> list[str]:
    return [notice.name for notice in verdict.warnings]


def message(verdict: Verdict, name: str) -> str:
    return next(notice.message for notice in verdict.warnings if notice.name == name)


@pytest.fixture
def real(fake: SimpleNamespace) -> dict[str, Any]:
    """A suite that gives no warning at all."""
    suite: dict[str, Any] = fake.suite(n=40, split="val", source="coco", metrics=[])
    return suite


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(1.02, 1.3, "FASTER"), (1.001, 1.02, "FASTER"), (0.7, 0.99, "SLOWER"), (0.995, 1.009, "SAME"),
     (1.001, 1.009, "SAME"), (0.98, 1.3, "AMBIGUOUS"), (0.98, 1.02, "AMBIGUOUS")],
)  # fmt: skip
def test_word(low: float, high: float, expected: str) -> None:
    assert word(Estimate((low + high) / 2, low, high, 30)) == expected


def test_word_without_evidence_is_ambiguous() -> None:
    assert word(None) == "AMBIGUOUS"
    assert word(Estimate(2.0, None, None, 1)) == "AMBIGUOUS"
    assert word(Estimate(2.0, 1.9, 2.1, 4)) == "AMBIGUOUS"


def test_a_good_run_is_valid_without_warnings(fake: SimpleNamespace, real: dict[str, Any]) -> None:
    verdict = judge(fake.run(suites=[real]))
    assert verdict == Verdict("VALID", (), ())
    assert verdict.as_dict() == {"status": "VALID", "reasons": []}
    assert Notice("ShortOutputs", "x").as_dict() == {"name": "ShortOutputs", "message": "x"}


def test_cider_of_a_part_of_a_suite_is_said(fake: SimpleNamespace, real: dict[str, Any]) -> None:
    """`--limit` cut the suite: as many samples as the limit. A limit that cut nothing says nothing."""
    caption = {**fake.suite(n=30), "split": "val2014"}
    cut = judge(fake.run(suites=[caption], meta={"config": {"limit": 30}}))
    assert "SubsetCider" in names(cut) and "these 30 images" in str(cut.warnings)
    assert "SubsetCider" not in names(judge(fake.run(suites=[caption], meta={"config": {"limit": 31}})))
    assert "SubsetCider" not in names(judge(fake.run(suites=[caption])))


def test_short_outputs(fake: SimpleNamespace, real: dict[str, Any]) -> None:
    assert names(judge(fake.run(suites=[real], tokens=8))) == []
    assert "ShortOutputs" in names(judge(fake.run(suites=[real], tokens=7)))


def test_unjudged_divergence_is_invalid_in_float32_only(fake: SimpleNamespace, real: dict[str, Any]) -> None:
    """As in records of 0.1, where no output was judged."""
    exact = judge(fake.run(suites=[real], change=differing(None)))
    assert exact.status == "INVALID"
    assert exact.reasons == (
        "coco-caption, fastvlm: 4 outputs of a lossless method differ from standard in float32, and none was judged",
    )
    assert "4 of 40 outputs differ" in message(exact, "Diverged")
    assert "003@0, 007@0, 011@0 and 1 more" in message(exact, "Diverged")
    rounded = judge(fake.run(suites=[real], change=differing(None), meta={"model": {"dtype": "bfloat16"}}))
    assert rounded.status == "VALID" and "--dtype float32" in message(rounded, "Diverged")
    sampled = judge(fake.run(suites=[real], change=differing(None), meta={"config": {"temperature": 0.7}}))
    assert sampled.status == "VALID" and names(sampled) == []


WRONG = ("003", "007", "011", "013")


def differing(outcome: str | None, method: str = "fastvlm", samples: tuple[str, ...] = WRONG) -> Any:
    """A change of lines: these samples of a method differ, judged as `outcome`; the others are identical."""

    def change(line: dict[str, Any]) -> dict[str, Any]:
        if line["method"] != method:
            return line
        if line["sample_id"] not in samples:
            return {**line, "losslessness": {"outcome": "identical"}} if outcome else line
        found = {"outcome": outcome, "index": 0, "token": 1000, "expected": 5, "gap": 0.3, "epsilon": 0.5}
        told = {"losslessness": found} if outcome else {}
        return {**line, "token_ids": [1000, *line["token_ids"][1:]], **told}

    return change


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize(
    ("outcome", "status", "name", "said"),
    [
        ("violation", "INVALID", "Diverged", "0 near-ties, 4 violations; a violation is a token that the target would"),
        ("near-tie", "VALID", "NearTies", "4 by near-ties: the largest gap is 0.60 of what the target's own rounding"),
        ("unsteady", "VALID", "UnsteadyTarget", "4 by the model's own doing: without any method, it chooses other"),
        ("unchecked", "VALID", "Diverged", "the others could not be judged"),
    ],
)
def test_only_a_violation_is_invalid_in_every_dtype(
    fake: SimpleNamespace, real: dict[str, Any], dtype: str, outcome: str, status: str, name: str, said: str
) -> None:
    verdict = judge(fake.run(suites=[real], change=differing(outcome), meta={"model": {"dtype": dtype}}))
    assert verdict.status == status
    assert said in message(verdict, name)
    assert "4 of 40 outputs differ from standard (sample@token 003@0, 007@0, 011@0 and 1 more)" in message(
        verdict, name
    )
    assert {"Diverged", "NearTies", "UnsteadyTarget"} & set(names(verdict)) == {name}, "one line, not two that disagree"
    if outcome != "violation":
        assert verdict.reasons == () and "report it" not in message(verdict, name)
    else:
        assert verdict.reasons == (
            "coco-caption, fastvlm: 4 outputs have a token that the target would not have chosen",
        )


def test_the_controls_count_stands_beside_the_methods(fake: SimpleNamespace, real: dict[str, Any]) -> None:
    own, controls = differing("near-tie"), differing("near-tie", "control", (*WRONG, "017"))
    run = fake.run(suites=[real], labels=("standard", "fastvlm", "control"), change=lambda line: own(controls(line)),
                   meta={"model": {"dtype": "bfloat16"}})  # fmt: skip
    ties = [notice.message for notice in judge(run).warnings if notice.name == "NearTies"]
    assert len(ties) == 2 and ties[0].endswith("; fastvlm differs on 4 of 40, control on 5 of 40")
    assert "differs on" not in ties[1], "the control needs no comparison with itself"


def test_lossy_method_may_differ(fake: SimpleNamespace, real: dict[str, Any]) -> None:
    def change(line: dict[str, Any]) -> dict[str, Any]:
        return {**line, "token_ids": [1000, *line["token_ids"][1:]]} if line["method"] == "early-exit" else line

    verdict = judge(fake.run(suites=[real], labels=("standard", "early-exit"), change=change))
    assert verdict.status == "VALID" and "Diverged" not in names(verdict)


def test_slower_than_reference_names_its_cause(fake: SimpleNamespace, real: dict[str, Any]) -> None:
    def overhead(line: dict[str, Any]) -> dict[str, Any]:
        return {**line, "decode_s": line["decode_s"] * 5} if line["method"] == "fastvlm" else line

    assert "the loop around" in message(judge(fake.run(suites=[real], change=overhead)), "SlowerThanReference")
    poor = judge(fake.run(suites=[real], alpha=0.2))
    assert "α is 0.2" in message(poor, "SlowerThanReference") and "gamma=" in message(poor, "SlowerThanReference")

    def costly(line: dict[str, Any]) -> dict[str, Any]:
        if line["method"] != "fastvlm":
            return line
        rounds = [[*r[:4], r[4] * 8, r[5] * 2] for r in line["rounds"]]
        return {**line, "rounds": rounds, "decode_s": 1.05 * sum(r[4] + r[5] for r in rounds)}

    assert "cost more than they save" in message(judge(fake.run(suites=[real], change=costly)), "SlowerThanReference")


LOOP = "hf-prompt-lookup"


def of_the_loop(run: Any, verdict: Verdict) -> list[str]:
    """What is said of the foreign loop's row."""
    return [f"{n.name}: {n.message}" for n in verdict.warnings if LOOP in n.message]


@pytest.mark.parametrize(
    ("fault", "said"),
    [("failed", "4 of 40 samples failed (transformers: KeyError: x)"),
     ("violation", "4 outputs have a token that the target would not have chosen"),
     ("unpaired", "1 of 40 samples have no pair"), ("few", "3 samples measured in both arms")],
)  # fmt: skip
def test_a_foreign_loops_faults_are_its_own(fake: SimpleNamespace, real: dict[str, Any], fault: str, said: str) -> None:
    """Any reason that makes another row INVALID is one warning of such a row, whatever else is VALID."""

    def change(line: dict[str, Any]) -> dict[str, Any]:
        if line["method"] != LOOP:
            return line
        if fault == "failed" and line["sample_id"] in WRONG:
            return dict(fake.failed(line, "transformers: KeyError: x"))
        return differing("violation", LOOP)(line) if fault == "violation" else line

    run = fake.run(suites=[real], labels=("standard", "fastvlm", LOOP), change=change)
    gone = {"unpaired": {"007"}, "few": {f"{i:03d}" for i in range(3, 40)}}.get(fault, set())
    run.lines[:] = [line for line in run.lines if line["method"] != LOOP or line["sample_id"] not in gone]
    verdict = judge(run)
    assert verdict.status == "VALID", verdict.reasons
    (told,) = of_the_loop(run, verdict)
    assert told.startswith(f"ForeignLoop: coco-caption, {LOOP}: ") and said in told
    assert "ForeignLoop" not in names(judge(fake.run(suites=[real], labels=("standard", "fastvlm", LOOP))))


@pytest.mark.parametrize("status", ["started", "success"])
def test_a_foreign_loop_in_a_run_that_has_not_ended(fake: SimpleNamespace, real: dict[str, Any], status: str) -> None:
    """The runner judges with a status of its own; a sample without a pair is a fault only when the run is whole."""
    run = fake.run(suites=[real], labels=("standard", "fastvlm", LOOP))
    run.lines[:] = [line for line in run.lines if line["method"] != LOOP or line["sample_id"] != "007"]
    assert ("ForeignLoop" in names(judge(run, status=status))) == (status == "success")


@pytest.mark.parametrize(("n", "warned", "status"), [(20, False, "VALID"), (19, True, "VALID"), (5, True, "VALID"),
                                                    (4, True, "INVALID"), (1, True, "INVALID")])  # fmt: skip
def test_too_few_samples(fake: SimpleNamespace, n: int, warned: bool, status: str) -> None:
    verdict = judge(fake.run(suites=[fake.suite(n=n, split="val", metrics=[])]))
    assert ("TooFewSamples" in names(verdict), verdict.status) == (warned, status)


def test_noisy_machine_is_read_on_the_reference_not_on_acceptance(fake: SimpleNamespace, real: dict[str, Any]) -> None:
    assert "NoisyMachine" not in names(judge(fake.run(suites=[real], alpha=0.5, noise=0.01)))
    noise = {f"{i:03d}": 1 + 0.2 * (i % 4) for i in range(40)}
    very = {f"{i:03d}": 1 + 1.0 * (i % 4) for i in range(40)}
    for factors, expected in ((noise, "coco-caption: noisy"), (very, "coco-caption: very noisy")):

        def change(line: dict[str, Any], by: dict[str, float] = factors) -> dict[str, Any]:
            return {**line, "decode_s": line["decode_s"] * by[line["sample_id"]]}

        assert message(judge(fake.run(suites=[real], change=change)), "NoisyMachine").startswith(expected)


def test_recorded_and_environmental_warnings(fake: SimpleNamespace, real: dict[str, Any]) -> None:
    meta = {"environment": {"dirty": True}, "warnings": [{"name": "Throttled", "message": "thermal"},
                                                         {"name": "ShortOutputs", "message": "stale"}]}  # fmt: skip
    verdict = judge(fake.run(suites=[real], meta=meta))
    assert names(verdict) == ["DirtyTree", "Throttled"] and message(verdict, "Throttled") == "thermal"
    assert names(judge(fake.run(suites=[{**real, "split": "embedded"}]))) == ["EmbeddedData"]


def test_order_effect(fake: SimpleNamespace, real: dict[str, Any]) -> None:
    def change(line: dict[str, Any]) -> dict[str, Any]:
        return {**line, "decode_s": line["decode_s"] * (1.2 if line["order"] else 1.0)}

    verdict = judge(fake.run(suites=[real], change=change))
    assert message(verdict, "OrderEffect").startswith("coco-caption: -12")  # decoding is most of the time
    assert "seconds at place 1 of 2 (p = " in message(verdict, "OrderEffect")


def test_failed_samples_are_invalid_and_named(fake: SimpleNamespace, real: dict[str, Any]) -> None:
    def change(line: dict[str, Any]) -> dict[str, Any]:
        return fake.failed(line) if line["method"] == "fastvlm" and line["sample_id"] == "004" else line

    verdict = judge(fake.run(suites=[real], change=change))
    assert verdict.status == "INVALID" and verdict.reasons == ("coco-caption, fastvlm: 1 of 40 samples failed",)
    assert "1 of 40 samples failed (out_of_memory)" in message(verdict, "FailedSamples")


@pytest.mark.parametrize("status", ["started", "interrupted", "error"])
def test_unfinished_runs_are_invalid(fake: SimpleNamespace, real: dict[str, Any], status: str) -> None:
    run = fake.run(suites=[real], status=status)
    assert judge(run).reasons == (f"the run is {status}, not finished; go on with --resume run",)
    assert judge(run, status="success").status == "VALID"


def test_broken_identities_are_invalid(fake: SimpleNamespace, real: dict[str, Any]) -> None:
    def change(line: dict[str, Any]) -> dict[str, Any]:
        return {**line, "rounds": line["rounds"][:-1]} if line["sample_id"] == "000" else line

    verdict = judge(fake.run(suites=[real], change=change))
    assert verdict.status == "INVALID" and "the counts do not add up (coco-caption/000/" in verdict.reasons[0]


def test_missing_pairs_of_a_finished_run_and_torn_lines_are_invalid(
    fake: SimpleNamespace, real: dict[str, Any], tmp_path: Path
) -> None:
    def change(line: dict[str, Any]) -> dict[str, Any] | None:
        return None if line["sample_id"] > "029" else line

    verdict = judge(fake.run(suites=[real], change=change))
    assert verdict.reasons == ("coco-caption, fastvlm: 10 of 40 samples have no pair",)
    run = fake.run(suites=[real])
    torn = type(run)(run.folder, run.meta, run.lines, torn=True)
    assert judge(torn).reasons == ("the last line is torn: the run was killed while writing it; go on with --resume",)


def test_the_list_of_warnings_is_closed_and_documented() -> None:
    text = (Path(__file__).parents[2] / "docs" / "measuring.md").read_text("utf-8")
    package = Path(__file__).parents[2] / "fastvlm_bench"
    source = (package / "analysis" / "verdict.py").read_text("utf-8")
    others = "".join(
        (package / "analysis" / name).read_text("utf-8") for name in ("notices.py", "differing.py", "remedies.py")
    )
    for name in WARNINGS:
        assert f"`{name}`" in text
        assert f'"{name}"' in source.split("WARNINGS = (")[1].split(")", 1)[1] + others


def names_of(run: Any) -> list[str]:
    return [notice.name for notice in judge(run).warnings]


def test_holm_takes_the_word_away_from_a_lucky_suite(fake: SimpleNamespace, real: dict[str, Any]) -> None:
    """One of ten suites is faster with p = 0.03 or so: alone it is called faster, among ten it is not."""
    assert word(Estimate(1.05, 1.01, 1.09, 30)) == "FASTER"
    assert (
        word(Estimate(1.05, 1.01, 1.09, 30), 0.2) == "AMBIGUOUS"
        and word(Estimate(1.0, 0.995, 1.005, 30), 0.9) == "SAME"
    )
    suites = [fake.suite(f"coco-caption-{i}", n=20) for i in range(3)]
    rows = summarise(fake.run(suites=suites))
    ps = [row.speedup.decode_speedup_holm_p for row in rows if row.method != row.reference]
    assert len(ps) == 3 and all(p is not None and p < 0.01 for p in ps)
    assert summarise(fake.run(suites=[real]))[1].speedup.decode_speedup_holm_p is None, "one suite needs no adjustment"


def test_an_outlier_is_kept_counted_and_said_where_it_decides(fake: SimpleNamespace, real: dict[str, Any]) -> None:
    def slow(line: dict[str, Any]) -> dict[str, Any]:
        factor = 1.0
        if line["method"] == "fastvlm":
            factor = 60.0 if line["sample_id"] == "003" else 1.6
        own = {name: line[name] * factor for name in ("decode_s", "ttft_s", "vision_s", "prefill_s")}
        return {**line, **own, "rounds": [[*r[:4], r[4] * factor, r[5] * factor] for r in line["rounds"]]}

    run = fake.run(suites=[real], change=slow)
    row = summarise(run)[1]
    assert row.speedup.outliers == 1 and row.counts.samples_paired == 40
    assert row.speedup.e2e_speedup_without_outliers is not None and row.speedup.e2e_speedup_without_outliers.n == 39
    assert "Outliers" in names_of(run)
    assert "Outliers" not in names_of(fake.run(suites=[real]))


def test_a_slow_start_and_a_drift_of_the_reference_are_said(fake: SimpleNamespace, real: dict[str, Any]) -> None:
    def slower(factor: Callable[[int], float]) -> Callable[[dict[str, Any]], dict[str, Any]]:
        return lambda line: {**line, "decode_s": line["decode_s"] * factor(int(line["sample_id"]))}

    assert "NotWarmedUp" in names_of(fake.run(suites=[real], change=slower(lambda i: 1.0 + (i == 0))))
    assert "Drifting" in names_of(fake.run(suites=[real], change=slower(lambda i: 1.0 + i / 100)))
    assert not {"NotWarmedUp", "Drifting"} & set(names_of(fake.run(suites=[real])))


def test_a_suite_that_a_rule_ended_is_valid_and_says_so(fake: SimpleNamespace, real: dict[str, Any]) -> None:
    stopped = {"coco-caption": {"by": "width", "until_width": 0.05, "budget_s": None, "groups": 25, "seconds": 9.0,
                                "widths": {"fastvlm": 0.043}}}  # fmt: skip

    def first(line: dict[str, Any]) -> dict[str, Any] | None:
        return line if int(line["sample_id"]) < 25 else None

    run = fake.run(suites=[real], meta={"stopped": stopped}, change=first)
    verdict = judge(run)
    assert verdict.status == "VALID"
    (said,) = [notice.message for notice in verdict.warnings if notice.name == "StoppedEarly"]
    assert "ended by --until-width 0.05 (the widest interval is ±4.3%) after 25 of 40 samples" in said
    assert judge(fake.run(suites=[real], change=first)).status == "INVALID", "without a rule they are missing"
    budget = {"coco-caption": {**stopped["coco-caption"], "by": "budget", "budget_s": 60.0}}
    found = judge(fake.run(suites=[real], meta={"stopped": budget}, change=first))
    assert "ended by --budget 60" in message(found, "StoppedEarly")


def test_invocations_are_told_apart(fake: SimpleNamespace, real: dict[str, Any]) -> None:
    def process(line: dict[str, Any]) -> dict[str, Any]:
        factor = 1.3 if line["method"] == "fastvlm" and line["repeat"] == 2 else 1.0
        times = {name: line[name] * factor for name in ("decode_s",)}
        rounds = [[*r[:4], r[4] * factor, r[5] * factor] for r in line["rounds"]]
        return {**line, **times, "rounds": rounds, "invocation": line["repeat"]}

    run = fake.run(suites=[real], repeats=3, change=process, alpha=1.0)
    row = summarise(run)[1]
    first, second, third = row.speedup.speedup_by_invocation
    assert row.counts.invocations == 3 and first == pytest.approx(second, rel=0.02)
    assert first / third == pytest.approx(1.3, rel=0.02)
    assert row.speedup.speedup_between is not None and row.speedup.speedup_between.n == 3
    assert row.speedup.speedup_between.value == pytest.approx((first * second * third) ** (1 / 3))
    assert "InvocationsDiffer" in names_of(run)
    alike = fake.run(suites=[real], repeats=3, alpha=1.0, change=lambda line: {**line, "invocation": line["repeat"]})
    assert "InvocationsDiffer" not in names_of(alike)
    repeated = summarise(fake.run(suites=[real], repeats=3))[1]
    assert repeated.speedup.speedup_between is None, "repeats are no invocations"


def test_a_metric_that_raises_leaves_the_times_alone(
    fake: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from fastvlm_bench.metrics import rouge_l
    from fastvlm_bench.report.sample_export import samples_csv

    def fails(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError("no n-grams\nat all")

    run = fake.run(suites=[fake.suite(n=21, split="val", source="coco")])
    monkeypatch.setattr(rouge_l, "score", fails)
    row = summarise(run)[1]
    by_name = {quality.metric: quality for quality in row.quality}
    assert (
        by_name["rouge_l"].value is None
        and by_name["bleu4"].value is not None
        and row.speedup.decode_speedup_geomean is not None
    )
    assert "rouge_l could not be computed (ZeroDivisionError: no n-grams)" in message(judge(run), "ScoringFailed")
    assert samples_csv(run).count("\n") == 43


def test_seconds_that_do_not_add_up(fake: SimpleNamespace, real: dict[str, Any]) -> None:
    """Half of the decoding seconds of one arm are lost from its total, not from its rounds."""

    def lost(line: dict[str, Any]) -> dict[str, Any]:
        return {**line, "decode_s": line["decode_s"] * 0.8} if line["method"] == "fastvlm" else line

    assert "SecondsDoNotAddUp" in names_of(fake.run(suites=[real], change=lost))
    assert "SecondsDoNotAddUp" not in names_of(fake.run(suites=[real]))


@pytest.mark.parametrize(("label", "factor", "warned"), [
    ("hf-generate", 3.0, True), ("hf-generate", 1.08, True), ("hf-generate", 1.0, False), ("hf-generate", 1.03, False),
    ("control:gamma=0", 1.5, True), ("early-exit", 3.0, False), ("fastvlm", 3.0, False),
])  # fmt: skip
def test_a_slowed_reference_is_told_by_what_drafts_nothing(
    fake: SimpleNamespace, real: dict[str, Any], label: str, factor: float, warned: bool
) -> None:
    """Tripling every second of the reference must not pass: only a lossless arm without drafts can show it."""

    def change(line: dict[str, Any]) -> dict[str, Any]:
        slow = factor if line["method"] == "standard" else 1.0
        rounds = [[*r[:4], r[4] * slow, r[5] * slow] for r in line["rounds"]]
        return {**line, "rounds": rounds, **{name: line[name] * slow for name in
                                             ("ttft_s", "vision_s", "prefill_s", "decode_s")}}  # fmt: skip

    own = fake.method(label, name="control", options={"gamma": 0}) if ":" in label else fake.method(label)
    verdict = judge(fake.run(suites=[real], methods=[fake.method("standard"), own], change=change))
    assert ("SlowReference" in names(verdict)) == warned
    if warned:
        said = message(verdict, "SlowReference")
        assert said.startswith(f"coco-caption, {label}: decodes ") and "without drafting" in said
