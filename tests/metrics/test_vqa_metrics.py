"""VQA accuracy and exact match: official vectors, hand arithmetic, the three variants."""

import json
from pathlib import Path
from typing import Any, cast

import pytest

from fastvlm_bench.errors import UsageError
from fastvlm_bench.metrics import exact_match, vqa_accuracy
from fastvlm_bench.metrics.vqa_accuracy import Variant, normalise

ITEMS: list[dict[str, Any]] = json.loads((Path(__file__).parent / "vectors.json").read_text(encoding="utf-8"))[
    "vqa_accuracy"
]["items"]


def accuracy(prediction: str, answers: list[str], variant: str = "normalised") -> float:
    return vqa_accuracy.score([prediction], [answers], variant=cast(Variant, variant)).value


# lmms-eval's VQAv2 task runs the M4C processor on the prediction alone. On these vectors "m4c" and "normalised" both
# give its values; `test_lmms_evals_vqav2_is_the_default_variant` shows where "m4c" does not.
@pytest.mark.parametrize(
    ("variant", "column"),
    [
        ("official", "official_vqa"),
        ("m4c", "textvqa_m4c"),
        ("m4c", "lmms_eval_vqav2"),
        ("normalised", "lmms_eval_vqav2"),
    ],
)
@pytest.mark.parametrize("item", ITEMS, ids=lambda item: item["id"])
def test_equals_the_official_evaluators(item: dict[str, Any], variant: str, column: str) -> None:
    assert accuracy(item["prediction"], item["answers"], variant) == pytest.approx(item[column], rel=0, abs=1e-9)


def as_lmms_eval(prediction: str, answers: list[str]) -> float:
    """VQAv2's accuracy by lmms-eval's rule: the answers are normalised only if they are not all the same."""
    given, people = normalise(prediction, "m4c"), answers
    if len(set(answers)) > 1:
        given, people = normalise(given), [normalise(answer) for answer in answers]
    agreeing = [answer == given for answer in people]
    return sum(min(1.0, (sum(agreeing) - own) / 3) for own in agreeing) / len(people)


def test_lmms_evals_vqav2_is_the_default_variant() -> None:
    """On answers in normalised form, all predictions but those with "'s" score the same."""
    words = ["yes", "no", "2", "red", "man's hat", "on table", "don't know", "who's there", "10 o'clock", "t shirt"]
    spoken = [*words, "Yes.", "two", "The red", "dont know", "RED, I think?", "on the table!", "t-shirt", "10 oclock"]
    seen: dict[bool, set[str]] = {True: set(), False: set()}
    for prediction in spoken:
        for first in words:
            for count in (0, 1, 2, 3, 7):
                answers = [first] * (10 - count) + [words[(words.index(first) + 3) % len(words)]] * count
                lmms = as_lmms_eval(prediction, answers)
                seen[lmms == pytest.approx(accuracy(prediction, answers))].add(prediction)
    assert seen[False] == {"man's hat", "who's there"}
    assert (
        as_lmms_eval("man's hat", ["man's hat"] * 10) == 0.0 and accuracy("man's hat", ["man's hat"] * 10, "m4c") == 1.0
    )


@pytest.mark.parametrize("item", ITEMS, ids=lambda item: item["id"])
def test_normalises_like_the_official_evaluators(item: dict[str, Any]) -> None:
    assert normalise(item["prediction"]) == item["official_normalised_prediction"]
    assert normalise(item["prediction"], "m4c") == item["m4c_normalised_prediction"]


