"""The best cell of a sweep: what is told from it holds its level, and its interval holds although it was chosen."""

import math
import random
from types import SimpleNamespace
from typing import Any

import pytest

from fastvlm_bench.analysis.best_cell import (
    BEST,
    CANNOT_TELL,
    NOT_RANKED,
    SLOWER,
    best_cells,
    compared,
    widened,
)
from fastvlm_bench.analysis.statistics import Estimate, geometric_mean_ratio, p_of_one
from fastvlm_bench.report.sweep import NAMES, copy_line, sentences, sweep_csv

CELLS, SAMPLES, TRIALS = 10, 12, 300
IMAGES = {str(number): number // 2 for number in range(2 * SAMPLES)}
"""Two samples share an image, whose seconds move together."""


def drawn(source: random.Random, slower: list[float]) -> list[dict[str, float]]:
    """Seconds of each cell: of the sample, of cell and image, and noise. slower: the truth of each cell."""
    found: list[dict[str, float]] = [{} for _ in slower]
    moved = [[source.gauss(0, 0.04) for _ in range(SAMPLES)] for _ in slower]
    for sample, image in IMAGES.items():
        length = source.uniform(0.3, 3.0)
        for cell, factor in enumerate(slower):
            found[cell][sample] = length * factor * math.exp(moved[cell][image] + source.gauss(0, 0.03))
    return found


def winner(seconds: list[dict[str, float]]) -> int:
    return min(range(len(seconds)), key=lambda cell: sum(math.log(value) for value in seconds[cell].values()))


@pytest.mark.slow
def test_equal_cells_are_told_from_the_winner_in_at_most_5_percent() -> None:
    source, wrong, naive = random.Random(7), 0, 0
    for _ in range(TRIALS):
        seconds = drawn(source, [1.0] * CELLS)
        told, top = compared(seconds, IMAGES), winner(seconds)
        own = [found for pair, found in told.items() if top in pair]
        assert len(own) == CELLS - 1
        wrong += any(p is not None and p <= 0.05 for _, p in own)
        naive += any((p_of_one(ratio) or 1.0) <= 0.05 for ratio, _ in own)
    limit = 0.05 + 3 * math.sqrt(0.05 * 0.95 / TRIALS)
    assert wrong / TRIALS <= limit
    assert naive / TRIALS > 0.3, "without a correction the same data must show the fault, else this test shows nothing"


def test_the_winners_interval_holds_although_it_won() -> None:
    source, missed, narrow = random.Random(8), 0, 0
    for _ in range(TRIALS):
        reference, *seconds = drawn(source, [2.0] + [1.0] * CELLS)
        top = seconds[winner(seconds)]
        own = geometric_mean_ratio(list(reference.values()), list(top.values()), list(IMAGES.values()))
        wide = widened(own, CELLS)
        assert own is not None and wide is not None and wide.low is not None and wide.high is not None
        assert own.low is not None and own.high is not None
        missed += not wide.low <= 2.0 <= wide.high
        narrow += not own.low <= 2.0 <= own.high
    limit = 0.05 + 3 * math.sqrt(0.05 * 0.95 / TRIALS)
    assert missed / TRIALS <= limit < narrow / TRIALS


def test_a_slower_cell_is_told_and_a_pair_without_images_is_not() -> None:
    seconds = drawn(random.Random(9), [1.0, 1.25, 1.0])
    told = compared(seconds, IMAGES)
    ratio, p = told[0, 1]
    assert ratio is not None and ratio.value < 0.9 and p is not None and p < 0.05
    few = [{name: own[name] for name in list(own)[:6]} for own in seconds]  # 3 images
    assert {p for _, p in compared(few, IMAGES).values()} == {None}


def test_widened_by_hand() -> None:
    """n = 5, df = 4: t(0.975) = 2.776, and for 5 cells t(0.995) = 4.604."""
    own = Estimate(2.0, 2.0 / math.exp(0.2776), 2.0 * math.exp(0.2776), 5)
    wide = widened(own, 5)
    assert wide is not None and wide.high == pytest.approx(2.0 * math.exp(0.4604), rel=1e-3)
    assert wide.low == pytest.approx(2.0 * math.exp(-0.4604), rel=1e-3)
    assert widened(Estimate(2.0, None, None, 1), 5) == Estimate(2.0, None, None, 1) and widened(None, 3) is None


def swept_run(fake: SimpleNamespace, slower: dict[str, float], **options: Any) -> Any:
    """A run of a sweep with the cells γ 2, 4 and 8, of which `slower` says how slow each is beside the others."""
    methods = [fake.method("standard")]
    for gamma in (2, 4, 8):
        label = f"fastvlm:head=attention,exit_layer=2,gamma={gamma},stop_below=0"
        methods.append(
            fake.method(label, options={"gamma": 6, "exit_layer": 2, "head": "attention", "stop_below": 0.0})
        )

    def change(line: dict[str, Any]) -> dict[str, Any]:
        factor = slower.get(line["method"].partition("gamma=")[2].partition(",")[0], 1.0)
        return {**line, "decode_s": line["decode_s"] * factor} if line["error"] is None else line

    grid = {"head": ["attention"], "exit_layer": [2], "gamma": [2, 4, 8], "stop_below": [0.0]}
    made = fake.run(suites=[fake.suite("describe-caption", 20)], methods=methods, change=change, meta={"sweep": grid},
                    noise=0.01, alpha=0.9, **options)  # fmt: skip
    for entry, gamma in zip(made.meta["methods"][1:], (2, 4, 8), strict=True):
        entry["options"]["gamma"] = gamma
    return made


def test_verdicts_sentences_and_csv(fake: SimpleNamespace) -> None:
    run = swept_run(fake, {"2": 1.6, "8": 1.002})
    (found,) = best_cells(run)
    verdicts = {cell.gamma: cell.verdict for cell in found.cells}
    assert verdicts[2] == SLOWER and {verdicts[4], verdicts[8]} == {BEST, CANNOT_TELL}
    assert found.ranked == 3 and found.beats_standard and found.best is not None
    slow = next(cell for cell in found.cells if cell.gamma == 2)
    assert slow.to_best is not None and slow.to_best.value > 1.4, "its seconds / the best's"
    told = " ".join(sentences(found))
    assert f"γ{found.best.gamma}" in told and "chosen among 3" in told and "(1 of 2)" in told
    assert copy_line(run, found) == f"-m {found.best.row.method}"
    lines = sweep_csv(run, [cell.row for cell in found.cells]).splitlines()
    assert lines[0] == ",".join(NAMES) and len(lines) == 4 and all(line.count(",") >= len(NAMES) - 1 for line in lines)


def test_nothing_beats_standard(fake: SimpleNamespace) -> None:
    (found,) = best_cells(swept_run(fake, {"2": 6.0, "4": 5.0, "8": 7.0}))
    assert found.best is not None and not found.beats_standard
    assert "Nothing is shown to beat standard decoding" in " ".join(sentences(found))


def test_a_cell_that_failed_or_said_something_else_does_not_win(fake: SimpleNamespace) -> None:
    run = swept_run(fake, {"2": 0.5, "8": 0.4})
    fast = [line for line in run.lines if "gamma=2" in line["method"]]
    fast[0].update(fake.failed(fast[0]))
    for line in run.lines:
        if "gamma=8" in line["method"]:
            line["token_ids"] = [*line["token_ids"][:-2], 7, line["token_ids"][-1]]
            line["losslessness"] = {"outcome": "violation", "index": 3, "gap": 1.0, "reason": ""}
    (found,) = best_cells(run)
    assert found.best is not None and found.best.gamma == 4 and found.ranked == 1
    assert {cell.gamma for cell in found.cells if cell.verdict == NOT_RANKED} == {2, 8}
