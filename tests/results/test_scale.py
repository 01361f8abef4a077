"""At the size of a data set work grows with the number of samples and no faster: counted by calls, not by clocks."""

import gc
import json
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import big_run
import pytest
from rich.console import Console

from fastvlm_bench.analysis import bounds, comparison, order_effect, verdict
from fastvlm_bench.analysis.arms import arms, pairs
from fastvlm_bench.analysis.comparison import compare
from fastvlm_bench.analysis.packed import packed
from fastvlm_bench.analysis.quality import compare_quality
from fastvlm_bench.analysis.summary import summarise
from fastvlm_bench.analysis.verdict import judged_rows
from fastvlm_bench.measuring.live import Live
from fastvlm_bench.measuring.runner import Group
from fastvlm_bench.records import mixing, sealing
from fastvlm_bench.records.reading import read_lines
from fastvlm_bench.records.record import RunWriter, read_run
from fastvlm_bench.report.export import rows_csv
from fastvlm_bench.report.sample_export import sample_lines

SIZES = (30, 60, 120)
CALLS_A_LINE = 330
"""Of a report, for three methods; among them those of the order effect, which looks at 10,000 groups at most."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Runs of three methods over more and more questions."""
    made = {}
    for size in SIZES:
        made[size] = tmp_path_factory.mktemp("big") / f"vqa{size}"
        big_run.write(made[size], size, methods=3)
    return made


def calls(work: Callable[[], object]) -> int:
    """How many functions, those written in C too, are called while it works."""
    count = [0]

    def profile(frame: Any, event: str, _: Any) -> None:
        count[0] += event in ("call", "c_call")

    gc.collect()
    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        work()
    finally:
        sys.setprofile(before)
    return count[0]


def resumed(folder: Path) -> None:
    """`run --resume` as far as records go: it is opened, and gets what is known once the model is loaded."""
    meta = json.loads((folder / "run.json").read_bytes())
    with RunWriter.resume(folder, meta["config_sha256"]) as writer:
        writer.update(suites=[{**suite, "samples": [dict(s) for s in suite["samples"]]} for suite in meta["suites"]])
        writer.update(costs=[])


def exported(folder: Path) -> None:
    for _ in sample_lines([read_run(folder)]):
        pass


