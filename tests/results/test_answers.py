"""Answers token by token: marks and colours, batched and drawn, old records, names that do not exist, pictures."""

import io
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from fastvlm_bench.cli.app import app
from fastvlm_bench.errors import UsageError
from fastvlm_bench.records.record import Run, read_run
from fastvlm_bench.report.answers import STYLES, print_answer, print_legend
from fastvlm_bench.report.shown import print_shown, save_picture

GOLDEN = Path(__file__).parent / "golden-v1"
LINE: dict[str, Any] = {
    "suite": "describe", "sample_id": "7", "method": "fastvlm", "repeat": 0, "stop": "eos", "error": None,
    "token_ids": [7, 8, 9, 10, 11, 12, 2], "text": "It is a giraffe.", "token_chars": [2, 3, 2, 4, 4, 1, 0],
    "ttft_s": 0.5, "decode_s": 0.4, "rounds": [[3, 2, 1, 2, 0.01, 0.09], [4, 4, 4, 4, 0.1, 0.1]],
    "rejected_ids": [[30, 2], []], "rejected_pieces": [[" the", ""], []],
}  # fmt: skip
REFERENCE = {**LINE, "method": "standard", "decode_s": 1.2, "rounds": [[0, 0, 0, 1, 0.0, 0.2]] * 6}
for key in ("rejected_ids", "rejected_pieces"):
    del REFERENCE[key]


def printed(line: dict[str, Any], reference: Any = REFERENCE, width: int = 100, **options: Any) -> str:
    stream = io.StringIO()
    print_answer(Console(width=width, file=stream, **{"_environ": {}, **options}), line, reference)
    return stream.getvalue()


def rows(text: str) -> list[str]:
    """The rows of the table, spaces joined."""
    lines = [" ".join(line.split()) for line in text.splitlines()]
    start = next(i for i, line in enumerate(lines) if line.startswith("round")) + 2
    return lines[start : next(i for i, line in enumerate(lines) if "after the prefill" in line)]


def test_marks_in_a_pipe() -> None:
    text = printed(LINE)
    assert "\x1b" not in text
    assert rows(text) == [
        "prefill 500 {It}",
        "1 1/3 133 3.00× is [-the-] [~<eos>~] {a}",
        "2 4/4 267 3.00× gir·affe.<eos>",
    ]
    assert ("7 tokens in 2 rounds after the prefill: 2 the target's own, 5 drafted and accepted, 1 rejected, 1 drafted "
            "after a rejection, never tested; decoding took 400 ms, 3.00× standard per token, the same tokens"
            ) in " ".join(text.split())  # fmt: skip


def test_colours_on_a_terminal() -> None:
    text = printed(LINE, force_terminal=True, color_system="standard")
    assert "[-" not in text and "{" not in text
    for said, code in (("is", "32"), ("the", "9;31"), ("<eos>", "9;90"), ("a", "1;36"), ("gir·affe.<eos>", "32")):
        assert f"\x1b[{code}m{said}\x1b[0m" in text


def test_a_terminal_without_colour_has_marks() -> None:
    text = printed(LINE, force_terminal=True, _environ={"NO_COLOR": "1"})
    assert "[-the-]" in text and "{a}" in text and not re.search(r"\x1b\[[0-9;]*3[0-7]m", text)


def test_the_legend_looks_like_the_tokens() -> None:
    stream = io.StringIO()
    print_legend(Console(width=150, file=stream, _environ={}))
    assert stream.getvalue().startswith(
        "{the target's own}  drafted and accepted  <~drafted, never verified~>  [-rejected"
    )
    assert set(STYLES) == {"prefill", "own", "accepted", "drafted", "rejected", "untested"}


def test_rounds_that_verify_nothing_are_one_row() -> None:
    assert rows(printed(REFERENCE)) == ["prefill 500 {It}", "1-6 1200 {is a gir·affe.<eos>}"]
    alone = {**REFERENCE, "method": "early-exit", "rounds": [[1, 0, 0, 1, 0.2, 0.0]] * 6}
    assert rows(printed(alone))[1] == "1-6 1200 1.00× <~is a gir·affe.<eos>~>"


def test_drawn_and_batched() -> None:
    line = {**LINE, "seed": 5, "repeat": 1, "batch": {"id": 0, "size": 4, "row": 2, "ttft_s": 1.0, "decode_s": 1.0}}
    text = " ".join(printed(line, {**REFERENCE, "token_ids": [7, 8, 2]}).split())
    assert "repeat 2 · drawn with seed 5 · in a batch of 4, of whose seconds these are its shares" in text
    assert "per token" in text and "tokens." not in text and "other tokens" not in text


def test_other_tokens_than_the_reference_are_said() -> None:
    assert "other tokens" in printed(LINE, {**REFERENCE, "token_ids": [7, 8, 2]}, width=200)


