"""What `suites` and `suites show` say of every suite, at the widths of a terminal."""

from pathlib import Path
from typing import Any

import pytest
from suites.official import MAKE

from fastvlm_bench.suites.definition import describe_suites, read_definition
from fastvlm_bench.suites.show import answers, described, listed
from fastvlm_bench.suites.suite import load_suite

SUITES = describe_suites()


@pytest.mark.parametrize("width", [80, 120])
def test_lines_fit_unless_one_word_does_not(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    for suite in SUITES:
        for text in (listed(suite), *described(suite)):
            for line in text.split("\n"):
                assert len(line) <= width or len(line.split()[-1]) > width - 12, line


@pytest.mark.parametrize("suite", SUITES, ids=lambda suite: suite.name)
def test_everything_that_a_researcher_asks_is_said(monkeypatch: pytest.MonkeyPatch, suite: Any) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)  # to a pipe nothing is wrapped
    told = "\n".join(described(suite))
    for word in (f"version {suite.version}", suite.licence, suite.citation, "prompt    ", "tokens    at most"):
        assert word in told
    for split in suite.splits.values():
        assert f"split     {split.name}" in told and split.note in told
        for names in split.files.values() if not split.root and split.format != "jsonl" else ():
            for name in names:
                assert name.lstrip("? ").split(" | ")[0] in told  # those that may be missing, too
    assert suite.metrics or "none: generated and timed, not scored" in told


def test_variants_are_named_with_the_one_in_use() -> None:
    told = " ".join(" ".join(described(read_definition("scienceqa-img"))).split())  # however wide the terminal is
    assert "multiple_choice (variant scienceqa; others: mmmu, scienceqa-official, mmstar)" in told


def test_equal_references_once_and_options_with_the_right_one(tmp_path: Path) -> None:
    (sample,) = load_suite("vqav2", limit=1).samples
    told = list(answers(sample))
    assert len(told) == len(set(sample.references)) and sum("times" in line for line in told) >= 1
    MAKE["visdial-gen"](tmp_path)
    ranked = list(answers(load_suite("visdial", data=tmp_path, limit=2, ranking=True).samples[1]))
    assert len(ranked) == 100 and ranked[1] == "option 2: yes 1 (a person's answer)" and ranked[2] == "option 3: yes 2"