WORK: dict[str, Callable[[Path], object]] = {
    "report": lambda folder: judged_rows(read_run(folder)),
    "export": lambda folder: rows_csv(judged_rows(read_run(folder))[0]),
    "samples-csv": exported,
    "compare": lambda folder: compare([read_run(folder), read_run(folder)]),
    "resume": resumed,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", WORK)
def test_work_grows_no_faster_than_the_samples(folders: dict[int, Path], name: str) -> None:
    for folder in folders.values():
        WORK[name](folder)  # what is made once (quantiles, metrics' tables) is made now
    small, middle, large = (calls(lambda: WORK[name](folders[size])) for size in SIZES)  # noqa: B023
    assert large - middle < 2.2 * (middle - small) + 2000, (small, middle, large)


def test_an_update_of_run_json_does_not_look_at_the_samples_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flattened, read = [0], [0]
    real_flatten, real_of = mixing.flatten, sealing.Digest.of

    def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
        flattened[0] += 1
        return real_flatten(value, prefix)

    def digest(path: Path, size: int) -> sealing.Digest:
        read[0] += path.name == sealing.SAMPLES_FILE
        return real_of(path, size)

    monkeypatch.setattr(mixing, "flatten", flatten)
    counts = []
    for questions in (20, 200):
        run = big_run.meta(questions, 2)
        with RunWriter.create(tmp_path / str(questions), run) as writer:
            writer.append_all(big_run.lines(run))
            monkeypatch.setattr(sealing.Digest, "of", digest)
            flattened[0] = 0
            writer.update(costs=[])
            writer.update(suites=[{**suite, "samples": [dict(s) for s in suite["samples"]]} for suite in run["suites"]])
            counts.append(flattened[0])
            monkeypatch.undo()
            monkeypatch.setattr(mixing, "flatten", flatten)
    assert counts[0] == counts[1] and read == [0]


def test_weights_are_drawn_once_for_all_methods(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, real = list[int](), bounds._weights
    monkeypatch.setattr(bounds, "_weights", lambda seed: drawn.append(seed) or real(seed))
    for methods in (2, 4):
        run = big_run.meta(40, methods)
        with RunWriter.create(tmp_path / str(methods), run) as writer:
            for line in big_run.lines(run):
                writer.append({**line, "text": "yes" if line["method"] == "standard" else "no"})
            writer.finish("interrupted")
        drawn.clear()
        rows = summarise(read_run(tmp_path / str(methods)))
        assert drawn == [0], "40 questions on 8 images are one block of weights"
        assert sum(quality.delta is not None for row in rows for quality in row.quality) == methods - 1


def test_a_line_is_looked_at_a_few_times_only(folders: dict[int, Path]) -> None:
    """Of a million lines each further look costs seconds: calls of a report for each line that is added."""
    small, large = folders[SIZES[0]], folders[SIZES[-1]]
    for folder in (small, large):
        judged_rows(read_run(folder))
    more = calls(lambda: judged_rows(read_run(large))) - calls(lambda: judged_rows(read_run(small)))
    assert more / (3 * (SIZES[-1] - SIZES[0])) < CALLS_A_LINE


def test_a_line_in_memory_is_small_and_equal(folders: dict[int, Path]) -> None:
    path = folders[SIZES[-1]] / "samples.jsonl"

    def bytes_of(read: Callable[[], list[Any]]) -> tuple[list[Any], int]:
        gc.collect()
        tracemalloc.start()
        lines = read()
        gc.collect()
        used, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return lines, used

    plain, usual = bytes_of(lambda: [json.loads(raw) for raw in path.read_bytes().splitlines()])
    lines, own = bytes_of(lambda: read_lines(path)[0])
    for line in plain:
        del line["crc32"]  # it is checked when the line is read, and of no use then
    assert lines == plain and [list(line) for line in lines] == [list(line) for line in plain]
    assert own < 0.33 * usual and own / len(lines) < 1200
    assert all(type(line) is dict for line in lines) and {**lines[0], "more": 1} == {**plain[0], "more": 1}


def test_means_over_all_samples_are_taken_once(folders: dict[int, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """One call may look at every sample, so here the values are counted that the means are of."""
    looked, real = [0], order_effect.fmean

    def fmean(values: Any) -> float:
        own = list(values)
        looked[0] += len(own)
        return real(own)

    monkeypatch.setattr(order_effect, "fmean", fmean)
    counts = []
    for size in SIZES:
        looked[0] = 0
        order_effect.order_effect(arms(read_run(folders[size])))
        counts.append(looked[0])
    assert counts[2] - counts[1] < 2.2 * (counts[1] - counts[0]), counts


def test_the_order_effect_looks_at_an_even_selection(folders: dict[int, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    own = arms(read_run(folders[SIZES[1]]))
    whole = order_effect.turns(own)
    monkeypatch.setattr(order_effect, "MOST_GROUPS", SIZES[1])
    assert order_effect.turns(own) == whole and len(whole) == SIZES[1], "up to that many, all are looked at"
    monkeypatch.setattr(order_effect, "MOST_GROUPS", 30)
    assert len(order_effect.turns(own)) == 30


def test_the_bar_keeps_sums_not_ratios() -> None:
    live = Live(Console(quiet=True), "standard")
    line = {"sample_id": "0", "error": None, "rounds": [], "order": 0}
    for done in range(1, 50):
        live.show(Group("s", done, 50, [{**line, "method": "standard", "decode_s": 2.0},
                                        {**line, "method": "fastvlm", "decode_s": 1.0}]))  # fmt: skip
    assert live._sums == {"s": {"fastvlm": (pytest.approx(49 * 0.6931, rel=1e-3), 49)}}


def test_garbage_is_not_looked_for_while_a_data_set_is_summed_up(
    folders: dict[int, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Millions of objects are made that all stay: to look through them again and again took a third of the time."""
    looked_for, real = list[bool](), verdict.summarise

    def summed_up(*given: Any, **named: Any) -> Any:
        looked_for.append(gc.isenabled())
        return real(*given, **named)

    monkeypatch.setattr(verdict, "summarise", summed_up)
    monkeypatch.setattr(comparison, "summarise", summed_up)
    run = read_run(folders[SIZES[0]])
    judged_rows(run)
    compare([run, run])
    assert looked_for == [False] * 3 and gc.isenabled()


def test_what_waits_for_its_weights_holds_no_samples(folders: dict[int, Path]) -> None:
    """Those of all methods wait together, and of a compared run each sample that is held has been unpacked."""
    run = read_run(folders[SIZES[0]])
    for line in run.lines:
        line["text"] = "yes" if line["method"] == "standard" else "no"
    reference, first, _ = arms(run)
    paired = pairs(first, reference)
    before = sys.getrefcount(paired)
    steps = compare_quality("vqa_accuracy", first, paired)
    assert sys.getrefcount(paired) == before
    next(steps)  # it does wait
    assert sys.getrefcount(paired) == before


def test_of_the_first_of_compared_runs_a_sample_takes_a_few_bytes(folders: dict[int, Path]) -> None:
    run = read_run(folders[SIZES[-1]])
    own = arms(run)
    tracemalloc.start()
    kept = packed(own)
    taken = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert taken < 400 * len(run.lines)
    assert [list(arm.measured) for arm in kept] == [list(arm.measured) for arm in own]
