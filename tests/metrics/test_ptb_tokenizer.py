"""The tokenizer against Stanford's: reference vectors, recorded output, hostile text."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastvlm_bench.metrics import ptb_tokenizer
from fastvlm_bench.metrics.ptb_tokenizer import PUNCTUATION, tokenize, tokenize_all

HERE = Path(__file__).parent
VECTORS: dict[str, Any] = json.loads((HERE / "vectors.json").read_text(encoding="utf-8"))
OBSERVED: dict[str, Any] = json.loads((HERE / "ptb_observed.json").read_text(encoding="utf-8"))
CAPTIONS = [
    pair
    for item in VECTORS["captions"]["items"]
    for pair in [
        (item["hypothesis"], item["tokenized_hypothesis"]),
        *zip(item["references"], item["tokenized_references"], strict=True),
    ]
]


@pytest.mark.parametrize("vector", VECTORS["ptb_tokenizer"], ids=lambda vector: ascii(vector["text"]))
def test_agrees_with_the_reference_vectors(vector: dict[str, str]) -> None:
    assert tokenize(vector["text"]) == vector["tokens"]


@pytest.mark.parametrize(("text", "tokens"), CAPTIONS)
def test_agrees_on_the_reference_captions(text: str, tokens: str) -> None:
    assert tokenize(text) == tokens


def test_agrees_with_every_recorded_text() -> None:
    rows = OBSERVED["rows"]
    assert len(rows) > 1000
    assert [(text, tokenize(text)) for text, _ in rows] == [(text, tokens) for text, tokens in rows]


def test_hostile_text_agrees_but_for_a_few() -> None:
    """Of words glued at random, random signs and random characters of all scripts, a known number may differ."""
    rows = OBSERVED["hostile"]
    assert len(rows) > 1400
    assert sum(tokenize(text) != tokens for text, tokens in rows) <= 7


@pytest.mark.parametrize("mark", ["\r", "\u2028", "\u2029", "\v", "\f", "\x85", "\n"])
def test_a_line_break_is_a_space_and_never_shifts_another_caption(mark: str) -> None:
    assert tokenize_all([f"a{mark}cat", "a dog", "a cow"]) == ["a cat", "a dog", "a cow"]


@pytest.mark.parametrize("name", VECTORS["ptb_tokenizer_line_break_fault"]["observed"])
def test_the_recorded_fault_of_the_java_tokenizer_is_not_copied(name: str) -> None:
    marks = {"CR": "\r", "LINE SEPARATOR U+2028": "\u2028", "VT": "\v", "FF": "\f", "NEL U+0085": "\x85"}
    shifted = [texts[0] for texts in VECTORS["ptb_tokenizer_line_break_fault"]["observed"][name].values()]
    ours = tokenize_all([f"a{marks[name]}cat", "a dog", "a cow"])
    assert ours == ["a cat", "a dog", "a cow"]
    assert (ours == shifted) == (name == "NEL U+0085")  # only NEL is harmless in Java


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("a\x00cat", "a cat"),
        ("a \ud800 cat", "a cat"),
        ("cat\udfff", "cat"),
        ("\ud83d", ""),
        ("\x00", ""),
        ("a\ufeffcat", "a cat"),
        ("a\u200bcat", "a cat"),
        ("", ""),
        ("   ", ""),
    ],
)
def test_nul_surrogates_and_invisible_characters_separate(text: str, tokens: str) -> None:
    assert tokenize(text) == tokens


@pytest.mark.parametrize(
    ("text", "tokens"),
    [  # as Stanford's tokenizer gave them
        ("a \u201c\u201d b", "a ``'' b"), ("a \u2019\u201c b", "a '`` b"), ("a \u2018\u2019 b", "a `' b"),
        ("a `\xab b", "a ``` b"), ("a \u201a\u203a b", "a \u201a' b"), ("a \u2019\u2019 b", "a b"),
        ("a \u201cb\u201d", "a b"),
    ],
)  # fmt: skip
def test_two_typographic_quotes_are_one_token(text: str, tokens: str) -> None:
    assert tokenize(text) == tokens


@given(st.text(st.characters()))
@settings(max_examples=300, deadline=None, derandomize=True)
def test_any_text_gives_clean_tokens(text: str) -> None:
    tokens = tokenize(text)
    assert tokens == tokens.strip(" ") and "  " not in tokens
    assert not set(tokens.split(" ")) & PUNCTUATION
    assert not any(mark in tokens for mark in "\n\r\v\f\u2028")


@given(st.lists(st.text(st.sampled_from("ab .,'’-\r\u2028\x00\ud800No5"))))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_captions_do_not_influence_each_other(texts: list[str]) -> None:
    assert tokenize_all(texts) == [tokenize(text) for text in texts]
    assert tokenize_all(texts[::-1]) == tokenize_all(texts)[::-1]


@pytest.mark.parametrize(
    "unit", ["a", "1", "a.", "a,", "a-", "a/", "x@", "1 ", " ", "<a ", "http://.", "'", "_", "\ud800"]
)
def test_time_stays_linear_on_hostile_repetition(unit: str) -> None:
    started = time.process_time()
    tokenize((unit * 8000)[:8000])
    assert time.process_time() - started < 5.0  # quadratic rules took minutes


@pytest.mark.parametrize(
    "lost", ["(?i:cannot|gonna|gotta|wanna|lemme|gimme)", "('[tT])(?i:is|was)", "[!?]+|\\*+|_+|#+"]
)
def test_the_vectors_notice_a_lost_rule(lost: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rules = [rule for rule in ptb_tokenizer._RULES if rule[0].pattern != lost]
    assert len(rules) == len(ptb_tokenizer._RULES) - 1
    monkeypatch.setattr(ptb_tokenizer, "_RULES", rules)
    unchanged = all(tokenize.__wrapped__(vector["text"]) == vector["tokens"] for vector in VECTORS["ptb_tokenizer"])
    assert not unchanged
