"""ANLS, relaxed accuracy, GQA, POPE, multiple choice and VisDial ranking: official vectors and hand arithmetic."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fastvlm_bench.errors import UsageError
from fastvlm_bench.metrics import anls, gqa_match, multiple_choice, pope, relaxed_accuracy, visdial_ranking
from fastvlm_bench.metrics.anls import levenshtein

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "vectors.json").read_text(encoding="utf-8"))
OPTIONS = {"A": "nucleus", "B": "ribosome", "C": "mitochondria", "D": "golgi"}
SHOWN = [f"{letter}. {text}" for letter, text in OPTIONS.items()]


@pytest.mark.parametrize("item", VECTORS["anls"], ids=lambda item: item["id"])
def test_anls_equals_the_official_script(item: dict[str, Any]) -> None:
    score = anls.score([item["prediction"]], [item["answers"]])
    assert score.value == pytest.approx(item["official_rrc"], rel=0, abs=1e-9)


def test_anls_keeps_the_boundary_and_takes_the_best_answer() -> None:
    # 2 of 4 characters differ: 0.5 is kept; 3 of 5: 0.4 is not.
    assert anls.score(["abcd", "abcde"], [["abxy"], ["abxyz"]]).per_sample == [0.5, 0.0]
    assert anls.score(["cat"], [["dog", "cats"]]).value == pytest.approx(0.75)
    # The length is that of the raw text: "  a b " has 6 characters, its distance to "a b" is 0.
    assert anls.score(["  A  b "], [["a b"]]).value == 1.0
    assert anls.levenshtein("kitten", "sitting") == 3 and anls.levenshtein("", "abc") == 3


@pytest.mark.parametrize("item", VECTORS["relaxed_accuracy"], ids=lambda item: item["id"])
def test_relaxed_accuracy_equals_the_official_function(item: dict[str, Any]) -> None:
    assert relaxed_accuracy.score([item["prediction"]], [[item["target"]]]).value == float(item["pix2struct_lmms"])


def test_relaxed_accuracy_is_not_symmetric_and_survives_odd_numbers() -> None:
    assert relaxed_accuracy.score(["100", "95"], [["95"], ["100"]]).per_sample == [0.0, 1.0]
    assert relaxed_accuracy.score(["nan", "0.0", "5", "1,000"], [["5"], ["0"], ["5%"], ["1000"]]).value == 0.0


@pytest.mark.parametrize(
    ("variant", "column"),
    [
        ("official", "official_raw_equality"),
        ("llava", "llava_convert_rstrip_dot_lower"),
        ("lmms", "lmms_eval_ignore_case_punct"),
    ],
)
@pytest.mark.parametrize("item", VECTORS["gqa"], ids=lambda item: repr(item["prediction"]))
def test_gqa_equals_each_scorer(item: dict[str, Any], variant: Any, column: str) -> None:
    assert gqa_match.score([item["prediction"]], [[item["gold"]]], variant=variant).value == float(item[column])


def test_unknown_variants_are_refused() -> None:
    with pytest.raises(UsageError, match="unknown variant 'lava' of gqa_match; did you mean 'llava'"):
        gqa_match.score(["a"], [["a"]], variant="lava")  # type: ignore[arg-type]


@pytest.mark.parametrize("item", VECTORS["pope_parse"], ids=lambda item: repr(item["text"]))
def test_pope_parses_like_the_official_script(item: dict[str, str]) -> None:
    assert pope.parse(item["text"]) == item["official"]


def test_pope_by_hand() -> None:
    # Predicted yes yes no yes "", labels yes no no yes no: TP 2, FP 2, FN 0, TN 1.
    score = pope.score(["Yes", "yes.", "No, none", "Yes", ""], [["yes"], ["no"], ["no"], ["Yes"], ["no"]])
    assert score.per_sample == [1.0, 0.0, 1.0, 1.0, 0.0] and score.value == pytest.approx(0.6)
    assert score.parts == pytest.approx(
        {"precision": 0.5, "recall": 1.0, "f1": 2 / 3, "yes_ratio": 0.8, "unclear": 0.2}
    )


def test_pope_counts_predictions_and_guards_empty_classes() -> None:
    score = pope.score(["no", "no"], [["yes"], ["yes"]])
    assert (score.parts["precision"], score.parts["recall"], score.parts["f1"]) == (0.0, 0.0, 0.0)
    assert score.parts["yes_ratio"] == 0.0  # all labels are yes: counting them would give 1
    with pytest.raises(UsageError, match="label of sample 1 is 'maybe'"):
        pope.score(["no", "no"], [["yes"], ["maybe"]])


@pytest.mark.parametrize("item", VECTORS["mmmu_mc"], ids=lambda item: item["response"])
def test_mmmu_parses_like_the_official_code_but_never_draws(item: dict[str, Any]) -> None:
    drawn = item["response"] == "B. foo"  # the recorded letter is the official code's random draw
    assert multiple_choice.parse_mmmu(item["response"], item["index2ans"]) == (None if drawn else item["parsed"])


@pytest.mark.parametrize(
    ("response", "letter"),
    [
        ("(B)", "B"),
        ("B.", "B"),
        ("A or rather (C), not (B)", "B"),
        ("It must be the one called Golgi here", "D"),
        ("golgi", None),
        ("", None),
        ("E", None),
    ],
)
def test_mmmu_rules_by_hand(response: str, letter: str | None) -> None:
    assert multiple_choice.parse_mmmu(response, OPTIONS) == letter


@pytest.mark.parametrize("item", VECTORS["mmmu_open"], ids=lambda item: item["response"])
def test_mmmu_open_questions_equal_the_official_code(item: dict[str, Any]) -> None:
    parsed = {str(form) for form in multiple_choice.parse_open(item["response"])}
    assert parsed == set(item["parsed"])
    score = multiple_choice.score([item["response"]], [[item["gold"]]])
    assert (score.value, score.parts) == (float(item["correct"]), {"unparsed": 0.0})


def test_mmmu_open_single_letters_and_thousands() -> None:
    assert multiple_choice.open_correct("so it is x y", ["x"]) and not multiple_choice.open_correct("it is wax", ["x"])
    assert multiple_choice.open_correct("the result is 1,234.567", ["1234.57"])
    assert not multiple_choice.open_correct("the result is 12", ["13"])


@pytest.mark.parametrize("item", VECTORS["scienceqa_llava_parse"], ids=lambda item: repr(item["text"]))
def test_scienceqa_parses_like_llava(item: dict[str, Any]) -> None:
    options = dict(list(OPTIONS.items())[: item["n_choices"]])
    letter = multiple_choice.parse_scienceqa(item["text"], options, strict=True)
    assert (-1 if letter is None else "ABC".index(letter)) == item["parsed_index"]


@pytest.mark.parametrize("text", ["B", "B.", " B\n", "(B)", "B. ribosome", "The answer is B", "The answer is B."])
def test_scienceqa_does_not_measure_typography(text: str) -> None:
    assert multiple_choice.parse_scienceqa(text, OPTIONS) == "B"
    assert multiple_choice.parse_scienceqa(text.replace("B", "E", 1), OPTIONS) is None


def test_unparsed_is_wrong_and_counted_and_the_same_each_time() -> None:
    predictions, references = ["B. foo", "B", "C", "hm"], [["B", *SHOWN]] * 4
    first = multiple_choice.score(predictions, references)
    assert first.per_sample == [0.0, 1.0, 0.0, 0.0] and first.parts == {"unparsed": 0.5}
    assert all(multiple_choice.score(predictions, references) == first for _ in range(20))
    assert multiple_choice.score(predictions, references, variant="scienceqa").per_sample == [1.0, 1.0, 0.0, 0.0]
    with pytest.raises(UsageError, match="give the right letter"):
        multiple_choice.score(["B"], [["E", *SHOWN]])


def test_visdial_sparse_equals_the_official_code() -> None:
    vector = VECTORS["visdial"]
    ranks = [visdial_ranking.ranks_of(scores) for dialog in vector["scores"] for scores in dialog]
    indices = [index for dialog in vector["gt_index"] for index in dialog]
    score = visdial_ranking.score([" ".join(map(str, r)) for r in ranks], [[str(index)] for index in indices])
    expected = vector["sparse"]
    assert score.value == pytest.approx(expected["mrr"], abs=1e-6)
    assert score.parts == pytest.approx(
        {"r@1": expected["r@1"], "r@5": expected["r@5"], "r@10": expected["r@10"], "mean_rank": expected["mean"]}
    )


def test_visdial_ndcg_equals_the_official_code_and_survives_no_relevance() -> None:
    vector = VECTORS["visdial"]
    ranks = [visdial_ranking.ranks_of(scores) for scores in vector["ndcg_round_scores"]]
    texts = [" ".join(map(str, r)) for r in ranks]
    relevances = [" ".join(map(str, row)) for row in vector["relevance"]]
    score = visdial_ranking.score([*texts, texts[0]], [["0", relevances[0]], ["0", relevances[1]], ["0", "0 " * 6]])
    assert score.parts["ndcg"] == pytest.approx(vector["ndcg"]["ndcg"], abs=1e-6)
    assert (score.parts["ndcg_samples"], score.parts["ndcg_all_zero"]) == (2, 1)
    # By hand: relevant options 0 and 2; ranked 1st and 3rd, but only the first k = 2 places count: 1 / (1 + .5/log2 3).
    assert visdial_ranking.ndcg([1, 2, 3], [1.0, 0.0, 0.5]) == pytest.approx(1 / (1 + 0.5 / math.log2(3)))
    assert visdial_ranking.ndcg([1, 2, 3], [0.0, 0.0, 0.0]) is None


@pytest.mark.parametrize(
    ("prediction", "references", "message"),
    [
        ("1 1 2", ["0"], "must be 1 .. 3, each once"),
        ("a dog", ["0"], "ranks are 'a dog'"),
        ("1 2", ["2"], "right option is 2, but there are 2"),
        ("1 2", ["0", "1"], "1 relevances for 2 options"),
    ],
)
def test_visdial_refuses_what_is_no_ranking(prediction: str, references: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        visdial_ranking.score([prediction], [references])


def slow_levenshtein(left: str, right: str) -> int:
    """The table, row by row."""
    row = list(range(len(right) + 1))
    for i, mine in enumerate(left, 1):
        diagonal, row[0] = row[0], i
        for j, other in enumerate(right, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (mine != other))
    return row[-1]


@given(st.text("abc", max_size=12), st.text("abc", max_size=12))
@example("", "")
@example("a", "")
@example("kitten" * 20, "sitting" * 20)
@settings(max_examples=300, deadline=None, derandomize=True)
def test_the_bit_parallel_distance_equals_the_table(left: str, right: str) -> None:
    assert levenshtein(left, right) == slow_levenshtein(left, right)
