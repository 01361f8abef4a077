"""The table of traps in docs/suites.md: every test that it names is there; and those traps that have no other place."""

import re
from pathlib import Path

import pytest

from fastvlm_bench.suite_definition import describe_suites, read_definition

ROOT = Path(__file__).parents[2]
NAMED = re.findall(r"`([\w/]+\.py)::(test_\w+)`", (ROOT / "docs" / "suites.md").read_text(encoding="utf-8"))


def test_there_are_traps() -> None:
    assert len(NAMED) >= 25 and len(set(NAMED)) == len(NAMED)


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_each_trap_has_its_test(file: str, name: str) -> None:
    assert f"\ndef {name}(" in (ROOT / "tests" / file).read_text(encoding="utf-8")


def test_generated_answers_are_never_ranked() -> None:
    generated, ranked = read_definition("visdial-gen"), read_definition("visdial")
    assert "visdial_ranking" not in generated.metrics and ranked.metrics == ("visdial_ranking",)
    assert (generated.kind, ranked.kind) == ("vqa", "ranking")
    for suite in describe_suites():
        assert ("visdial_ranking" in suite.metrics) == (suite.kind == "ranking"), suite.name


def test_suites_that_a_judge_scores_have_no_metric_here() -> None:
    for name in ("mm-vet", "llava-bench", "coco-caption-long", "vqav2-long"):
        assert read_definition(name).metrics == ()
