"""`run --suite visdial`: answers are timed, the given ones ranked; records, report, results file and score agree."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from suites.conftest import write
from suites.official import MAKE

from fastvlm_bench.analysis.summary import summarise
from fastvlm_bench.records.record import Run, read_run
from fastvlm_bench.scoring.score import write_predictions

Call = Callable[..., Any]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    MAKE["visdial-gen"](root)
    dialogs = root / "visdial_1.0_val.json"
    content = json.loads(dialogs.read_text())
    # Of unlike lengths, so that the sum over tokens and the mean rank them otherwise.
    content["data"]["answers"] = [f"yes{', and one more' * (n % 4)} {n}" for n in range(10)]
    dialogs.write_text(json.dumps(content))
    relevance = [0.0] * 100
    relevance[0], relevance[7] = 1.0, 0.5
    dense = [{"image_id": 185565, "round_id": 1, "gt_relevance": relevance}]
    write(root / "visdial_1.0_val_dense_annotations.json", dense)
    return root


def ran(call: Call, data: Path, out: Path, *more: str) -> Any:
    result = call("run", "--suite", "visdial", "--data", data, "--limit", "2", "--warmup", "0", "--threads", "1",
                  "--max-new-tokens", "3", "--out", out, "--predictions-out", out.parent / "p.json", *more)  # fmt: skip
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.slow
def test_a_run_ranks_and_score_agrees(call: Call, data: Path, tmp_path: Path) -> None:
    told = ran(call, data, tmp_path / "out", "-m", "layerskip:exit_layer=2", "-m", "early-exit", "--details")
    assert "identical ranks 2/2" in told and "identical outputs" not in told
    assert "Times are of generating an answer, which is not scored" in " ".join(told.split())
    run = read_run(next((tmp_path / "out").iterdir()))
    by_method = {row.method: row.quality[0] for row in summarise(run)}
    standard, early = by_method["standard"], by_method["early-exit"]
    assert standard.metric == "visdial_ranking" and standard.parts["ndcg_samples"] == 1
    assert {line["text"] for line in run.lines} != {""}  # the answer is decoded, and timed
    for line in run.lines:
        assert sorted(line["ranks"]["sum"]) == sorted(line["ranks"]["mean"]) == list(range(1, 101))
    own = {method: [line["ranks"] for line in run.lines if line["method"] == method] for method in by_method}
    assert own["early-exit"] != own["standard"] and early.verdict != "identical"
    told = call("report", "--details", run.folder).stdout
    assert "MRR" in told and "NDCG" in told and "R@10" in told and "identical ranks 2/2" in told
    # Both ways are in the record: the other one is the run's, were it asked for.
    by_mean = summarise(mean_of(run))[0].quality[0]
    (path, *_) = write_predictions(mean_of(run), tmp_path / "mean.json")
    ranks = [line["ranks"] for line in run.lines if line["method"] == "standard"]
    assert [row["ranks"] for row in json.loads(path.read_text())] == [found["mean"] for found in ranks]
    assert by_mean.value == sum(1 / found["mean"][place] for place, found in enumerate(ranks)) / 2
    # The results file is the official one, and its scores are the run's.
    rows = json.loads((tmp_path / "p-visdial-standard.json").read_text())
    assert list(rows[0]) == ["image_id", "round_id", "ranks"]
    assert [(row["image_id"], row["round_id"]) for row in rows] == [(185565, 1), (185565, 2)]
    rows += [{"image_id": 185565, "round_id": n, "ranks": list(range(1, 101))} for n in range(3, 11)]
    write(tmp_path / "all.json", rows)
    files = [data / f"visdial_1.0_val{suffix}.json" for suffix in ("", "_dense_annotations")]
    found = json.loads(call("score", "-s", "visdial", "--annotations", files[0], "--annotations", files[1],
                            "--predictions", tmp_path / "all.json", "--json").stdout)["metrics"]  # fmt: skip
    assert found["ndcg"] == standard.parts["ndcg"]
    others = sum(1 / n for n in range(3, 11))  # their answer is option n − 1, ranked n-th
    assert found["visdial_ranking"] == pytest.approx((2 * (standard.value or 0) + others) / 10)


@pytest.mark.slow
def test_a_batch_ranks_as_single_samples_do_and_the_mean_otherwise(call: Call, data: Path, tmp_path: Path) -> None:
    ran(call, data, tmp_path / "a", "-m", "layerskip:exit_layer=2", "--variant", "visdial_ranking=mean")
    mean = json.loads((tmp_path / "p-visdial-standard.json").read_text())
    ran(call, data, tmp_path / "b", "-m", "layerskip:exit_layer=2", "--batch-size", "2")
    total = json.loads((tmp_path / "p-visdial-standard.json").read_text())
    one, two = (read_run(next((tmp_path / name).iterdir())) for name in "ab")
    ranks = [[line["ranks"] for line in run.lines if line["method"] == "standard"] for run in (one, two)]
    assert ranks[0] == ranks[1]
    assert [row["ranks"] for row in mean] == [found["mean"] for found in ranks[0]] != [row["ranks"] for row in total]
    assert summarise(one)[0].quality[0].value == summarise(mean_of(two))[0].quality[0].value


def mean_of(run: Run) -> Run:
    return replace(run, meta={**run.meta, "suites": [
        {**suite, "variants": {"visdial_ranking": "mean"}} for suite in run.meta["suites"]
    ]})  # fmt: skip