@pytest.mark.parametrize("variant", ["normalised", "official", "m4c"])
@pytest.mark.parametrize(
    ("agreeing", "expected"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (9, 1.0), (10, 1.0)]
)
def test_by_number_of_agreeing_people(agreeing: int, expected: float, variant: str) -> None:
    # 3 agree: leaving one of them out, 2 remain (3 · 2/3 = 2); leaving one of the 7 others out, 3 remain (7 · 1): 9/10.
    answers = ["red"] * agreeing + ["blue"] * (10 - agreeing)
    assert accuracy("red", answers, variant) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("prediction", "answers", "official", "m4c", "normalised"),
    [
        # Ten equal answers: the official scorer then normalises neither side.
        ("Yes", ["yes"] * 10, 0.0, 1.0, 1.0),
        ("yes.", ["yes"] * 10, 0.0, 1.0, 1.0),
        ("yes\n", ["yes"] * 10, 1.0, 1.0, 1.0),
        # "whos" becomes "who's" by the table of contractions, "who's" becomes "who 's" in M4C only.
        ("who's", ["whos"] * 3 + ["x"] * 7, 0.9, 0.0, 0.9),
        # M4C deletes the comma; otherwise a comma without a space beside it becomes a space.
        ("red,blue", ["red blue"] * 3 + ["x"] * 7, 0.9, 0.0, 0.9),
        ("red,blue", ["redblue"] * 3 + ["x"] * 7, 0.0, 0.9, 0.0),
    ],
)
def test_where_the_variants_differ(
    prediction: str, answers: list[str], official: float, m4c: float, normalised: float
) -> None:
    found = [accuracy(prediction, answers, variant) for variant in ("official", "m4c", "normalised")]
    assert found == pytest.approx([official, m4c, normalised], abs=1e-12)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Cat.", "cat"),
        ("two", "2"),
        ("None", "0"),
        ("dont", "don't"),
        ("couldnt've", "couldn't've"),
        ("couldntve", "couldntve"),  # the table knows one missing apostrophe, not two
        ("Ive", "ive"),  # upper-case keys of the official table can never match
        ("somebody'd", "somebodyd"),
        ("1,000", "1000"),
        ("3.5", "3.5"),
        ("3. 5", "3 5"),
        ("t-shirt", "t shirt"),
        ("x- ray", "x ray"),
        ("black&white", "black&white"),
        ("a\tb\nc", "b c"),
        ("." * 40, "." * 8),  # at most 32 full stops go, as officially
        ("\x00", "\x00"),
        ("\ud800", "\ud800"),
    ],
)
def test_normalisation_by_hand(text: str, expected: str) -> None:
    assert normalise(text) == expected


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        (["red"], 1.0),
        (["blue"], 0.0),
        (["red", "blue"], 0.5),  # leave "red" out: 0 of 1; leave "blue" out: 1 of 1
        (["red", "red", "red"], 1.0),
        (["red", "red", "red", "blue"], 0.75),  # 3 · (2/3) + 1 · 1, over 4
        (["red"] * 3 + ["blue"] * 17, (3 * 2 / 3 + 17) / 20),
    ],
)
def test_fewer_or_more_than_ten_answers(answers: list[str], expected: float) -> None:
    assert accuracy("red", answers) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("blank", ["", "  ", "\n"])
def test_a_blank_prediction_scores_zero(blank: str) -> None:
    assert accuracy(blank, ["yes"] * 10) == 0.0
    assert accuracy(blank, ["a"] * 10) == 0.0  # "a" is normalised to nothing
    assert accuracy("a", ["a"] * 10) == 1.0
    assert exact_match.score([blank], [["a"] * 10]).value == 0.0
    assert exact_match.score(["a"], [["a"] * 10]).value == 1.0


def test_the_order_of_samples_and_answers_does_not_matter() -> None:
    predictions = [item["prediction"] for item in ITEMS]
    answers = [item["answers"] for item in ITEMS]
    straight = vqa_accuracy.score(predictions, answers)
    turned = vqa_accuracy.score(predictions[::-1], [texts[::-1] for texts in answers[::-1]])
    assert turned.per_sample == straight.per_sample[::-1]
    assert turned.value == pytest.approx(straight.value, abs=1e-12)
    assert straight.value == pytest.approx(sum(straight.per_sample) / len(ITEMS), abs=1e-12)


def test_an_unknown_variant_is_refused() -> None:
    with pytest.raises(UsageError, match="did you mean 'official'.*normalised, official, m4c"):
        accuracy("yes", ["yes"], "oficial")


def test_exact_match_takes_the_most_common_answer() -> None:
    answers = ["red", "The red.", "blue", "blue", "Red"]  # red 3, blue 2 once normalised
    found = exact_match.score(["RED", "blue", "a red"], [answers] * 3)
    assert found.per_sample == [1.0, 0.0, 1.0]
    assert found.value == pytest.approx(2 / 3)


def test_exact_match_takes_the_first_of_equally_common_answers() -> None:
    assert exact_match.score(["red", "blue"], [["red", "blue", "blue", "red"]] * 2).per_sample == [1.0, 0.0]
    assert exact_match.score(["red", "blue"], [["blue", "red", "red", "blue"]] * 2).per_sample == [0.0, 1.0]


def test_the_vectors_notice_a_rounded_mutant(monkeypatch: pytest.MonkeyPatch) -> None:
    original = vqa_accuracy._accuracy
    monkeypatch.setattr(vqa_accuracy, "_accuracy", lambda *arguments: float(round(original(*arguments))))
    assert any(accuracy(item["prediction"], item["answers"]) != item["lmms_eval_vqav2"] for item in ITEMS)
