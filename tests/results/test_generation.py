"""Generation settings in records: in the report's head, between runs, and when a run is resumed."""

import io
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from fastvlm_bench.analysis.comparison import compare
from fastvlm_bench.analysis.generation import generation_line
from fastvlm_bench.errors import IncompatibleRuns, UsageError
from fastvlm_bench.records.record import RunWriter
from fastvlm_bench.report.export import run_markdown
from fastvlm_bench.report.terminal import print_report

GREEDY = {"do_sample": False, "num_beams": 1, "eos_token_id": [2]}


def recorded(overridden: dict[str, Any] | None = None, **in_force: Any) -> dict[str, Any]:
    return {"generation": {"in_force": {**GREEDY, **in_force}, "overridden": overridden or {}}}


def runs(fake: SimpleNamespace, *metas: dict[str, Any]) -> list[Any]:
    suites = [fake.suite(n=8)]
    return [fake.run(suites=suites, meta={"run_id": f"run-{i}", **meta}) for i, meta in enumerate(metas)]


def test_the_head_says_what_was_in_force(fake: SimpleNamespace) -> None:
    (run,) = runs(fake, recorded({"do_sample": True, "temperature": 0.6}, repetition_penalty=1.05))
    line = ("generation: greedy · end token 2 · repetition_penalty 1.05 · not as the checkpoint asks: do_sample true, "
            "temperature 0.6")  # fmt: skip
    assert generation_line(run) == line
    out = io.StringIO()
    print_report(run, Console(file=out, width=300))
    assert out.getvalue().splitlines()[1] == line
    assert f"G{line[1:]}." in run_markdown(run)


def test_a_record_without_them_is_read(fake: SimpleNamespace) -> None:
    (run,) = runs(fake, {})
    assert generation_line(run) == ""
    out = io.StringIO()
    print_report(run, Console(file=out, width=300))
    assert "generation:" not in out.getvalue() + run_markdown(run)


@pytest.mark.parametrize("other", [{}, {"repetition_penalty": 1.1}, {"suppress_tokens": [7]},
                                   {"repetition_penalty": 1.05, "eos_token_id": [2, 3]}])  # fmt: skip
def test_runs_with_other_settings_are_not_compared(fake: SimpleNamespace, other: dict[str, Any]) -> None:
    two = runs(fake, recorded(repetition_penalty=1.05), recorded(**other))
    with pytest.raises(IncompatibleRuns, match="generation settings: .*repetition_penalty 1.05"):
        compare(two)
    assert "generation settings" in compare(two, force=True).forced[0]


def test_long_settings_that_begin_alike_differ(fake: SimpleNamespace) -> None:
    tokens = list(range(100, 400))
    two = runs(fake, recorded(suppress_tokens=tokens), recorded(suppress_tokens=[*tokens[:-1], 1]))
    with pytest.raises(IncompatibleRuns, match="generation settings"):
        compare(two)


def test_the_same_settings_are_compared_whatever_was_overridden(fake: SimpleNamespace) -> None:
    two = runs(fake, recorded({"do_sample": True}, repetition_penalty=1.05), recorded(repetition_penalty=1.05))
    assert not any("generation" in note for note in compare(two).notes)


def test_a_record_without_them_is_compared_with_a_note(fake: SimpleNamespace) -> None:
    (note,) = [note for note in compare(runs(fake, {}, recorded())).notes if "generation" in note]
    assert note.startswith("run-0 did not record the generation settings: whether they are those of run-1 cannot")


def test_a_resumed_run_keeps_its_settings(fake: SimpleNamespace) -> None:
    before, after = recorded(repetition_penalty=1.05), recorded(repetition_penalty=1.3)
    run = fake.write(suites=[fake.suite(n=4)], meta=before)
    with RunWriter.resume(run.folder, run.meta["config_sha256"]) as writer:
        writer.update(**before)
        said = r"other generation settings \(generation\.in_force\.repetition_penalty: 1\.05 -> 1\.3\)"
        with pytest.raises(UsageError, match=said):
            writer.update(**after)
        with pytest.raises(UsageError, match="repetition_penalty: 1.05 -> "):
            writer.update(**recorded())


def test_a_run_of_an_older_version_can_be_resumed(fake: SimpleNamespace) -> None:
    run = fake.write(suites=[fake.suite(n=4)])
    with RunWriter.resume(run.folder, run.meta["config_sha256"]) as writer:
        writer.update(**recorded())
        assert writer.meta["generation"] == recorded()["generation"]
