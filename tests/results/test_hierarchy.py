"""The levels of a hierarchy: what a round's checks become in a line, a row, the CSV and the table of drafts."""

from types import SimpleNamespace
from typing import Any

from fastvlm_bench.analysis.acceptance import by_level
from fastvlm_bench.analysis.summary import summarise
from fastvlm_bench.measuring.lines import measured
from fastvlm_bench.records.trace import Generation, Round, Trace
from fastvlm_bench.report.columns import row_dict
from fastvlm_bench.report.terminal import draft_columns


def test_a_line_holds_what_each_level_checked() -> None:
    rounds = [Round(4, 3, 2, 3, 0.1, 0.1, [5, 6], [(6, 5, 4), (4, 4, 4)]), Round(0, 0, 0, 1, 0.1, 0.1, (), [(0, 0, 0)])]
    done = Generation([1, 2, 3, 4, 5], "eos", 0.1, None, 0.1, 0.4, rounds)
    trace = Trace([done], 0.1, None, 0.4)

    def line() -> dict[str, Any]:
        (made,) = measured([{}], trace, lambda ids: " ".join(map(str, ids)), {}, [{}], None)
        return made

    assert line()["levels"] == [[[6, 5, 4], [4, 4, 4]], [[0, 0, 0]]]
    for one in rounds:
        one.levels = ()
    assert "levels" not in line()


def test_alpha_of_each_level(fake: SimpleNamespace) -> None:
    """Accepted over tested, summed over rounds; the last is the target's. A record without levels claims none."""

    def change(line: dict[str, Any]) -> dict[str, Any]:
        if line["method"] == "standard":
            return line
        return {**line, "levels": [[[3, 2, 1], [4, 4, 3]] for _ in line["rounds"]]}

    plain, own = fake.run(), fake.run(change=change)
    assert all(row.acceptance.alpha_by_level == () for row in summarise(plain))
    rows = summarise(own)
    assert rows[0].acceptance.alpha_by_level == ()
    assert rows[1].acceptance.alpha_by_level == (0.5, 0.75, rows[1].acceptance.alpha)
    assert row_dict(rows[1])["alpha_by_level"] == (0.5, 0.75, rows[1].acceptance.alpha)
    headers = [[column.header for column in draft_columns(summarise(run))] for run in (plain, own)]
    assert [any("level" in header for header in one) for one in headers] == [False, True]
    assert by_level([{"levels": [[[0, 0, 0]]]}], 0.5) == ()
