"""Samples of several turns and images, shared among jobs or processes: a dialog stays in one, nothing else changes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cli.test_ranks import dies_after, launched, ranks_of, tokens
from suites.conftest import picture
from suites.official import lines as write_lines
from typer.testing import CliRunner

from fastvlm_bench.cli.app import app
from fastvlm_bench.records.record import Run, read_run
from fastvlm_bench.suites.shares import Share, batches, interleaved
from fastvlm_bench.suites.suite import Suite, load_suite

TURNS = (3, 1, 2, 1, 2)
IMAGES = ("1.png", "2.png", "3.png")


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Suite:
    """Dialogs of unequal length between single questions, some of two images."""
    folder = tmp_path_factory.mktemp("data")
    for place, name in enumerate(IMAGES):
        picture(folder / name, (120 + place, 90))
    rows: list[dict[str, Any]] = []
    for place, many in enumerate(TURNS):
        asked = {"images": [IMAGES[place % 3], IMAGES[2]] if place % 2 else [IMAGES[place % 3]]}
        one = {"prompt": "What is this?", "references": ["a dog"]}
        several = {"turns": ["What is this?", "Where?", "Why?"][:many], "references": [["a dog"]] * many}
        rows.append({"id": str(place), **asked, **(one if many == 1 else several)})
    write_lines(folder / "mine.jsonl", rows)
    return load_suite("jsonl", data=folder / "mine.jsonl")


@pytest.fixture
def measure(suite: Suite) -> Callable[..., Run]:
    def run(out: Path, *more: str) -> Run:
        said = CliRunner().invoke(app, [*arguments(suite), "--out", str(out), *more], catch_exceptions=False)
        assert said.exit_code == 0, said.output
        (folder,) = out.iterdir()
        return read_run(folder)

    return run


def arguments(suite: Suite) -> list[str]:
    return ["run", "--suite", "jsonl", "--data", suite.source, "--threads", "1", "--warmup", "0", "--device", "cpu",
            "-m", "layerskip:exit_layer=4", "--max-new-tokens", "3", "--repeats", "2"]  # fmt: skip


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("of", [1, 2, 3, 5])
def test_a_dialog_is_never_split_among_shards(suite: Suite, size: int, of: int) -> None:
    entries = [{"sample_id": s.sample_id, **({"dialog": s.dialog} if s.dialog else {})} for s in suite.samples]
    for every in (suite.samples, entries):
        shares = [(share := Share(first, of), share.take(every, size)) for first in range(of)]
        assert sorted(len({x["sample_id"].split("#")[0] for x in batch}) for batch in batches(entries, size)) == sorted(
            min(size, len(TURNS) - start) for start in range(0, len(TURNS), size)
        )
        assert interleaved(shares, size) == list(every)  # type: ignore[misc]
    owners: dict[str, set[int]] = {}
    for place, (_, own) in enumerate(shares):
        for entry in own:
            owners.setdefault(entry["sample_id"].split("#")[0], set()).add(place)
    assert list(map(len, owners.values())) == [1] * len(TURNS)


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 2])
def test_merged_shards_of_dialogs_are_the_run_of_one_process(
    measure: Callable[..., Run], tmp_path: Path, size: int
) -> None:
    batched = [] if size == 1 else ["--batch-size", str(size)]
    one = measure(tmp_path / "one", *batched)
    for number in (1, 2):
        run = measure(tmp_path / f"job{number}", "--shard", f"{number}/2", *batched)
        (tmp_path / "jobs").mkdir(exist_ok=True)
        run.folder.rename(tmp_path / "jobs" / str(number))
    said = CliRunner().invoke(app, ["merge", str(tmp_path / "jobs"), "--out", str(tmp_path / "out")])
    assert said.exit_code == 0, said.output
    merged = read_run(next((tmp_path / "out").iterdir()))
    assert tokens(merged) == tokens(one) and len(merged.lines) == 2 * 2 * sum(TURNS)
    for key in ("turns", "samples", "images_sha256", "document_images"):
        assert merged.meta["suites"][0][key] == one.meta["suites"][0][key]
    assert merged.meta["totals"].keys() == one.meta["totals"].keys() and merged.meta["verdict"]["status"] == "VALID"

    def where(run: Run) -> dict[Any, Any]:
        return {(line["sample_id"], line["repeat"], line["method"]): (line.get("batch") or {}).get("id")
                for line in run.lines}  # fmt: skip

    assert where(merged) == where(one), "batches are numbered as in one process"
    assert [(x["sample_id"], x["repeat"]) for x in merged.lines] == [(x["sample_id"], x["repeat"]) for x in one.lines]


@pytest.mark.slow
def test_processes_share_dialogs_and_go_on_within_one(
    suite: Suite, measure: Callable[..., Run], tmp_path: Path
) -> None:
    """Both processes are lost after the first turn of a dialog; those that resume know what it had been answered."""
    one, out = measure(tmp_path / "one"), tmp_path / "out"

    def work(lost: int, *more: str) -> Callable[[int], int]:
        def begun(rank: int) -> int:
            if lost:
                dies_after(lost, (0, 1))(rank)
            return int(app([*arguments(suite), "--out", str(out), *more]))

        return begun

    launched(work(6), 2, tmp_path / "said")  # two methods, two repeats: one turn of three, and half of the second
    (folder,) = out.iterdir()
    said = launched(work(0, "--resume", str(folder)), 2, tmp_path / "again")
    assert [code for code, _, _ in said] == [0, 0], said
    run = read_run(folder)
    assert tokens(run) == tokens(one) and run.meta["status"] == "success"
    whole = launched(work(0), 2, tmp_path / "whole")
    assert [code for code, _, _ in whole] == [0, 0], whole
    fresh = read_run(next(each for each in out.iterdir() if each != folder))
    owners: dict[str, set[int]] = {}
    for (_, sample_id, _), ranks in ranks_of(fresh).items():
        owners.setdefault(sample_id.split("#")[0], set()).update(ranks)
    assert [tuple(ranks) for ranks in owners.values()] == [(0,), (1,), (0,), (1,), (0,)]
