"""What was not measured keeps no bound: failed lines, metrics that fail, INVALID runs, methods that test no draft."""

from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from fastvlm_bench import metrics
from fastvlm_bench.analysis.floors import Floors, misses, require
from fastvlm_bench.analysis.verdict import judge
from fastvlm_bench.errors import FloorMissed
from fastvlm_bench.method_spec import CONTROL, METHODS
from fastvlm_bench.metrics import METRICS, MetricKind

LOOSE = {"decode_speedup": 1e-6, "alpha": 1e-6, "quality_drop": 100.0}
"""Bounds that whatever was measured keeps."""
OPTIONS = {"decode_speedup": "--min-decode-speedup", "alpha": "--min-alpha", "quality_drop": "--max-quality-drop"}


def told(run: Any, bound: str) -> list[str]:
    return list(misses(run, Floors(**{bound: LOOSE[bound]})))


def failing(fake: SimpleNamespace, method: str = "fastvlm", first: int = 0) -> Any:
    """A change that fails all lines of a method but the first few samples'."""
    return lambda line: fake.failed(line) if line["method"] == method and int(line["sample_id"]) >= first else line


@pytest.mark.parametrize("bound", LOOSE)
def test_loose_bounds_are_kept_by_what_was_measured(fake: SimpleNamespace, bound: str) -> None:
    assert told(fake.run(), bound) == []


@pytest.mark.parametrize("bound", LOOSE)
@pytest.mark.parametrize("method", ["fastvlm", "standard"])
def test_nothing_measured_misses(fake: SimpleNamespace, bound: str, method: str) -> None:
    """All lines of a method failed, or all of the reference, so that nothing has a pair."""
    found = told(fake.run(change=failing(fake, method)), bound)
    own = [text for text in found if text.startswith("fastvlm on coco-caption")]
    if bound == "alpha" and method == "standard":  # α needs no pair; the run is INVALID all the same
        assert not own and "INVALID" in found[0]
        return
    (text,) = own
    assert "not measured" in text and OPTIONS[bound] in text
    assert ("(40 of 40 samples failed)" in text) == (method == "fastvlm")


@pytest.mark.parametrize("bound", LOOSE)
@pytest.mark.parametrize(
    ("why", "changes"),
    [("5 are needed", {"suites": 3}), ("3 of 40 samples failed", {"failed": 37}), ("interrupted", {"status": "x"})],
)
def test_an_invalid_run_misses_every_bound_and_says_why(
    fake: SimpleNamespace, bound: str, why: str, changes: dict[str, Any]
) -> None:
    run = (
        fake.run(suites=[fake.suite(n=3)]) if "suites" in changes
        else fake.run(change=failing(fake, first=changes["failed"])) if "failed" in changes
        else fake.run(status="interrupted")
    )  # fmt: skip
    assert judge(run).status == "INVALID"
    text = told(run, bound)[0]
    assert "INVALID" in text and OPTIONS[bound] in text and why in text


@pytest.mark.parametrize("bound", LOOSE)
def test_a_foreign_loop_with_faults_misses_though_the_run_is_valid(fake: SimpleNamespace, bound: str) -> None:
    loop = fake.method("hf-prompt-lookup", options={"gamma": 6})
    run = fake.run(methods=[fake.method("standard"), loop], change=failing(fake, "hf-prompt-lookup", 38))
    assert judge(run).status == "VALID"
    (text,) = told(run, bound)
    assert "hf-prompt-lookup on coco-caption (2 of 40 samples failed)" in text and OPTIONS[bound] in text


@pytest.mark.parametrize("name", [name for name, kind in METHODS.items() if kind.drafts and name != CONTROL])
def test_a_method_that_drafts_and_tested_nothing_misses(fake: SimpleNamespace, name: str) -> None:
    """Whatever its options say: hf-mtp has none."""

    def undrafted(line: dict[str, Any]) -> dict[str, Any]:
        return {**line, "rounds": [[0, 0, 0, emitted, 0.0, a + b] for *_, emitted, a, b in line["rounds"]]}

    run = fake.run(methods=[fake.method("standard"), fake.method(name)], change=undrafted)
    assert any(f"{name} on coco-caption: α (not measured)" in text for text in told(run, "alpha"))


