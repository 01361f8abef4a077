"""`audit` on small files in the official formats of other tools: numbers by hand, warnings, and what is refused."""

import csv
import io
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fastvlm_bench.analysis.audit import audit
from fastvlm_bench.cli.app import app

TEXTS = ("A red bus.", "Two dogs play.", "Yes", "A long and winding road.")


def answer(index: int, text: str, seconds: float, tokens: int, **other: Any) -> dict[str, Any]:
    """One line as MMSpec writes it; `other` replaces keys of the line or of its choice."""
    choice = {"index": 0, "turns": [text], "idxs": [tokens - 1], "new_tokens": [tokens], "wall_time": [seconds]}
    line = {"question_id": f"q{index}", "topic": "ab"[index % 2], "category": "default", "model_id": "m",
            "choices": [{**choice, **{k: v for k, v in other.items() if k not in ("topic", "tstamp")}}],
            "tstamp": 1e9 + index}  # fmt: skip
    return {**line, **{k: v for k, v in other.items() if k in ("topic", "tstamp")}}


def answers(seconds: Sequence[float], tokens: Sequence[int] = (4, 5, 1, 8), texts: Sequence[str] = TEXTS) -> list[Any]:
    return [answer(i, *item) for i, item in enumerate(zip(texts, seconds, tokens, strict=True))]


