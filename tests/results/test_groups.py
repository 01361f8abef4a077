"""Speed and acceptance by topic: each row is what a run over that topic alone would have said."""

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from fastvlm_bench.analysis.groups import group_rows
from fastvlm_bench.analysis.summary import summarise
from fastvlm_bench.records.record import Run
from fastvlm_bench.report.terminal import print_report

TOPICS = ("general vqa", "text vqa", "image captioning")


def topical(fake: SimpleNamespace, metrics: list[str], **options: object) -> Run:
    entry = fake.suite("mmspec", n=30, metrics=metrics)
    for index, sample in enumerate(entry["samples"]):
        sample["group"] = TOPICS[index % 3]
    return fake.run(suites=[entry], **options)


def test_a_row_is_a_run_over_that_topic(fake: SimpleNamespace) -> None:
    run = topical(fake, [], labels=("standard", "fastvlm", "fastvlm:gamma=2"))
    rows = group_rows(run, "mmspec", False)
    assert [(row.group, row.method) for row in rows] == [
        (topic, label) for topic in TOPICS for label in ("fastvlm", "fastvlm:gamma=2")]  # fmt: skip
    for row in rows:
        entry = run.meta["suites"][0]
        own = [sample for sample in entry["samples"] if sample["group"] == row.group]
        ids = {sample["sample_id"] for sample in own}
        alone = Run(run.folder, {**run.meta, "suites": [{**entry, "samples": own}]},
                    [line for line in run.lines if line["sample_id"] in ids])  # fmt: skip
        whole = next(other for other in summarise(alone) if other.method == row.method)
        assert (row.decode, row.e2e) == (whole.speedup.decode_speedup_geomean, whole.speedup.e2e_speedup_geomean)
        assert (row.alpha, row.tau) == (whole.acceptance.alpha, whole.acceptance.tau)
        assert (row.samples, row.same_tokens, row.paired) == (10, 10, 10)


@pytest.mark.parametrize("scored", [False, True])
def test_the_report_shows_topics_of_suites_without_scores(fake: SimpleNamespace, scored: bool) -> None:
    out = io.StringIO()
    print_report(topical(fake, ["vqa_accuracy"] if scored else []), Console(file=out, width=110))
    assert ("part of the data" in out.getvalue()) != scored
    assert all(topic in out.getvalue() for topic in TOPICS) or scored
