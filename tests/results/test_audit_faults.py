"""`audit` of odd files: values that are no numbers, records of a part, other tools, what is no results file."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from covering import covering
from results.test_audit import TEXTS, answer, answers, base, call, lines, named, serve

from fastvlm_bench.analysis.audit import audit
from fastvlm_bench.foreign import read_results

__all__ = ["base"]  # a fixture
NAN, INFINITE = float("nan"), float("inf")
NO_NUMBERS = [INFINITE, -INFINITE, NAN, -1, "1", None, [1], {"a": 1}, True, 10**400, 1e300]
FRACTIONS = [10.9, 0.5]


def line(**choice: Any) -> dict[str, Any]:
    return answer(0, TEXTS[0], 1.0, 4, **choice)


def lmms(index: int = 0, **other: Any) -> dict[str, Any]:
    return {"doc_id": index, "target": "x", "resps": [["Yes"]], "filtered_resps": ["Yes"], **other}


PLACES: list[tuple[str, Callable[[Any], Any], bool, bool]] = [
    ("wall_time", lambda value: line(wall_time=[value]), False, False),
    ("new_tokens", lambda value: line(new_tokens=[value]), True, False),
    ("idxs", lambda value: line(idxs=[value]), True, False),
    ("decoding_steps", lambda value: line(decoding_steps=[value]), True, False),
    ("ttfts[1]", lambda value: serve(ttfts=[0.5, value]), False, False),
    ("itls[1]", lambda value: serve(itls=[[0.1], [0.1, value]]), False, False),
    ("output_lens[1]", lambda value: serve(output_lens=[3, value]), True, False),
    ("input_lens[1]", lambda value: serve(input_lens=[3, value]), True, False),
    ("max_concurrency", lambda value: serve(max_concurrency=value), True, True),
    ("spec_decode_acceptance_rate", lambda value: serve(spec_decode_acceptance_rate=value), False, True),
    ("spec_decode_acceptance_length", lambda value: serve(spec_decode_acceptance_length=value), False, True),
    ("acceptance_rates[1]", lambda value: serve(spec_decode_per_position_acceptance_rates=[0.5, value]), False, False),
    ("output_tokens", lambda value: lmms(token_counts=[{"output_tokens": value}]), True, True),
]
"""(what the message names, a file's object with the value there, whether it must be whole, whether it may be null)"""


QUICK = ("wall_time", "new_tokens", "itls[1]", "max_concurrency", "spec_decode_acceptance_rate")
"""Lists and single values, whole ones and others, and such as may be null."""


@pytest.mark.parametrize(
    ("name", "make", "whole", "null"), covering(PLACES, lambda place: place[0] in QUICK), ids=[p[0] for p in PLACES]
)
def test_what_is_no_number_is_refused_wherever_one_is_expected(
    tmp_path: Path, name: str, make: Callable[[Any], Any], whole: bool, null: bool
) -> None:
    for value in [*NO_NUMBERS, *(FRACTIONS if whole else [])]:
        file = lines(tmp_path / "odd.jsonl", [make(value)])
        result = call(file, file.with_name("other.jsonl"))
        if value is None and null:
            read_results(file)
            continue
        assert result.exit_code == 2 and len(result.stderr.splitlines()) == 1, (value, result.stderr)
        assert name in result.stderr and "number" in result.stderr, (value, result.stderr)
    for value in [0, 1, 1.0, *([] if whole else FRACTIONS[1:])]:
        assert read_results(lines(tmp_path / "good.jsonl", [make(value)])).answers


@pytest.mark.parametrize(("key", "most"), [
    ("spec_decode_acceptance_rate", 100), ("spec_decode_per_position_acceptance_rates", 1),
])  # fmt: skip
def test_a_share_above_the_whole_is_refused(tmp_path: Path, key: str, most: int) -> None:
    for value, good in ((most, True), (most * 1.01, False)):
        given = [0.5, value] if key.endswith("s") else value
        file = lines(tmp_path / "vllm.json", [serve(**{key: given})])
        result = call(file, lines(tmp_path / "other.json", [serve()]))
        assert (result.exit_code == 0) == good and (f"not a number from 0 to {most}" in result.stderr) != good


@pytest.mark.parametrize("value", [*NO_NUMBERS, [None], [[]], ["x"], [[1, "x"]], [[NAN]]])
def test_what_is_only_told_is_left_out_where_it_is_no_number(tmp_path: Path, value: Any) -> None:
    """The time of day and the tool's own acceptance length enter no number."""
    row = line(acceptance_length=value if isinstance(value, list) else [value], tstamp=value)
    (found,) = read_results(lines(tmp_path / "odd.jsonl", [row])).answers.values()
    assert found.recorded_at is None and found.told in ((), (1.0,) if value == [1] else ())


@pytest.mark.parametrize("rows", [
    [serve(errors={"0": "x"})], [serve(errors="ab")], [serve(input_lens={"0": 1})], [serve(), 3], [lmms(), 3],
    [lmms(), None], [lmms(resps=[[1.5]], filtered_resps=[1.5])], [line(), 3], [line(), [line()]],
])  # fmt: skip
def test_what_is_no_object_or_list_is_one_line(tmp_path: Path, rows: list[Any]) -> None:
    for text in ("\n".join(map(json.dumps, rows)), json.dumps(rows)):
        (tmp_path / "odd.json").write_text(text)
        result = call(tmp_path / "odd.json", tmp_path / "other.json")
        assert result.exit_code == 2 and len(result.stderr.splitlines()) == 1, result.stderr
        assert "odd.json" in result.stderr


def test_rows_of_a_list_are_named_by_their_place(tmp_path: Path) -> None:
    (tmp_path / "odd.json").write_text(json.dumps([line(), line(wall_time=["x"])]))
    assert "[1].choices[0].wall_time" in call(tmp_path / "odd.json", tmp_path / "odd2.json").stderr


def without(key: str, rows: list[Any]) -> list[Any]:
    """The last answer lacks a quantity."""
    choice = {k: v for k, v in rows[-1]["choices"][0].items() if k != key}
    return [*rows[:-1], {**rows[-1], "choices": [choice]}]


@pytest.mark.parametrize(("key", "warning"), [
    ("wall_time", "NotTimed"), ("new_tokens", "NotCounted"), ("idxs", "RoundsMissing"), ("new_tokens", "RoundsMissing"),
])  # fmt: skip
@pytest.mark.parametrize("in_reference", [True, False])
def test_a_quantity_of_a_part_only_is_told(tmp_path: Path, key: str, warning: str, in_reference: bool) -> None:
    files = [answers((1, 2, 1, 8)), answers((0.5, 1, 0.5, 4), (4, 5, 1, 16))]
    if not (in_reference and warning == "RoundsMissing"):
        files[not in_reference] = without(key, files[not in_reference])
    else:
        files[1] = without(key, files[1])
    first, other = (
        lines(tmp_path / name, rows) for name, rows in zip(("baseline.jsonl", "b.jsonl"), files, strict=True)
    )
    assert "1 " in named(first, other)[warning]
    row = audit([first, other]).methods[0].whole
    if key == "new_tokens":
        assert row.length_ratio == 1, "the fourth answer, of twice the tokens, is not known in one of them"
    assert row.speedup_totals is not None and row.speedup_totals.value == pytest.approx(2)


def test_nothing_is_told_of_what_is_in_no_record(tmp_path: Path) -> None:
    rows = [lmms(i) for i in range(3)]
    files = [lines(tmp_path / f"{name}.jsonl", rows) for name in "ab"]
    assert not {"NotTimed", "NotCounted", "RoundsMissing"} & set(named(*files))


def test_answers_are_looked_up_and_not_built_anew(base: Path) -> None:
    file = read_results(base)
    assert file.answers is file.answers


@pytest.mark.parametrize(("texts", "tokens", "words"), [
    (TEXTS, (4, 5, 1, 4), "0.778 times the reference's tokens: less work"),
    (("A red bus.",) * 4, (4, 5, 1, 8), f"{40 / len(''.join(TEXTS)):.3f} times the reference's characters: less work"),
])  # fmt: skip
def test_another_length_is_named_by_its_measure(
    tmp_path: Path, base: Path, texts: tuple[str, ...], tokens: tuple[int, ...], words: str
) -> None:
    other = lines(tmp_path / "other.jsonl", answers((1, 2, 1, 8), tokens, texts))
    assert words in named(base, other)["OtherLengths"]


def test_what_the_model_wrote_is_compared_and_not_what_a_filter_left(tmp_path: Path) -> None:
    written = lines(tmp_path / "a.jsonl", [lmms(resps=[["The answer is A."]], filtered_resps=["A"])])
    other = lines(tmp_path / "b.jsonl", [lmms(resps=[["A, I think."]], filtered_resps=["A"])])
    assert audit([written, other]).methods[0].whole.same_text == 0
    assert "filtered_resps" not in named(written, other)["AsRecorded"]
    for lacking in ({"resps": []}, {"resps": None}, {"resps": [[]]}):
        bare = lines(tmp_path / "c.jsonl", [{**lmms(filtered_resps=["A"]), **lacking}])
        notes = audit([bare, bare.with_name("a.jsonl")], reference=written).methods[0].warnings
        assert any("1 samples have no text in resps: filtered_resps" in note.message for note in notes)


@pytest.mark.parametrize(("first", "second", "same"), [
    ({"prompt_hash": "x"}, {"prompt_hash": "x"}, True),
    ({"prompt_hash": "x"}, {"prompt_hash": "y"}, False),
    ({"doc_hash": "x"}, {"doc_hash": "y"}, False),
    ({"prompt_hash": "x"}, {"doc_hash": "y"}, True),
    ({"prompt_hash": "x", "doc_hash": "d"}, {"doc_hash": "d"}, True),
    ({"prompt_hash": "x", "doc_hash": "d"}, {"doc_hash": "e"}, False),
    ({"prompt_hash": "x", "doc_hash": "d"}, {"prompt_hash": "y", "doc_hash": "d"}, False),
    ({}, {"prompt_hash": "y"}, True),
])  # fmt: skip
def test_hashes_of_one_kind_alone_are_compared(
    tmp_path: Path, first: dict[str, str], second: dict[str, str], same: bool
) -> None:
    files = [lines(tmp_path / name, [lmms(**own)]) for name, own in (("a.jsonl", first), ("b.jsonl", second))]
    result = call(*files)
    assert (result.exit_code == 0) == same and ("another prompt" in result.stderr) != same


@pytest.mark.parametrize("kind", ["topic", "category", "target"])
def test_equal_ids_of_other_data_are_refused(tmp_path: Path, kind: str) -> None:
    """As 0, 1, 2 are ids in many data sets."""
    for values, good in (("xx", True), ("xy", False), (("x", None), True)):
        rows = [lmms(target=value) if kind == "target" else {**line(), "topic": "t", kind: value} for value in values]
        files = [lines(tmp_path / name, [row]) for name, row in zip(("a.jsonl", "b.jsonl"), rows, strict=True)]
        result = call(*files)
        assert (result.exit_code == 0) == good and (
            f"another prompt in each, as its {kind} tells" in result.stderr
        ) != good


def test_places_that_nothing_confirms_are_told(tmp_path: Path, base: Path) -> None:
    def files(*rows: dict[str, Any]) -> list[Path]:
        return [lines(tmp_path / f"{index}.jsonl", [row]) for index, row in enumerate(rows)]

    bare = {k: v for k, v in serve().items() if k != "input_lens"}
    assert "2 pairs" in named(*files(bare, bare))["PairedByPlace"]
    assert "1 pairs" in named(*files(lmms(target=""), lmms()))["PairedByPlace"]
    for told in (serve(), lmms(), line()):
        assert "PairedByPlace" not in named(*files(told, told))


def test_ids_that_are_places_are_never_those_of_another_tool(tmp_path: Path) -> None:
    rows = [{**answer(i, "x", 1, 3), "question_id": i} for i in range(2)]
    files = [lines(tmp_path / "answers.jsonl", rows), lines(tmp_path / "lmms.jsonl", [lmms(0), lmms(1)])]
    (tmp_path / "vllm.json").write_text(json.dumps(serve()))
    files.append(tmp_path / "vllm.json")
    for one in files:
        for other in files:
            if one != other:
                result = call(one, other)
                assert result.exit_code == 2 and "are places in a list" in result.stderr, result.output


@pytest.mark.parametrize(
    ("content", "words"), [("{}", "an empty object"), ("[]", "an empty list"), ("[1]", "no object")]
)
def test_what_holds_nothing_says_so(tmp_path: Path, base: Path, content: str, words: str) -> None:
    (tmp_path / "bad.json").write_text(content)
    result = call(base, tmp_path / "bad.json")
    assert result.exit_code == 2 and words in result.stderr and "begins with ;" not in result.stderr


def test_one_file_under_two_names_is_refused(tmp_path: Path, base: Path) -> None:
    other = lines(tmp_path / "other.jsonl", answers((1, 2, 1, 8)))
    (tmp_path / "link.jsonl").symlink_to(other)
    for again in (other, tmp_path / "link.jsonl", tmp_path / "." / "x" / ".." / "other.jsonl"):
        result = call(base, other, again)
        assert result.exit_code == 2 and "named twice" in result.stderr, result.output
    (tmp_path / "base2.jsonl").symlink_to(base)
    assert call(base, other, "--reference", tmp_path / "base2.jsonl").exit_code == 0


def test_an_unknown_format_is_told_before_any_file_is_read(tmp_path: Path) -> None:
    result = call(tmp_path / "none.jsonl", "--format", "xml")
    assert result.exit_code == 2 and "unknown format 'xml'" in result.stderr


def test_a_file_that_is_not_there_is_a_short_line(tmp_path: Path, base: Path) -> None:
    told = call(base, "nope.jsonl").stderr
    assert "nope.jsonl does not exist" in told and "Spec-Bench" not in told


def test_spec_bench_is_not_said_to_print_these_numbers(tmp_path: Path, base: Path) -> None:
    """It counts the baseline's tokens anew with a tokenizer."""
    other = lines(tmp_path / "eagle.jsonl", answers((0.5, 2.0, 1.0, 2.0)))
    assert "MeansDiffer" in named(base, other) and "Spec-Bench" not in named(base, other)["MeansDiffer"]
    assert "Spec-Bench prints" not in " ".join(call(base, other).stdout.split())
