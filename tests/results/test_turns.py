"""Runs of samples with several turns: a sample is one observation with all its turns, or none at all."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from fastvlm_bench.analysis.arms import arms, by_dialog, pairs
from fastvlm_bench.analysis.batches import by_batch
from fastvlm_bench.analysis.sameness import sameness_of
from fastvlm_bench.analysis.summary import summarise
from fastvlm_bench.analysis.verdict import judge
from fastvlm_bench.records.record import Run

OURS = "fastvlm"
Change = Callable[[dict[str, Any]], dict[str, Any] | None]


@pytest.fixture
def dialogs(fake: SimpleNamespace) -> Callable[..., Run]:
    """A run of ten samples of two turns each, on images of their own; `change` as in `made`."""

    def make(change: Change | None = None, count: int = 20, **knobs: Any) -> Run:
        entry = fake.suite(n=count)
        for place, sample in enumerate(entry["samples"]):
            own = f"{place // 2:03d}"
            turn = {"dialog": own, "turn": 1 + place % 2}
            sample |= {**turn, "sample_id": own if place % 2 == 0 else f"{own}#2", "image_id": own}
        turns = {sample["sample_id"]: sample for sample in entry["samples"]}

        def named(line: dict[str, Any]) -> dict[str, Any] | None:
            line |= {key: turns[line["sample_id"]][key] for key in ("dialog", "turn")}
            return line if change is None else change(line)

        run: Run = fake.run(suites=[entry], change=named, **knobs)
        return run

    return make


def both(run: Run) -> list[Any]:
    reference, ours = arms(run)
    return pairs(ours, reference)


def test_seconds_are_summed_over_the_turns(dialogs: Callable[..., Run]) -> None:
    run = dialogs()
    row = next(row for row in summarise(run) if row.method == OURS)
    assert (row.counts.samples, row.counts.turns, row.counts.samples_paired) == (10, 20, 10)
    assert row.sameness.identical == 10 and row.speedup.decode_speedup_geomean is not None
    assert (row.speedup.decode_speedup_geomean.n, row.speedup.decode_speedup_geomean.independent) == (10, 10)
    first = by_batch(both(run))[0]
    for side, method in zip(first, (OURS, run.meta["reference"]), strict=True):
        own = [line for line in run.lines if line["dialog"] == "000" and line["method"] == method]
        assert side.sample_id == "000" and side.answers == len(own) == 2
        assert side.decode_s == pytest.approx(sum(line["decode_s"] for line in own))
        assert side.tpot_s == pytest.approx(side.decode_s / (sum(len(line["token_ids"]) for line in own) - 2))
    assert judge(run).status == "VALID"


def test_a_failed_turn_fails_its_sample(fake: SimpleNamespace, dialogs: Callable[..., Run]) -> None:
    run = dialogs(lambda line: fake.failed(line) if (line["sample_id"], line["method"]) == ("003#2", OURS) else line)
    reference, ours = arms(run)
    assert ours.failed == {"003", "003#2"} and not {"003", "003#2"} & set(ours.measured)
    row = next(row for row in summarise(run) if row.method == OURS)
    assert (row.counts.samples_ok, row.counts.samples_failed, row.counts.samples_paired) == (9, 1, 9)
    assert "003" in reference.measured and len(both(run)) == 18


def test_a_sample_whose_last_turn_is_lacking_counts_nowhere(dialogs: Callable[..., Run]) -> None:
    """An interrupted run: its first turn alone would be another question."""
    run = dialogs(lambda line: None if line["sample_id"] == "009#2" else line)
    assert all("009" not in arm.measured and not arm.failed for arm in arms(run)) and len(by_dialog(both(run))) == 9


def test_turns_with_unequal_repeats_are_joined_over_those_in_common(dialogs: Callable[..., Run]) -> None:
    run = dialogs(lambda line: None if (line["sample_id"], line["repeat"]) == ("009#2", 1) else line, repeats=2)
    joined = {ours.sample_id: ours for ours, _ in by_batch(both(run))}
    assert [line["repeat"] for line in joined["008"].lines] == [0, 1]
    assert [line["repeat"] for line in joined["009"].lines] == [0]


def test_turns_after_other_answers_are_counted_and_told(dialogs: Callable[..., Run]) -> None:
    def change(line: dict[str, Any]) -> dict[str, Any]:
        if line["method"] == OURS and line["sample_id"] == "004":
            line |= {"token_ids": [11, *line["token_ids"][1:]], "text": "other"}
            line["losslessness"] = {"outcome": "near-tie", "gap": 1e-6, "epsilon": 1e-5}
        if line["method"] == OURS and line["sample_id"] == "004#2":
            line |= {"token_ids": [12, *line["token_ids"][1:]], "text": "then other",
                     "losslessness": {"outcome": "identical", "own_context": True}}  # fmt: skip
        return line

    run = dialogs(change)
    found = sameness_of(both(run), sampled=False)
    assert (found.identical, found.diverged, found.near_ties, found.other_contexts) == (9, ("004@0",), 1, 1)
    told = {notice.name: notice.message for notice in judge(run).warnings}
    assert "1 of 20 turns follow other answers than standard's" in told["OtherContexts"]
    assert "1 outputs of 10 samples differ" in told["NearTies"] and "Diverged" not in told
    assert "OtherContexts" not in {notice.name for notice in judge(dialogs()).warnings}


def test_an_early_end_is_told_in_samples(dialogs: Callable[..., Run]) -> None:
    run = dialogs(lambda line: None if line["dialog"] > "005" else line)
    run.meta["stopped"] = {"coco-caption": {"by": "budget", "groups": 12, "seconds": 1.0, "until_width": None,
                                            "budget_s": 1.0, "widths": {OURS: 0.1}}}  # fmt: skip
    told = next(notice.message for notice in judge(run).warnings if notice.name == "StoppedEarly")
    assert "after 6 of 10 samples" in told and judge(run).status == "VALID"