@pytest.mark.parametrize("reference", [None, {**REFERENCE, "token_ids": [7]}])
def test_without_a_reference_there_is_no_speedup(reference: Any) -> None:
    text = printed(LINE, reference)
    assert "×" not in text and "decoding took 400 ms" in text


def test_a_failed_sample_says_why() -> None:
    assert "failed: out_of_memory: 3 GiB" in printed({**LINE, "token_ids": None, "error": "out_of_memory: 3 GiB"})


def test_text_of_models_is_not_markup_and_line_feeds_are_shown() -> None:
    line = {**LINE, "text": "It[red]\n:smile: [x].", "token_chars": [2, 5, 1, 8, 3, 1, 0]}
    assert rows(printed(line))[1].endswith("[red] [-the-] [~<eos>~] {↵}")
    assert ":smile: [x]." in printed(line)


def test_ascii() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    print_answer(Console(width=80, file=stream, _environ={}), LINE, REFERENCE)
    stream.flush()
    text = raw.getvalue().decode("ascii")
    assert "?" not in text and "gir|affe" in text and "3.00x" in text


# ------------------------------------------------------------------------------------------ of a run


def shown(run: Run, **options: Any) -> str:
    stream = io.StringIO()
    print_shown(run, console=Console(width=100, file=stream, _environ={}), **options)
    return stream.getvalue()


def test_an_older_record_shows_what_it_has() -> None:
    text = " ".join(shown(read_run(GOLDEN)).split())
    assert "fastvlm" in text and "<41>" in text
    assert "This older record has no text of single tokens" in text and "a red circle left of a blue square" in text
    assert "a draft was rejected that this record does not name; measure again" in text


def test_the_first_sample_with_the_first_method_that_drafts(fake: SimpleNamespace) -> None:
    run = fake.run(
        suites=[fake.suite(n=3), fake.suite("vqav2", n=3)], labels=("standard", "fastvlm:gamma=6", "fastvlm")
    )
    text = shown(run)
    assert "coco-caption · sample 000 · fastvlm:gamma=6" in text and text.count("· sample") == 1
    assert "also measured: standard, fastvlm; --method" in text
    text = shown(run, suite="vqav2", samples=["002", "001"], methods=["all"])
    assert re.findall(r"vqav2 · sample (\S+) · (\S+)", text) == [
        (sample, method) for sample in ("002", "001") for method in ("standard", "fastvlm:gamma=6", "fastvlm")
    ]
    assert "fastvlm:gamma=6" in shown(run, methods=["fastvlm γ6"]), "names as the screen shortens them"


def test_of_several_repeats_the_first_that_did_not_fail(fake: SimpleNamespace) -> None:
    def change(line: dict[str, Any]) -> dict[str, Any]:
        return dict(fake.failed(line)) if line["repeat"] == 0 and line["method"] == "fastvlm" else line

    assert "fastvlm · repeat 2" in shown(fake.run(suites=[fake.suite(n=2)], repeats=3, change=change))


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["--sample", "0001"], "the run has no sample '0001'; did you mean '001'?; it has 40: 000, 001, 002"),
        (["--method", "fastvml"], "no method 'fastvml'; did you mean 'fastvlm'?; it has 2: standard, fastvlm"),
        (["--suite", "coco"], "the run has no suite 'coco'; did you mean 'coco-caption'?; it has 1: coco-caption"),
        (["--svg", "answer.png"], "must end in .svg"),
        (["--svg", "no/where.svg"], "is not a folder"),
    ],
)  # fmt: skip
def test_names_that_the_run_does_not_have(fake: SimpleNamespace, asked: list[str], message: str) -> None:
    run = fake.write()
    result = CliRunner().invoke(app, ["show", str(run.folder), *asked], catch_exceptions=False)
    assert result.exit_code == 2 and message in result.stderr and result.stderr.count("\n") == 1


def test_a_run_without_lines(fake: SimpleNamespace) -> None:
    run = fake.write(change=lambda line: None)
    result = CliRunner().invoke(app, ["show", str(run.folder)], catch_exceptions=False)
    assert result.exit_code == 2 and "has no lines: nothing was measured; go on with run --resume" in result.stderr
    with pytest.raises(UsageError, match="was not measured with standard"):
        shown(fake.run(change=lambda line: line if line["method"] == "fastvlm" else None), methods=["standard"])


def test_the_picture_asks_nothing_of_the_network(fake: SimpleNamespace, tmp_path: Path) -> None:
    for name in ("one.svg", "two.svg"):
        save_picture(fake.run(), tmp_path / name)
    text = (tmp_path / "one.svg").read_text(encoding="utf-8")
    assert text == (tmp_path / "two.svg").read_text(encoding="utf-8"), "the same run gives the same bytes"
    assert not re.search(r"url\(.?http|@import|href=", text) and "fastvlm" in text
