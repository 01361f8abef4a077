"""Runs in batches: seconds belong to the batch, intervals are over batches, and the table over batch sizes."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from fastvlm_bench.analysis.arms import arms, pairs
from fastvlm_bench.analysis.batches import by_batch, waits
from fastvlm_bench.analysis.comparison import compare
from fastvlm_bench.analysis.statistics import geometric_mean_ratio, ratio_of_totals
from fastvlm_bench.analysis.summary import summarise
from fastvlm_bench.analysis.verdict import judge
from fastvlm_bench.errors import IncompatibleRuns, UsageError
from fastvlm_bench.report.batch_table import (
    print_sizes,
    size_rows,
    sizes_csv,
    sizes_json,
    sizes_markdown,
    where_it_ends,
)
from fastvlm_bench.report.export import rows_csv
from fastvlm_bench.report.sample_export import samples_csv
from fastvlm_bench.report.terminal import print_report


def grouped(size: int, faster: float = 1.0, drafts: float = 1.0) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """A function that makes a line one of a batch of `size` samples.

    `faster` divides all seconds, `drafts` multiplies those of methods that draft.
    """

    def change(line: dict[str, Any]) -> dict[str, Any]:
        index = int(line["sample_id"])
        scale = (drafts if line["method"] != "standard" else 1.0) / faster
        rounds = [[*r[:4], r[4] * scale, r[5] * scale] for r in line["rounds"]]
        parts = {name: line[name] * scale for name in ("ttft_s", "vision_s", "prefill_s", "decode_s")}
        batch = {"id": index // size, "size": size, "row": index % size, "ttft_s": size * parts["ttft_s"],
                 "decode_s": size * parts["decode_s"]}  # fmt: skip
        return {**line, **parts, "rounds": rounds, "order": 0, "batch": batch}

    return change


def batched(fake: Any, size: int, n: int = 40, **knobs: Any) -> Any:
    return fake.run(
        suites=[fake.suite(n=n)], change=grouped(size, **knobs),
        meta={"config": {"batch_size": size}, "run_id": f"run-of-{size}"},
    )  # fmt: skip


def test_a_batch_is_one_observation(fake: Any) -> None:
    run = batched(fake, 4)
    standard, fastvlm = arms(run)
    together = by_batch(pairs(fastvlm, standard))
    assert len(together) == 10
    first = [line for line in run.lines if line["method"] == "fastvlm"][:4]
    assert together[0][0].decode_s == pytest.approx(sum(line["decode_s"] for line in first))
    assert together[0][0].tokens == sum(len(line["token_ids"]) for line in first)
    row = summarise(run)[1]
    assert row.settings.batch_size == 4
    assert row.speedup.decode_speedup_geomean is not None and row.speedup.decode_speedup_geomean.n == 10
    seconds = [t.decode_s for _, t in together], [o.decode_s for o, _ in together]
    assert row.speedup.decode_speedup_geomean == geometric_mean_ratio(*seconds)
    assert row.speedup.decode_speedup_totals == ratio_of_totals(*seconds)
    alone = summarise(fake.run(suites=[fake.suite()]))[1]
    assert alone.speedup.decode_speedup_geomean is not None and alone.speedup.decode_speedup_geomean.n == 40
    by_sums, by_sums_alone = row.speedup.decode_speedup_totals, alone.speedup.decode_speedup_totals
    assert by_sums_alone is not None and by_sums is not None
    assert by_sums_alone.value == pytest.approx(by_sums.value)  # the sums are the same


def test_samples_of_a_batch_have_no_latency(fake: Any) -> None:
    run = batched(fake, 4)
    for row in summarise(run):
        times = row.times
        assert times.ttft_s.median is times.tpot_s.median is times.e2e_s.median is times.decode_s.median is None
        assert times.tpot_spread is None
        seconds = sum(line["ttft_s"] + line["decode_s"] for line in run.lines if line["method"] == row.method)
        assert row.times.requests_per_s == pytest.approx(40 / seconds)
    console = Console(file=io.StringIO(), width=80)
    print_report(run, console)
    text = " ".join(console.file.getvalue().split())  # type: ignore[attr-defined]
    assert "TTFT" not in text and "TPOT" not in text and "n = 40 in batches of 4" in text and "requests" in text


def test_waits_are_the_batchs(fake: Any) -> None:
    run = batched(fake, 5)
    arm = arms(run)[0]
    seen = waits(arm)
    assert len(seen) == 8
    line = run.lines[0]
    assert seen[0] == (line["batch"]["ttft_s"], line["batch"]["ttft_s"] + line["batch"]["decode_s"])
    alone = fake.run(suites=[fake.suite()])
    assert waits(arms(alone)[0])[0][0] == alone.lines[0]["ttft_s"]


def test_too_few_batches_are_told(fake: Any) -> None:
    run = batched(fake, 4)
    assert any(w.name == "TooFewSamples" and "10 batches of 4" in w.message for w in judge(run).warnings)
    assert judge(run).status == "VALID"
    few = batched(fake, 8, n=24)
    assert judge(few).status == "INVALID" and "3 batches measured" in judge(few).reasons[0]


def test_a_failed_batch(fake: Any) -> None:
    def change(line: dict[str, Any]) -> dict[str, Any]:
        made = grouped(4)(line)
        if made["batch"]["id"] == 2 and made["method"] == "fastvlm":
            made = fake.failed(made, "out_of_memory: 9 GiB; in a batch of 4: try a smaller --batch-size")
        return made

    run = fake.run(suites=[fake.suite()], change=change, meta={"config": {"batch_size": 4}})
    row = summarise(run)[1]
    assert row.counts.samples_failed == 4 and row.counts.samples_paired == 36 and row.speedup.e2e_speedup_geomean.n == 9
    assert any(w.name == "FailedSamples" for w in judge(run).warnings)


def test_exports_have_the_batch(fake: Any) -> None:
    run = batched(fake, 4)
    (first, *_) = csv.DictReader(io.StringIO(samples_csv(run)))
    assert first["batch_id"] == "0" and first["batch_size"] == "4" and float(first["batch_ttft_s"]) > 0
    rows = list(csv.DictReader(io.StringIO(rows_csv(summarise(run)))))
    assert rows[1]["batch_size"] == "4" and float(rows[1]["requests_per_s"]) > 0 and rows[1]["ttft_s_median"] == ""
    alone = next(csv.DictReader(io.StringIO(samples_csv(fake.run(suites=[fake.suite(n=3)])))))
    assert alone["batch_id"] == "" == alone["batch_ttft_s"]


def sweep(fake: Any, drafts: dict[int, float]) -> list[Any]:
    return [batched(fake, size, faster=size**0.5, drafts=slower) for size, slower in drafts.items()]


def test_table_over_sizes(fake: Any) -> None:
    rows = size_rows(sweep(fake, {1: 1.0, 2: 1.3, 4: 1.8, 8: 4.0}))
    assert [(r.method, r.batch_size) for r in rows] == [(m, s) for m in ("standard", "fastvlm") for s in (1, 2, 4, 8)]
    assert rows[3].requests_per_s > 2.5 * rows[0].requests_per_s
    gains = [r.e2e_speedup_geomean for r in rows[4:]]
    assert gains == sorted(gains, reverse=True) and gains[-1] < 1
    sentence = where_it_ends(rows[4:])
    assert "at batch size 1," in sentence and "no gain is shown from batch size 4 on" in sentence
    still = where_it_ends([r for r in rows[4:] if r.batch_size <= 2])
    assert "still a gain at the largest size measured" in still
    for width in (80, 120):
        console = Console(file=io.StringIO(), width=width)
        print_sizes(rows, console)
        text = console.file.getvalue()  # type: ignore[attr-defined]
        assert max(map(len, text.splitlines())) <= width and "8 fastvlm" in text and "requests" in text
    read = list(csv.DictReader(io.StringIO(sizes_csv(rows))))
    assert len(read) == 8 and float(read[4]["e2e_speedup_geomean"]) == rows[4].e2e_speedup_geomean
    assert json.loads(sizes_json(rows))[7]["batch_size"] == 8
    assert sizes_markdown(rows).count("\n") == 10


def test_a_gain_that_was_never_there(fake: Any) -> None:
    rows = [r for r in size_rows(sweep(fake, {1: 4.0, 2: 5.0})) if r.method == "fastvlm"]
    assert "no gain is shown at any size" in where_it_ends(rows)
    assert where_it_ends(rows[:1]) == ""


def test_runs_of_other_samples_or_the_same_size_are_refused(fake: Any) -> None:
    one, two = batched(fake, 1), batched(fake, 2)
    with pytest.raises(
        IncompatibleRuns, match="differ in coco-caption samples, coco-caption prompt texts; a table over"
    ):
        size_rows([one, batched(fake, 2, n=20)])
    with pytest.raises(UsageError, match="several runs have batch size 2; name one a size"):
        size_rows([two, two])
    with pytest.raises(IncompatibleRuns, match="batch size: 1 / 2"):
        compare([one, two])


def test_old_runs_have_batch_size_one() -> None:
    from fastvlm_bench.records.record import read_run

    run = read_run(Path(__file__).parent / "golden-v1")
    assert {row.settings.batch_size for row in summarise(run)} == {1}