@pytest.mark.parametrize(
    ("labels", "bounds", "says"),
    [
        (("standard",), tuple(LOOSE), "beside the reference"),
        (("standard", "control"), tuple(LOOSE), "beside the reference"),
        (("standard", "hf-generate", "early-exit"), ("alpha",), "no method that drafts"),
    ],
)
def test_a_bound_that_nobody_is_asked_is_missed(
    fake: SimpleNamespace, labels: tuple[str, ...], bounds: tuple[str, ...], says: str
) -> None:
    """`-m all` may leave out every method that drafts, which only the run shows."""
    for bound in bounds:
        (text,) = told(fake.run(labels=labels), bound)
        assert says in text and OPTIONS[bound] in text


def scorer(monkeypatch: pytest.MonkeyPatch, name: str, error: Exception) -> None:
    def score(predictions: Any, references: Any) -> Any:
        raise error

    known, broken = metrics.load, ModuleType(name)
    monkeypatch.setattr(broken, "score", score, raising=False)
    monkeypatch.setattr(metrics, "load", lambda asked: broken if asked == name else known(asked))


@pytest.mark.parametrize("error", [ValueError("broken"), metrics.UsageError("sample 3 has no label")])
def test_a_metric_that_fails_misses(fake: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """Any exception; a reason excuses only metrics that declare that they may lack a value."""
    scorer(monkeypatch, "rouge_l", error)
    (text,) = told(fake.run(), "quality_drop")
    assert "rouge_l (not measured: " in text and str(error) in text


def test_a_stated_reason_of_a_metric_that_may_lack_a_value_passes(
    fake: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert METRICS["cider_d"].may_lack and not METRICS["rouge_l"].may_lack
    scorer(monkeypatch, "cider_d", metrics.UsageError("says nothing"))
    assert told(fake.run(), "quality_drop") == []
    alone = fake.run(suites=[fake.suite(metrics=["cider_d"])])
    (text,) = told(alone, "quality_drop")
    assert "not measured: cider_d: says nothing" in text, "it is the only metric, so nothing was measured"


def test_a_suite_without_metrics_misses(fake: SimpleNamespace) -> None:
    (text,) = told(fake.run(suites=[fake.suite(metrics=[])]), "quality_drop")
    assert "the suite has no metric" in text


@pytest.mark.parametrize("metric", ["cider_d", "rouge_l"])
def test_a_drop_is_told_in_points_and_as_tables_print_it(fake: SimpleNamespace, metric: str) -> None:
    def spoilt(line: dict[str, Any]) -> dict[str, Any]:
        return {**line, "text": "no"} if line["method"] == "fastvlm" else line

    run = fake.run(suites=[fake.suite(metrics=[metric])], change=spoilt, methods=[
        fake.method("standard"), fake.method("fastvlm", lossless=False)])  # fmt: skip
    (text,) = misses(run, Floors(quality_drop=1.0))
    kind: MetricKind = METRICS[metric]
    assert "points of 100" in text and ("as tables print it (0-10)" in text) == (kind.scale != 100)


def test_a_sweep_names_sizes_and_its_folder(fake: SimpleNamespace) -> None:
    runs = [fake.run(meta={"config": {"batch_size": size}}) for size in (1, 2)]
    with pytest.raises(FloorMissed) as missed:
        require(runs, Floors(decode_speedup=99.0), sweep=Path("the-sweep"))
    text = str(missed.value)
    assert "batch size 1: fastvlm on coco-caption" in text and "batch size 2: " in text
    assert text.endswith("everything is kept in the-sweep")