def lines(path: Path, rows: Sequence[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return lines(tmp_path / "baseline.jsonl", answers((1.0, 2.0, 1.0, 8.0)))


def call(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, ["audit", *map(str, arguments)], catch_exceptions=False, env={"COLUMNS": "100"})


def named(path: Path, *more: Path, **options: Any) -> dict[str, str]:
    """The warnings of the last file, by name."""
    method = audit([path, *more], **options).methods[-1]
    return {notice.name: notice.message for notice in method.warnings}


def test_numbers_by_hand(tmp_path: Path, base: Path) -> None:
    other = lines(tmp_path / "eagle.jsonl", answers((0.5, 2.0, 1.0, 2.0), (4, 5, 1, 8), (*TEXTS[:3], "A long road.")))
    result = call(other, base, "--json")
    found = json.loads(result.stdout)
    assert found["reference"] == "baseline.jsonl"
    (method,) = found["methods"]
    assert (method["file"], method["samples"], method["same_text"], method["same_first_turn"]) == (
        "eagle.jsonl",
        4,
        3,
        3,
    )
    assert method["speedup_geomean"] == pytest.approx((2 * 1 * 1 * 4) ** 0.25)
    assert method["speedup_totals"] == method["speedup_per_token"] == pytest.approx(12 / 5.5)
    rates = [[4 / 1, 5 / 2, 1, 8 / 8], [4 / 0.5, 5 / 2, 1, 8 / 2]]
    assert method["speedup_of_rates"] == pytest.approx(sum(rates[1]) / sum(rates[0]))
    assert method["length_ratio"] == 1 and method["tau"] == 1
    assert method["text_length_ratio"] == pytest.approx((sum(map(len, TEXTS)) - 12) / sum(map(len, TEXTS)))
    assert method["speedup_geomean_low"] < method["speedup_geomean"] < method["speedup_geomean_high"]
    topics = {row["topic"]: row for row in method["topics"]}
    assert topics["a"]["speedup_geomean"] == pytest.approx(math.sqrt(2)) and topics["b"]["speedup_totals"] == 2.5
    assert {"OtherTexts", "MeansDiffer", "TooFewSamples"} <= {warning["name"] for warning in method["warnings"]}


def test_the_exports_hold_the_same_numbers(tmp_path: Path, base: Path) -> None:
    other = lines(tmp_path / "a_b.jsonl", answers((0.5, 1.0, 0.5, 4.0)))
    rows = list(csv.DictReader(io.StringIO(call(base, other, "--format", "csv").stdout)))
    assert [row["topic"] for row in rows] == ["", "a", "b"]
    assert all(float(row["speedup_geomean"]) == pytest.approx(2) for row in rows)
    latex = tmp_path / "audit.tex"
    assert call(base, other, "-f", "latex", "-o", latex).exit_code == 0
    assert r"a\_b.jsonl" in latex.read_text() and "2.000 [2.000, 2.000]" in latex.read_text()
    assert call(base, other, "-f", "markdown").stdout.count("\n") == 2 + len(rows)
    shown = call(base, other).stdout
    assert "a_b.jsonl: the reference's first answer in 4 of 4 samples" in shown and "2.000× by totals" in shown


def shorter(rows: list[Any]) -> list[Any]:
    return answers((1, 2, 1, 8), (4, 5, 1, 4), (*TEXTS[:3], "A long road."))


def recounted(rows: list[Any]) -> list[Any]:
    return answers((1, 2, 1, 8), (5, 5, 1, 9))


def two_turns(rows: list[Any], second: str) -> list[Any]:
    row = answer(0, "One.", 1, 2, turns=["One.", second], idxs=[1, 1], new_tokens=[2, 2], wall_time=[1, 1])
    return [row, *rows[1:]]


@pytest.mark.parametrize(
    ("change", "warning", "words"),
    [
        (shorter, "OtherLengths", "0.778 times the reference's tokens: less work"),
        (shorter, "OtherTexts", "1 of 4 first answers differ"),
        (recounted, "OtherCounting", r"2 of 4 answers with the same text count other tokens (+2 in all)"),
        (lambda rows: rows[:3], "MissingSamples", "1 samples of the reference are missing here, and 0 are only here"),
        (lambda rows: rows[::-1], "OtherOrder", "another order"),
        (lambda rows: [*rows, rows[1]], "Repeated", "1 lines with an id that comes again"),
        (lambda rows: [*rows[:3], answer(3, "ERROR", 1, 1)], "FailedSamples", "1 answers are errors"),
        (lambda rows: [{**row, "tstamp": 2e9} for row in rows], "RecordedApart", "days apart"),
        (lambda rows: [*rows[:3], answer(3, TEXTS[3], 0.0, 8)], "NotTimed", "1 pairs have no positive seconds"),
        (lambda rows: answers((1, 2, 1, 8)), "NotShown", "includes 1"),
    ],
)  # fmt: skip
def test_warnings_teach(
    tmp_path: Path, base: Path, change: Callable[[list[Any]], list[Any]], warning: str, words: str
) -> None:
    other = lines(tmp_path / "other.jsonl", change(answers((1, 2, 1, 8))))
    assert words in named(base, other)[warning]
    assert warning not in named(base, lines(tmp_path / "same.jsonl", answers((0.5, 1, 0.6, 4)))), "no false alarm"


def test_later_turns_are_told_apart_from_first_ones(tmp_path: Path) -> None:
    first = lines(tmp_path / "baseline.jsonl", two_turns(answers((1, 2, 1, 8)), "Two."))
    other = lines(tmp_path / "other.jsonl", two_turns(answers((1, 2, 1, 8)), "Zwei"))
    whole = audit([first, other]).methods[0].whole
    assert (whole.same_first_turn, whole.same_text) == (4, 3)
    assert "1 samples differ in later turns only" in named(first, other)["OtherContexts"]


def test_a_torn_last_line_is_left_out_and_told(tmp_path: Path, base: Path) -> None:
    whole = lines(tmp_path / "other.jsonl", answers((1, 2, 1, 8))).read_text()
    (tmp_path / "other.jsonl").write_text(whole[:-30])
    assert {"Truncated", "MissingSamples"} <= set(named(base, tmp_path / "other.jsonl"))


def test_an_acceptance_length_that_is_a_running_mean_is_told(tmp_path: Path) -> None:
    """What one third party's file holds: the mean of all samples so far under each sample's own name."""
    tokens = [20 if i % 2 else 5 for i in range(200)]
    means = [sum(tokens[: i + 1]) / (i + 1) / 5 for i in range(200)]
    rows = [[answer(i, "x", 1, n, idxs=[4], acceptance_length=[told[i]]) for i, n in enumerate(tokens)]
            for told in (means, [n / 5 for n in tokens])]  # fmt: skip
    first, running, own = (lines(tmp_path / f"{n}.jsonl", r) for n, r in zip("abc", [rows[1], *rows], strict=True))
    assert "RunningMean" in named(first, running) and "RunningMean" not in named(first, own)
    assert audit([first, running]).methods[0].whole.tau == sum(tokens) / 1000


def test_spec_bench_counts_steps_and_eagle_their_last_index(tmp_path: Path) -> None:
    """Spec-Bench: `decoding_steps` is a number of rounds, ids are whole numbers, topics are categories."""
    rows = [{"question_id": 81 + i, "category": "writing", "model_id": "v", "tstamp": 1.0,
             "choices": [{"index": 0, "turns": ["a", "b"], "decoding_steps": [5, 5], "new_tokens": [20, 10],
                          "wall_time": [2.0, 1.0], "accept_lengths": [3] * 10}]} for i in range(3)]  # fmt: skip
    method = audit([lines(tmp_path / "vanilla.jsonl", rows), lines(tmp_path / "b.jsonl", rows)]).methods[0].whole
    assert method.tau == 3 and method.samples == 3


def serve(**other: Any) -> dict[str, Any]:
    return {"date": "20260101", "model_id": "m", "num_prompts": 2, "max_concurrency": 1, "completed": 2,
            "total_input_tokens": 30, "total_output_tokens": 6, "request_throughput": 1.0, "input_lens": [10, 20],
            "output_lens": [3, 3], "ttfts": [0.5, 0.5], "itls": [[0.25, 0.25], [0.5, 0.5]],
            "generated_texts": ["a b c", "d e f"], "errors": ["", ""], **other}  # fmt: skip


def test_vllm_serve(tmp_path: Path) -> None:
    (tmp_path / "plain.json").write_text(json.dumps(serve()))
    fast = serve(itls=[[0.0], [0.0]], max_concurrency=8, spec_decode_acceptance_rate=40.0,
                 spec_decode_acceptance_length=1.8, spec_decode_per_position_acceptance_rates=[0.6, 0.2])  # fmt: skip
    (tmp_path / "fast.json").write_text(json.dumps(fast, indent=1))
    found = audit([tmp_path / "plain.json", tmp_path / "fast.json"])
    method = found.methods[0].whole
    assert method.speedup_totals is not None and method.speedup_totals.value == pytest.approx((1.0 + 1.5) / 1.0)
    assert (method.draft_acceptance_rate, method.tau, method.alpha) == (0.4, 1.8, pytest.approx(0.8 / 1.6))
    assert "OtherLoad" in {notice.name for notice in found.methods[0].warnings}


def test_lmms_eval_compares_texts_without_seconds(tmp_path: Path) -> None:
    rows = [{"doc_id": i, "target": "x", "resps": [["Yes "]], "filtered_resps": ["Yes"], "prompt_hash": f"h{i}",
             "token_counts": [{"output_tokens": 1}]} for i in range(2)]  # fmt: skip
    other = [{**rows[0], "resps": [["Not"]]}, rows[1]]
    found = audit([lines(tmp_path / "a.jsonl", rows), lines(tmp_path / "b.jsonl", other)]).methods[0]
    assert (found.whole.same_text, found.whole.speedup_geomean, found.whole.length_ratio) == (1, None, 1.0)
    assert any("no seconds" in notice.message for notice in found.warnings)
    assert found.example == ("0", "Yes", "Not")


def no_details() -> Any:
    return {key: value for key, value in serve().items() if key != "generated_texts"}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (json.dumps({"results": {}, "n": 1}), "unknown tool (it begins with results, n); known are Spec-Bench"),
        ("\x00\x01", "is not JSON"),
        ("", "an empty file"),
        (json.dumps(no_details()), "--save-detailed"),
        (json.dumps({**answer(0, "x", 1, 1), "question_id": "other"}), "share no sample"),
        (json.dumps(answer(0, "x", 1, 1, wall_time=["1"])), "choices[0].wall_time must be 1 number"),
        (json.dumps(answer(0, "x", 1, 1, turns="x")), "choices[0].turns is a string"),
        (json.dumps(answer(0, "ERROR", 1, 1)), "no sample is answered both"),
    ],
)
def test_bad_files_are_one_line(tmp_path: Path, base: Path, content: str, words: str) -> None:
    (tmp_path / "bad.jsonl").write_text(content)
    result = call(base, tmp_path / "bad.jsonl")
    assert result.exit_code == 2 and len(result.stderr.splitlines()) == 1 and words in result.stderr, result.stderr


def test_other_prompts_one_file_and_odd_options_are_refused(tmp_path: Path, base: Path) -> None:
    for name, lengths in (("a.json", [10, 20]), ("b.json", [20, 10])):
        (tmp_path / name).write_text(json.dumps(serve(input_lens=lengths)))
    lines(tmp_path / "c.jsonl", answers((1, 2, 1, 8)))
    for arguments, words in (
        ((tmp_path / "a.json", tmp_path / "b.json"), "another prompt"),
        ((base,), "the only file"),
        ((base, tmp_path / "none.jsonl"), "does not exist"),
        ((base, base.with_name("c.jsonl"), "--format", "cvs"), "did you mean 'csv'"),
        ((base, tmp_path / "a.json", "-o", "x"), "--out is for"),
    ):
        result = call(*arguments)
        assert result.exit_code == 2 and words in result.stderr, result.stderr
