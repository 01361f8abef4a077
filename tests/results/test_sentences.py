"""What is said in sentences: which lossless method is the fastest, among which, and what is unknown of the others."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from fastvlm_bench.analysis.statistics import Estimate
from fastvlm_bench.analysis.summary import Row, summarise
from fastvlm_bench.analysis.verdict import judge
from fastvlm_bench.report.sentences import best, conclusion


def row_with(row: Row, speed: float, **sameness: Any) -> Row:
    estimate = Estimate(speed, speed - 0.1, speed + 0.1, 200)
    return replace(row, speedup=replace(row.speedup, decode_speedup_geomean=estimate),
                   sameness=replace(row.sameness, **sameness))  # fmt: skip


def test_the_sentence_is_of_the_fastest_that_kept_the_targets_tokens(fake: SimpleNamespace) -> None:
    run = fake.run(labels=("standard", "fastvlm", "fastvlm:gamma=4", "early-exit"))
    standard, first, second, lossy = summarise(run)
    lossy = row_with(lossy, 9.0)
    assert "decodes 3.00×" in best(run, [standard, row_with(first, 2.0), row_with(second, 3.0), lossy])
    for fault in ("violations", "unsteady"):
        rows = [standard, row_with(first, 2.0), row_with(second, 3.0, **{fault: 1}), lossy]
        assert "decodes 2.00×" in best(run, rows)
        assert best(run, [standard, rows[2], lossy]) == "No method that is called lossless kept the target's tokens."
    assert best(run, [standard, lossy]) == ""


@pytest.mark.parametrize("fault", ["violations", "unsteady", "unchecked", "diverged"])
def test_the_sentence_says_among_which_methods_it_is_the_fastest(fake: SimpleNamespace, fault: str) -> None:
    """A method without drafts that is faster is no member of those that draft, nor is one with other tokens."""
    run = fake.run(labels=("standard", "fastvlm", "fastvlm:gamma=4", "fastvlm:gamma=8", "hf-generate"))
    standard, first, second, third, plain = summarise(run)
    bad = row_with(third, 9.0, **{fault: ("000@0",) if fault == "diverged" else 1})
    slower, plain = [row_with(first, 2.0), row_with(second, 3.0)], row_with(plain, 4.0)
    said = best(run, [standard, *slower, plain])
    assert said.startswith("Fastest of 2 lossless methods that draft: fastvlm(") and "decodes 3.00×" in said
    cause = "could not be judged" if fault in ("unchecked", "diverged") else "did not keep the target's tokens"
    assert f"Fastest of 2 lossless methods that draft (1 more {cause}): " in best(run, [standard, *slower, bad, plain])
    alone = best(run, [standard, slower[0], bad, plain])
    assert alone.startswith(f"The one lossless method that drafts with the target's tokens (1 more {cause}): fastvlm(")
    known = "is known to have kept" if fault in ("unchecked", "diverged") else "kept"
    assert best(run, [standard, bad, plain]) == f"No method that is called lossless {known} the target's tokens."
    assert best(run, [standard, plain]).startswith("hf-generate decodes 4.00×")


def test_the_control_arm_is_no_method_to_recommend(fake: SimpleNamespace) -> None:
    control = fake.method("control", options={"gamma": 6})
    run = fake.run(methods=[fake.method("standard"), control, fake.method("fastvlm")])
    standard, arm, drafting = summarise(run)
    assert best(run, [standard, row_with(arm, 3.0), row_with(drafting, 2.0)]).startswith("fastvlm(")


@pytest.mark.parametrize("beside", ["violation", "near-tie", "unsteady", "unchecked"])
def test_unchecked_outputs_are_counted_beside_any_other(fake: SimpleNamespace, beside: str) -> None:
    outcomes = {"003": "unchecked", "007": beside, "011": beside}

    def change(line: dict[str, Any]) -> dict[str, Any]:
        if line["method"] != "fastvlm" or (outcome := outcomes.get(line["sample_id"])) is None:
            return line
        return {**line, "token_ids": [1000, *line["token_ids"][1:]], "losslessness": {"outcome": outcome}}

    run = fake.run(change=change)
    row, count = summarise(run)[1], list(outcomes.values()).count("unchecked")
    assert row.sameness.unchecked == row.sameness.unjudged == count
    (said,) = (notice.message for notice in judge(run).warnings if notice.name == "Diverged")
    assert f" violations, {count} unchecked; " in said and "could not be judged" in said
    assert ("report it" in said) == (beside == "violation")
    assert conclusion(run, row).endswith(f", {count} unchecked.")
