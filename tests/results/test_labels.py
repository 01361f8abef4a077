"""Whatever differs between rows of the same method is told: two runs with different drafts do not look alike."""

import csv
import io
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from fastvlm_bench.analysis.comparison import compare
from fastvlm_bench.analysis.settings import draft_id
from fastvlm_bench.analysis.summary import summarise
from fastvlm_bench.records.record import Run
from fastvlm_bench.report.compare import print_comparison
from fastvlm_bench.report.export import export_runs, rows_markdown
from fastvlm_bench.report.labels import labels, letters

DRAFT = {"exit_layer": 2, "head": "attention", "name": "eagle-a", "sha256": "1f" * 32}


def one(fake: SimpleNamespace, options: dict[str, Any] | None = None, draft: Any = None, **meta: Any) -> Run:
    base = fake.method("fastvlm")
    method = {**base, "options": {**base["options"], **(options or {})}, "draft": DRAFT if draft is None else draft}
    run: Run = fake.run(suites=[fake.suite(n=6, metrics=[])], methods=[fake.method("standard"), method], meta=meta)
    return run


CASES: list[tuple[str, dict[str, Any], str, str]] = [
    ("gamma", {"options": {"gamma": 4}}, "fastvlm [γ 6]", "fastvlm [γ 4]"),
    ("exit_layer", {"options": {"exit_layer": 3}}, "fastvlm [exit 2]", "fastvlm [exit 3]"),
    ("head", {"options": {"head": "mlp"}}, "fastvlm [head attention]", "fastvlm [head mlp]"),
    ("stop_below", {"options": {"stop_below": 0.5}}, "fastvlm [stop 0]", "fastvlm [stop 0.5]"),
    ("options", {"options": {"width": 3}}, "fastvlm [width unknown]", "fastvlm [width 3]"),
    ("draft", {"draft": {**DRAFT, "name": "mlp-b"}}, "fastvlm [draft eagle-a 1f1f1f1f]",
     "fastvlm [draft mlp-b 1f1f1f1f]"),
    ("draft_id", {"draft": {**DRAFT, "sha256": "ab" * 32}}, "fastvlm [draft eagle-a 1f1f1f1f]",
     "fastvlm [draft eagle-a abababab]"),
    ("dtype", {"model": {"dtype": "bfloat16"}}, "fastvlm [float32]", "fastvlm [bfloat16]"),
    ("device", {"model": {"device": "cuda:0"}}, "fastvlm [on cpu]", "fastvlm [on cuda:0]"),
    ("hardware", {"environment": {"gpu": "H100"}}, "fastvlm [hardware Example CPU]", "fastvlm [hardware H100]"),
    ("commit", {"environment": {"commit": "abcdef0" + "1" * 33}}, "fastvlm [commit 0000000]",
     "fastvlm [commit abcdef0]"),
    ("threads", {"environment": {"threads": 1}}, "fastvlm [threads 2]", "fastvlm [threads 1]"),
    ("started_at", {"started_at": "2026-11-25T10:15:00Z"}, "fastvlm [2026-11-24T10:15:00Z]",
     "fastvlm [2026-11-25T10:15:00Z]"),
]  # fmt: skip


@pytest.mark.parametrize(("column", "changes", "first", "second"), CASES, ids=[case[0] for case in CASES])
def test_what_differs_is_a_column_and_part_of_the_label(
    fake: SimpleNamespace, column: str, changes: dict[str, Any], first: str, second: str
) -> None:
    runs = [one(fake), one(fake, **changes)]
    rows = [row for run in runs for row in summarise(run)]
    assert [label for label in labels(rows) if label.startswith("fastvlm")] == [first, second]
    table = list(csv.DictReader(io.StringIO(export_runs(runs, "csv"))))
    assert table[1][column] != table[3][column]
    page = export_runs(runs, "markdown").replace("\\", "")
    assert f"| {first} |" in page and f"| {second} |" in page
    assert first.split("[")[1].split(" ")[-1].rstrip("]") in export_runs(runs, "latex")


def test_what_is_the_same_is_not_told(fake: SimpleNamespace) -> None:
    assert labels(summarise(one(fake))) == ["standard", "fastvlm"]
    run = fake.run(suites=[fake.suite(), fake.suite("vqav2")])
    assert labels(summarise(run)) == ["standard", "fastvlm"] * 2
    assert "[" not in rows_markdown(summarise(run)).split("\n")[2].split("|")[4]


def test_runs_that_are_alike_in_all_else_are_told_by_their_name(fake: SimpleNamespace) -> None:
    rows = [summarise(one(fake, run_id=name))[1] for name in ("a", "b")]
    assert labels(rows) == ["fastvlm [run a]", "fastvlm [run b]"]


def test_compare_tells_drafts_and_what_differs_between_the_runs(fake: SimpleNamespace) -> None:
    runs = [one(fake, run_id="first"), one(fake, draft={**DRAFT, "name": "mlp-b", "sha256": "ab" * 32},
                                           run_id="second", environment={"commit": "abcdef0" + "1" * 33})]  # fmt: skip
    out = io.StringIO()
    print_comparison(compare(runs), Console(file=out, width=200))
    text = " ".join(out.getvalue().split())
    assert "A = first: commit 0000000" in text and "B = second: commit abcdef0" in text
    assert "eagle-a 1f1f1f1f" in text and "mlp-b abababab" in text


def test_drafts_of_older_records_are_told_apart_by_their_manifests(fake: SimpleNamespace) -> None:
    old = {"exit_layer": 2, "head": "attention", "data": {"seed": 0}}
    other = {**old, "data": {"seed": 1}}
    assert draft_id(old) != draft_id(other) and draft_id(old) == draft_id(dict(reversed(old.items())))
    rows = [summarise(one(fake, draft=draft))[1] for draft in (old, other)]
    assert rows[0].settings.draft is None and len(set(labels(rows))) == 2


def test_runs_have_letters_however_many() -> None:
    names = letters(26 + 26 * 26 + 1)
    assert names[:2] + names[25:28] + names[-2:] == ["A", "B", "Z", "AA", "AB", "ZZ", "AAA"]
    assert len(set(names)) == len(names)
