"""Shards of one run, merged, are that run: its lines in its order, its statistics; others are refused by name."""

import copy
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from covering import covering
from typer.testing import CliRunner

from fastvlm_bench.analysis.verdict import judge, judged_rows
from fastvlm_bench.cli.app import app
from fastvlm_bench.errors import UsageError
from fastvlm_bench.measuring.ending import end_run
from fastvlm_bench.measuring.merge import merge
from fastvlm_bench.records.record import Run, RunWriter, read_run
from fastvlm_bench.records.sealing import digest_of_images
from fastvlm_bench.report.export import rows_csv
from fastvlm_bench.suites.shares import Share

SAMPLES, SHARDS = 23, 4


def whole(fake: SimpleNamespace, size: int = 1) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """run.json and lines of a run in one process, of a caption suite and a VQA suite; in batches if size is above 1."""
    suites = [fake.suite(n=SAMPLES, document_images=SAMPLES), fake.suite("vqav2", n=SAMPLES, document_images=SAMPLES)]
    places = {s["sample_id"]: i for i, s in enumerate(suites[0]["samples"])}

    def batched(line: dict[str, Any]) -> dict[str, Any]:
        number, row = divmod(places[line["sample_id"]], size)
        batch = {"id": number, "size": min(size, SAMPLES - number * size), "row": row, "ttft_s": 0.1, "decode_s": 1.0}
        return {**line, **({"batch": batch} if size > 1 else {}), "invocation": 0}

    meta, lines = fake.made(suites=suites, change=batched, meta={"config": {"batch_size": size, "shard": None}})
    lines.sort(key=lambda line: (line["suite"], places[line["sample_id"]] // size, line["order"]))
    for suite in suites:
        names = {sample["image_id"]: f"{sample['image_id']}.jpg" for sample in suite["samples"]}
        suite["images_sha256"] = digest_of_images((name, "f" * 64) for name in names.values())
    return meta, lines


def shard(
    meta: dict[str, Any], lines: list[dict[str, Any]], number: int, folder: Path, status: str = "success"
) -> Path:
    """The run folder that job `number` leaves."""
    share, own = Share.parse(f"{number}/{SHARDS}"), copy.deepcopy(meta)
    size = meta["config"]["batch_size"]
    own["config"]["shard"], own["config_sha256"] = f"{number}/{SHARDS}", f"{number:064d}"
    own["shard"] = {"number": number, "of": SHARDS}
    documents = {}
    for suite in own["suites"]:
        documents[suite["name"]] = [("", sample["references"]) for sample in suite["samples"]]
        suite["samples"] = [
            {**sample, "image_file": f"{sample['image_id']}.jpg", "image_sha256": "f" * 64}
            for sample in share.take(suite["samples"], size)
        ]
        suite["images_sha256"] = f"{number:064d}"
    known = {(suite["name"], sample["sample_id"]) for suite in own["suites"] for sample in suite["samples"]}
    with RunWriter.create(folder / f"shard{number}", own) as writer:
        writer.append_all({**line, "shard": number} for line in lines if (line["suite"], line["sample_id"]) in known)
        end_run(writer, status, None, {"coco-caption": documents["coco-caption"]})
    return folder / f"shard{number}"


def stripped(run: Run) -> list[dict[str, Any]]:
    return [{k: v for k, v in line.items() if k not in ("seq", "crc32", "shard")} for line in run.lines]


@pytest.mark.parametrize("size", covering([1, 3], [3]))
def test_merged_shards_are_the_run_of_one_process(fake: SimpleNamespace, tmp_path: Path, size: int) -> None:
    meta, lines = whole(fake, size)
    with RunWriter.create(tmp_path / "whole", meta) as writer:
        writer.append_all(lines)
        one = end_run(writer, "success", None, {})
    folders = [shard(meta, lines, number, tmp_path / "jobs") for number in range(1, SHARDS + 1)]
    run = merge(folders[::-1], tmp_path / "out")
    assert stripped(run) == stripped(one) and len(run.lines) == 4 * SAMPLES
    assert {line["shard"] for line in run.lines} == set(range(1, SHARDS + 1))
    assert [suite["samples"] for suite in run.meta["suites"]] == [suite["samples"] for suite in one.meta["suites"]]
    assert [suite["images_sha256"] for suite in run.meta["suites"]] == [
        suite["images_sha256"] for suite in one.meta["suites"]
    ]
    rows, verdict = judged_rows(run)
    others, other = judged_rows(one)
    assert rows_csv(rows).replace(run.run_id, one.run_id) == rows_csv(others)
    assert verdict == other and run.sealed and run.meta["totals"] == one.meta["totals"]
    assert run.meta["merged"]["missing"] == [] and "shard" not in run.meta
    assert [each["number"] for each in run.meta["merged"]["shards"]] == [1, 2, 3, 4]


def test_shares_are_balanced_and_disjoint_whatever_the_number() -> None:
    for samples in (1, 7, 40, 41):
        for size in (1, 3):
            for of in (1, 2, 3, 7):
                shares = [Share(first, of).take(range(samples), size) for first in range(of)]
                assert sorted(each for share in shares for each in share) == list(range(samples))
                assert max(map(len, shares)) - min(map(len, shares)) <= size
    # Another limit does not change who has a sample that both have.
    assert Share(2, 5).take(range(20), 1) == Share(2, 5).take(range(40), 1)[:4]


def test_what_must_not_be_merged_is_refused_by_its_name(fake: SimpleNamespace, tmp_path: Path) -> None:
    meta, lines = whole(fake)
    good = [shard(meta, lines, number, tmp_path) for number in range(1, SHARDS + 1)]
    for path, value, told in (
        (("environment", "gpu"), "Another GPU", "environment.gpu: None -> Another GPU"),
        (("model", "weights_sha256"), "0" * 64, "model.weights_sha256"),
        (("model", "device"), "cuda:1", "model.device: cpu -> cuda"),
        (("environment", "threads"), 7, "environment.threads: 2 -> 7"),
        (("config", "max_new_tokens"), 9, "config.max_new_tokens: (absent) -> 9"),
        (("methods", 1, "options", "gamma"), 3, "method fastvlm.options.gamma: 6 -> 3"),
        (("suites", 0, "sha256"), "1" * 64, "suite coco-caption.sha256"),
    ):
        other = copy.deepcopy(meta)
        entry: Any = other
        for name in path[:-1]:
            entry = entry[name]
        entry[path[-1]] = value
        shutil.rmtree(tmp_path / "other", ignore_errors=True)
        with pytest.raises(UsageError, match="was not measured as") as refused:
            merge([*good[:3], shard(other, lines, 4, tmp_path / "other")], tmp_path / "out")
        assert told in str(refused.value)
    with pytest.raises(UsageError, match=r"2/4, 3/4 of the shards are missing.*--allow-missing"):
        merge([good[0], good[3]], tmp_path / "out")
    with pytest.raises(UsageError, match=r"are both shard 2/4; name one of them"):
        merge([*good, shard(meta, lines, 2, tmp_path / "again")], tmp_path / "out")
    with pytest.raises(UsageError, match="is no shard"):
        merge([fake.write("plain").folder], tmp_path / "out")
    half = shard(meta, lines, 4, tmp_path / "half", "interrupted")
    with pytest.raises(UsageError, match="shard 4/4 ended with status interrupted.*--resume"):
        merge([*good[:3], half], tmp_path / "out")
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())
    assert merge([*good[:3], half], tmp_path / "out", allow_missing=True).meta["status"] == "interrupted"


def test_missing_shards_are_allowed_and_marked(fake: SimpleNamespace, tmp_path: Path) -> None:
    meta, lines = whole(fake)
    folders = [shard(meta, lines, number, tmp_path / "jobs") for number in (1, 4)]
    said = CliRunner().invoke(app, ["merge", str(tmp_path / "jobs"), "--out", str(tmp_path / "out")])
    assert said.exit_code == 2
    said = CliRunner().invoke(
        app,
        ["merge", str(tmp_path / "jobs"), "--allow-missing", "--out", str(tmp_path / "out")],
        env={"COLUMNS": "200"},
    )
    assert said.exit_code == 0 and "merged without shards 2/4, 3/4" in said.output
    assert "2 of 4 shards" in said.output and "each in one process" in said.output
    (folder,) = (tmp_path / "out").iterdir()
    run = read_run(folder)
    own = {line["sample_id"] for path in folders for line in read_run(path).lines}
    assert {line["sample_id"] for line in run.lines} == own
    assert run.meta["merged"]["missing"] == [2, 3] and "images_sha256" not in run.meta["suites"][0]
    assert any(notice.name == "MissingShards" for notice in judge(run).warnings)
    assert run.meta["suites"][0]["document_images"] == SAMPLES
    suite = run.meta["suites"][0]
    assert suite["document_frequencies"][""].images == SAMPLES, "CIDEr-D still weighs words by all images"
