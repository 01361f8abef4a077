"""Each identity of a line, broken one at a time."""

import random
from types import SimpleNamespace
from typing import Any

import pytest

from fastvlm_bench.records.identities import check_line


@pytest.fixture
def whole(fake: SimpleNamespace) -> dict[str, Any]:
    suite = fake.suite(n=1)
    return fake.line(suite, fake.method("fastvlm"), 0, random.Random(3), tokens=12)


@pytest.mark.parametrize("label", ["standard", "fastvlm"])
def test_simulated_lines_hold(fake: SimpleNamespace, label: str) -> None:
    suite, source = fake.suite(n=5), random.Random(0)
    for index in range(5):
        assert check_line(fake.line(suite, fake.method(label), index, source), 40) == []


def test_one_token_answers_hold(fake: SimpleNamespace) -> None:
    line = fake.line(fake.suite(n=1), fake.method("fastvlm"), 0, random.Random(0), tokens=1)
    assert line["rounds"] == [] and line["decode_s"] == 0
    assert check_line(line, 40) == []


def test_early_exit_rounds_hold(whole: dict[str, Any]) -> None:
    whole["rounds"] = [[1, 0, 0, 1, 0.001, 0.0] for _ in whole["token_ids"][1:]]
    assert check_line(whole, 40) == []


def test_truncated_last_round_holds_and_an_earlier_one_does_not(whole: dict[str, Any]) -> None:
    whole["token_ids"] = [5, 6, 7, 8, 9]
    whole["stop"] = "length"
    whole["rounds"] = [[3, 2, 1, 2, 0.0, 0.0], [3, 3, 3, 2, 0.0, 0.0]]
    assert check_line(whole) == []
    whole["rounds"].reverse()
    assert any("emitted 2 of accepted 3" in problem for problem in check_line(whole))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"token_ids": [1, 2]}, "but 1 + emitted"),
        ({"token_ids": []}, "no token at all"),
        ({"stop": "stop"}, "stop is 'stop'"),
        ({"ttft_s": -1.0}, "ttft_s is -1.0, not a time"),
        ({"decode_s": None}, "decode_s is None, not a time"),
        ({"prefill_s": float("nan")}, "prefill_s is nan"),
        ({"decode_s": 0.001}, "more than decode_s"),
        ({"ttft_s": 0.001}, "more than ttft_s"),
    ],
)  # fmt: skip
def test_broken_fields(whole: dict[str, Any], change: dict[str, Any], message: str) -> None:
    assert any(message in problem for problem in check_line({**whole, **change}))


@pytest.mark.parametrize(
    ("position", "value", "message"),
    [(0, 0, "<= drafted 0"), (1, 9, "<= drafted"), (2, -1, "not 0 <= accepted -1"), (3, 0, "emitted 0"),
     (3, 99, "emitted 99"), (4, -0.1, "seconds -0.1"), (5, None, "None are not both")],
)  # fmt: skip
def test_broken_counts(whole: dict[str, Any], position: int, value: Any, message: str) -> None:
    whole["rounds"][0][position] = value
    if value is None:
        whole["decode_s"] = None  # the sum of seconds is not asked for
    assert any(message in problem for problem in check_line(whole))


def test_testing_goes_on_after_a_rejection(whole: dict[str, Any]) -> None:
    whole["rounds"] = [[6, 4, 1, 2, 0.0, 0.0]]
    assert any("goes on after a rejection" in problem for problem in check_line(whole))


def test_second_eos_and_the_limit(whole: dict[str, Any]) -> None:
    whole["token_ids"][0] = whole["token_ids"][-1]
    assert any("appears 2 times" in problem for problem in check_line(whole))
    assert any("more than the limit of 5" in problem for problem in check_line(whole, 5))


def test_a_failed_sample_carries_no_number_of_another(fake: SimpleNamespace, whole: dict[str, Any]) -> None:
    assert check_line(fake.failed(whole)) == []
    assert check_line({**fake.failed(whole), "decode_s": 1.0}) == ["a failed sample carries decode_s"]


TOKENS = {"token_ids": [5, 6, 2], "text": "a b", "token_chars": [1, 2, 0], "stop": "eos",
          "rounds": [[3, 2, 1, 2, 0.0, 0.0]], "rejected_ids": [[8, 9]], "rejected_pieces": [[" c", " d"]]}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, None),
        ({"rejected_ids": [[]], "rejected_pieces": [[]]}, None),  # a method of one's own that does not tell them
        ({"token_chars": [1, 2]}, "token_chars has 2 tokens"),
        ({"token_chars": [1, 3, 0]}, "4 characters, not 3 and 3"),
        ({"rejected_ids": [[8, 9], []]}, "of 1 rounds"),
        ({"rejected_pieces": [[" c"]]}, "rejected_pieces [1]"),
        ({"rejected_ids": [[8, 9, 9]], "rejected_pieces": [["", "", ""]]}, "3 rejected ids of drafted 3"),
        ({"rounds": [[3, 1, 1, 2, 0.0, 0.0]]}, "2 rejected ids of drafted 3, tested 1"),
    ],
)  # fmt: skip
def test_what_is_said_of_single_tokens(whole: dict[str, Any], change: dict[str, Any], message: str | None) -> None:
    problems = check_line({**whole, **TOKENS, **change})
    assert problems == [] if message is None else any(message in problem for problem in problems)
