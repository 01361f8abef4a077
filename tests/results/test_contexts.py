"""α and speed by context length, by hand: where a round belongs, whose seconds it has, over what it is paired."""

import csv
import io
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from fastvlm_bench.analysis.contexts import context_rows, rounds_with_context
from fastvlm_bench.records.record import Run
from fastvlm_bench.report.export import export_runs
from fastvlm_bench.report.terminal import print_report

STANDARD, OURS = "standard", "fastvlm"


def line(prompt: int, decode_s: float, *rounds: tuple[int, int, int, int, float, float], **other: Any) -> Any:
    count = 1 + sum(round_[3] for round_ in rounds)
    return {"prompt_tokens": prompt, "decode_s": decode_s, "rounds": [list(round_) for round_ in rounds],
            "token_ids": [9] * count, "ttft_s": 1.0, **other}  # fmt: skip


@pytest.fixture
def by_hand(fake: SimpleNamespace) -> Callable[..., Run]:
    """A run of two samples on images of their own: (standard's line, ours) of each."""

    def make(*pairs: tuple[Any, Any], **changes: Any) -> Run:
        entry = fake.suite(n=len(pairs))
        for sample, (_, ours) in zip(entry["samples"], pairs, strict=True):
            sample |= {key: ours[key] for key in ("dialog", "turn") if key in ours}
        run: Run = fake.run(suites=[entry])
        found = []
        for old in run.lines:
            place = [sample["sample_id"] for sample in entry["samples"]].index(old["sample_id"])
            new = pairs[place][old["method"] != STANDARD]
            found.append({**old, **new, "text": "", "token_chars": [0] * len(new["token_ids"])})
        run.lines[:] = found
        return run

    return make


def test_a_round_has_the_context_that_it_began_with_and_its_share_of_the_seconds() -> None:
    told = list(rounds_with_context(line(100, 9.0, (3, 3, 3, 4, 1.0, 1.0), (3, 2, 1, 2, 0.0, 1.0))))
    assert [(context, seconds) for context, _, seconds in told] == [(101, 6.0), (105, 3.0)]
    told = list(rounds_with_context(line(7, 1.0, (0, 0, 0, 1, 0.0, 0.0), (0, 0, 0, 1, 0.0, 0.0))))
    assert [(context, seconds) for context, _, seconds in told] == [(8, 0.5), (9, 0.5)]


def test_rows_by_hand(by_hand: Callable[..., Run]) -> None:
    plain = [(0, 0, 0, 1, 0.0, 1.0)] * 4
    run = by_hand(
        (line(62, 8.0, *plain), line(62, 3.0, (3, 2, 1, 2, 0.0, 1.0), (3, 2, 2, 2, 0.0, 2.0))),
        (line(62, 4.0, *plain), line(62, 2.0, (3, 3, 2, 3, 0.0, 1.0), (1, 1, 0, 1, 0.0, 1.0))),
    )
    rows = {(row.method, row.context_from): row for row in context_rows(run, "coco-caption")}
    assert [(row.method.partition(":")[0], row.context_from, row.context_to) for row in rows.values()] == [
        (STANDARD, 32, 63), (OURS, 32, 63), (STANDARD, 64, 127), (OURS, 64, 127),
    ]  # fmt: skip
    ours = next(method for method, _ in rows if method != STANDARD)
    # The first rounds begin at 63 = 62 + 1, the second ones at 65 and 66. Standard's begin at 63, 64, 65 and 66.
    short, long = rows[ours, 32], rows[ours, 64]
    assert (short.samples, short.images, short.tokens, short.rounds) == (2, 2, 5, 2)
    assert short.alpha is not None and short.alpha.value == pytest.approx((1 + 2) / (2 + 3))
    assert long.alpha is not None and long.alpha.value == pytest.approx((2 + 0) / (2 + 1))
    assert short.s_per_token == pytest.approx((1.0 + 1.0) / 5) and rows[STANDARD, 32].s_per_token == pytest.approx(1.5)
    assert short.decode_speedup is not None and short.decode_speedup.low is not None
    assert short.decode_speedup.value == pytest.approx(((2.0 / (1.0 / 2)) * (1.0 / (1.0 / 3))) ** 0.5)
    assert long.decode_speedup is not None
    assert long.decode_speedup.value == pytest.approx(((2.0 / (2.0 / 2)) * (1.0 / (1.0 / 1))) ** 0.5)
    assert rows[STANDARD, 32].decode_speedup is None and rows[STANDARD, 32].alpha is None


def test_the_turns_of_a_sample_are_one_observation(by_hand: Callable[..., Run]) -> None:
    plain, ours = (0, 0, 0, 1, 0.0, 1.0), (1, 1, 1, 2, 0.0, 1.0)
    turn = {"dialog": "000", "turn": 1}
    run = by_hand((line(70, 2.0, plain, plain, **turn), line(70, 1.0, ours, **turn)),
                  (line(90, 6.0, plain, plain, **turn | {"turn": 2}),
                   line(90, 1.0, ours, **turn | {"turn": 2})))  # fmt: skip
    row = context_rows(run, "coco-caption")[1]
    assert (row.samples, row.tokens) == (1, 4)
    assert row.decode_speedup is not None and row.decode_speedup.value == pytest.approx((8.0 / 4) / (2.0 / 4))


def test_seconds_of_a_batch_are_nobodys(by_hand: Callable[..., Run]) -> None:
    batch = {"batch": {"id": 0, "size": 2, "row": 0, "ttft_s": 1.0, "decode_s": 1.0}}
    one = line(70, 1.0, (1, 1, 1, 2, 0.0, 1.0), **batch)
    row = context_rows(by_hand((one, one), (one, one)), "coco-caption")[1]
    assert row.s_per_token is None and row.decode_speedup is None
    assert row.alpha is not None and row.alpha.value == 1.0


def test_it_is_printed_and_exported_where_the_record_tells_the_prompts(fake: SimpleNamespace) -> None:
    console = Console(width=120, file=io.StringIO(), _environ={})
    run = fake.run(suites=[fake.suite(n=6)])
    print_report(run, console)
    assert isinstance(console.file, io.StringIO)
    assert "context, tokens" in console.file.getvalue() and "64–127: fastvlm" in console.file.getvalue()
    rows = list(csv.DictReader(io.StringIO(export_runs([run], "contexts-csv"))))
    drawn = next(row for row in rows if row["method"] != STANDARD)
    assert float(drawn["alpha_low"]) <= float(drawn["alpha"]) <= float(drawn["alpha_high"])
    assert float(drawn["decode_speedup"]) > 1 and drawn["images"] == "6"
    for old in run.lines:
        del old["prompt_tokens"]
    assert context_rows(run, "coco-caption") == []
    assert len(export_runs([run], "contexts-csv").splitlines()) == 1
