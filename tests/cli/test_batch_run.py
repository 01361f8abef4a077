"""`run --batch-size` on the embedded model: records, going on, a batch that fails, and the table over sizes."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cut_run import cut_run

from fastvlm_bench.records.record import SAMPLES_FILE, read_run

FEW = ("run", "--suite", "coco-caption", "--threads", "1", "--engine", "eager", "--warmup", "0",
       "--max-new-tokens", "6")  # fmt: skip
FIVE = ("--limit", "5")
"""Samples: a batch of three, and one of what is left."""
METHODS = ("-m", "fastvlm", "-m", "early-exit", "-m", "hf-generate")


def newest(out: Path) -> Any:
    return read_run(next(out.glob("**/run.json")).parent)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from typer.testing import CliRunner

    from fastvlm_bench.cli.app import app

    out = tmp_path_factory.mktemp("results")
    arguments = [*FEW, *FIVE, "--batch-size", "3", "--out", str(out), *METHODS]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False, env={"COLUMNS": "100"})
    assert result.exit_code == 0, result.output
    return result, newest(out)


def test_each_sample_has_its_line(ran: Any) -> None:
    _, run = ran
    assert len(run.lines) == 5 * 4 and not any(line["error"] for line in run.lines)
    batches: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for line in run.lines:
        batches.setdefault((line["method"], line["batch"]["id"]), []).append(line)
    assert sorted(len(lines) for lines in batches.values()) == [2] * 4 + [3] * 4
    for lines in batches.values():
        whole = lines[0]["batch"]
        assert [line["batch"]["row"] for line in lines] == list(range(whole["size"]))
        for name in ("ttft_s", "decode_s"):
            assert sum(line[name] for line in lines) == pytest.approx(whole[name])


@pytest.mark.slow
def test_answers_are_those_of_single_samples(ran: Any, call: Callable[..., Any], tmp_path: Path) -> None:
    _, run = ran
    call(*FEW, *FIVE, "--out", tmp_path, *METHODS)
    alone = {(x["sample_id"], x["method"]): x["token_ids"] for x in newest(tmp_path).lines}
    for line in run.lines:
        assert line["token_ids"] == alone[line["sample_id"], line["method"]]


def test_report_says_batches(ran: Any) -> None:
    result, run = ran
    assert "n = 5 in batches of 3" in result.stdout and "TTFT" not in result.stdout
    assert "2 batches measured in both arms; at least 5 are needed" in " ".join(result.stdout.split())


@pytest.mark.slow
def test_resume_measures_torn_batches_again(ran: Any, call: Callable[..., Any], tmp_path: Path) -> None:
    _, run = ran
    folder = Path(shutil.copytree(run.folder, tmp_path / "run"))
    cut_run(folder, 3 * 4 + 2)  # one batch, and a half of the next
    result = call(*FEW, *FIVE, "--batch-size", "3", *METHODS, "--out", tmp_path, "--resume", folder)
    assert result.exit_code == 0, result.output
    again = read_run(folder)
    assert [line["seq"] for line in again.lines][:12] == list(range(12)), "the first batch is not measured again"
    assert all(line["seq"] >= 14 for line in again.lines[12:]), "a batch is measured as a whole"
    assert {(x["sample_id"], x["method"]): x["token_ids"] for x in again.lines} == {
        (x["sample_id"], x["method"]): x["token_ids"] for x in run.lines
    }


@pytest.mark.slow
def test_a_batch_that_fails(call: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from fastvlm_bench.measuring import bench

    real, calls = bench.measure, []

    def measure(*given: Any, **options: Any) -> Any:
        calls.extend([1] if "phases" in options else [])  # the warm-up does not ask for them
        if len(calls) == 3:  # the second batch, its first method
            calls.append(1)
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")
        return real(*given, **options)

    monkeypatch.setattr(bench, "measure", measure)
    result = call(*FEW, "--limit", "4", "--batch-size", "2", "--out", tmp_path)
    assert result.exit_code == 7
    run = newest(tmp_path)
    failed = [line for line in run.lines if line["error"]]
    assert len(failed) == 2 and len({line["method"] for line in failed}) == 1
    assert all(line["error"].startswith("out_of_memory: CUDA") for line in failed)
    assert all("in a batch of 2: try a smaller --batch-size" in line["error"] for line in failed)
    assert all(line["token_ids"] is None and line["batch"]["decode_s"] is None for line in failed)
    assert run.meta["verdict"]["status"] == "INVALID"


@pytest.mark.slow
def test_sizes_in_one_command(call: Callable[..., Any], tmp_path: Path) -> None:
    table = tmp_path / "sizes.csv"
    arguments = (*FEW, "--limit", "6", "--out", tmp_path / "out", "--csv", table)
    result = call(*arguments, "--batch-size", "1,2")
    assert result.exit_code == 0, result.output
    assert "1 standard" in result.stdout and "2 fastvlm" in result.stdout and "requests" in result.stdout
    rows = list(csv.DictReader(table.open()))
    assert [(r["method"], r["batch_size"]) for r in rows] == [
        ("standard", "1"), ("standard", "2"), ("fastvlm", "1"), ("fastvlm", "2"),
    ]  # fmt: skip
    (folder,) = (tmp_path / "out").iterdir()
    before = {path: path.read_bytes() for path in folder.glob(f"*/{SAMPLES_FILE}")}
    more = call(*arguments, "--batch-size", "1,2,3", "--resume", folder, "--json")
    assert more.exit_code == 0, more.output
    assert [row["batch_size"] for row in json.loads(more.stdout)] == [1, 2, 3, 1, 2, 3]
    assert all(path.read_bytes() == data for path, data in before.items()), "finished sizes are kept"
    again = call("batches", folder, "--format", "csv")
    assert again.stdout == table.read_text()
    assert "3 fastvlm" in call("batches", folder).stdout
    changed = call(*arguments, "--max-new-tokens", "5", "--batch-size", "1,2", "--resume", folder)
    assert changed.exit_code == 2 and "made with another configuration" in changed.stderr


@pytest.mark.parametrize("given", ["0", "x", "", "1,1", "2,-1", "1,,2", "1.5"])
def test_bad_sizes(refused: Callable[..., str], given: str) -> None:
    assert "it must be whole numbers of at least 1, each once" in refused("run", f"--batch-size={given}")


def test_bad_uses(refused: Callable[..., str], ran: Any, tmp_path: Path) -> None:
    _, run = ran
    assert "is a single run" in refused("run", "--batch-size", "1,2", "--resume", run.folder)
    assert "is not a folder" in refused("run", "--batch-size", "1,2", "--resume", tmp_path / "none")
    assert "needs one batch size" in refused("run", "--batch-size", "1,2", "--predictions-out", tmp_path / "p")
    assert "another configuration (batch_size: 3 -> 2)" in refused(
        *FEW, *FIVE, "--batch-size", "2", *METHODS, "--out", run.folder.parent,
        "--resume", run.folder,
    )  # fmt: skip
    assert "--temperature is for single samples" in refused("run", "--batch-size", "2", "--temperature", "0.7")
    assert "--phases is for single samples" in refused("run", "--batch-size", "2", "--phases")
    assert "--refine is for single samples" in refused("run", "--batch-size", "2", "--refine")
    assert "unknown format 'cvs'; did you mean 'csv'" in refused("batches", run.folder, "--format", "cvs")
    assert "no run in" in refused("batches", tmp_path)
