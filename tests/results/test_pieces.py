"""The text of single tokens adds up to the answer, whatever a tokenizer does with characters, spaces and specials."""

import random
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from fastvlm_bench.measuring.pieces import BROKEN, rejected_pieces, token_chars
from fastvlm_bench.records.trace import Round

TEXT = "A naïve café, 日本語 and 👩‍🚀!  Two spaces.\nΓειά"


def bytes_of(text: str) -> list[int]:
    return list(text.encode("utf-8"))


def byte_level(ids: list[int]) -> str:
    """One token for each byte, as a byte-level BPE without merges; outer spaces stripped as by `Target.decode`."""
    return bytes(token for token in ids if token < 256).decode("utf-8", errors="replace").strip()


def pieces(decode: Any, ids: list[int]) -> list[str]:
    text, place, found = decode(ids), 0, []
    for count in token_chars(decode, ids, text):
        found.append(text[place : place + count])
        place += count
    assert place == len(text) and len(found) == len(ids)
    return found


def test_a_character_belongs_to_the_token_that_completes_it() -> None:
    found = pieces(byte_level, [*bytes_of(TEXT), 300])
    assert BROKEN not in "".join(found) and "".join(found) == TEXT
    assert found[:6] == ["A", "", " n", "a", "", "ï"]  # a space goes with what follows; ï has two bytes
    assert found[-1] == ""  # a special token


def test_text_that_ends_within_a_character() -> None:
    assert pieces(byte_level, bytes_of("a日")[:-1]) == ["a", "", BROKEN]


@pytest.mark.parametrize("seed", range(20))
def test_any_bytes_add_up(seed: int) -> None:
    """Also those that are no text at all: the answer of a model with random weights."""
    source = random.Random(seed)
    ids = [source.choice([source.randrange(300), 32, 10, *bytes_of("é日")]) for _ in range(60)]
    pieces(byte_level, ids)


def words(ids: list[int]) -> str:
    """Joins words by spaces, and takes back the one before a full stop: earlier text changes with what follows."""
    return " ".join(["red", "a", "n't", ".", "can"][token] for token in ids).replace(" .", ".").replace(" n't", "n't")


def test_a_tokenizer_that_changes_earlier_text() -> None:
    assert pieces(words, [1, 0, 3, 4, 2, 3]) == ["a", " red", ".", " can", "n't", "."]


def test_a_tokenizer_that_turns_text_around() -> None:
    assert "".join(pieces(lambda ids: "".join(chr(97 + i) for i in reversed(ids)), [0, 1, 2])) == "cba"


def test_byte_fallback() -> None:
    """As Llama's: unknown characters are bytes, of which an incomplete row is decoded to U+FFFD."""
    vocabulary = {"<unk>": 0, "▁a": 1, "▁b": 2} | {f"<0x{byte:02X}>": 3 + byte for byte in range(256)}
    inner = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    inner.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>")

    def decode(ids: list[int]) -> str:
        return str(tokenizer.decode(ids, skip_special_tokens=True)).strip()

    ids = [1, *(3 + byte for byte in bytes_of("日")), 2]
    assert pieces(decode, ids) == ["a", "", "", "日", " b"]


def test_the_cost_does_not_grow_with_the_square() -> None:
    seen = []

    def decode(ids: list[int]) -> str:
        seen.append(len(ids))
        return byte_level(ids)

    token_chars(decode, bytes_of("a" * 2000), "a" * 2000)
    assert sum(seen) < 10 * 2000


def test_rejected_drafts_follow_the_text() -> None:
    ids = bytes_of("a é b")
    rounds = [Round(3, 2, 1, 2, 0.0, 0.0, [*bytes_of("x"), 300]),  # after "a ": the target says é's first byte
              Round(2, 2, 2, 3, 0.0, 0.0, ()),
              Round(4, 1, 0, 1, 0.0, 0.0, bytes_of("日")[:2])]  # fmt: skip
    assert rejected_pieces(byte_level, ids, rounds) == [[" x", ""], [], ["", BROKEN]]


def test_a_draft_that_completes_a_character_otherwise() -> None:
    half = [Round(0, 0, 0, 1, 0.0, 0.0), Round(1, 1, 0, 1, 0.0, 0.0, bytes_of("è")[1:])]
    assert rejected_pieces(byte_level, bytes_of("aé"), half) == [[], ["è"]]
