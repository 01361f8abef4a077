"""Whether two tokenizers give the same ids to the same text, so that one model can read what another has said."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROBES = (
    "Two red balloons float above the lake, don't they?",
    "  indented\n\n3.14159 = π; naïve 日本 🙂",
    "USER: a.b_c\tASSISTANT:",
)
"""Texts that both must encode alike: tokenizers of one vocabulary may still join or split it in other ways."""


@dataclass(frozen=True)
class Entries:
    """The tokens of a tokenizer with their ids. added: special ones, and others that were added to the vocabulary."""

    plain: Mapping[str, int]
    added: Mapping[str, int]

    @property
    def all(self) -> dict[str, int]:
        return {**self.plain, **self.added}


def entries(tokenizer: Any) -> Entries:
    """The entries of a loaded tokenizer."""
    added = {token.content: index for index, token in tokenizer.added_tokens_decoder.items()}
    return Entries({word: index for word, index in tokenizer.get_vocab().items() if word not in added}, added)


def entries_of(folder: Path) -> Entries | None:
    """The entries in a folder's tokenizer.json; None where there is none, or it is not understood."""
    try:
        stored = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        words = stored["model"]["vocab"]
        if isinstance(words, list):  # Unigram: [word, score], in the order of the ids
            words = {word: index for index, (word, _) in enumerate(words)}
        added = {token["content"]: token["id"] for token in stored["added_tokens"]}
        return Entries({word: index for word, index in words.items() if word not in added}, added)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def differing_entries(own: Entries, other: Entries, unsaid: Collection[int] | None = None) -> str | None:
    """What differs between the target's entries and the draft model's, in words; None if nothing does that matters.

    Plain tokens must have the same ids. So must added ones that both have, and no id may belong to two of them; but not
    those of `unsaid`, which no answer has, such as image placeholders and padding. None: added tokens do not count.
    """
    here, there = own.all, other.all
    wrong = [word for word in {**own.plain, **other.plain} if here.get(word) != there.get(word)]
    if not wrong and unsaid is not None:
        ids = {index: word for word, index in other.added.items() if index not in unsaid}
        said = {word: index for word, index in own.added.items() if index not in unsaid}
        wrong = [
            word for word, index in said.items()
            if ids.get(index, word) != word or (there.get(word, index) not in (index, *unsaid))
        ]  # fmt: skip
    if not wrong:
        return None
    first = min(wrong, key=lambda word: here.get(word, there.get(word, 0)))
    return (
        f"{len(wrong)} of {len(here)} and {len(there)} tokens differ (the first, {first!r}, has the id "
        f"{here.get(first, 'none')} in the target's and {there.get(first, 'none')} in its own)"
    )


def differing_encodings(own: Any, other: Any) -> str | None:
    """The first probe that two loaded tokenizers encode in different ways, in words; None if there is none."""
    for text in PROBES:
        pair = [tokenizer.encode(text, add_special_tokens=False) for tokenizer in (own, other)]
        if pair[0] != pair[1]:
            return f"the same tokens, and {text!r} is split in other ways"
    return None


def differing_tokenizers(own: Any, other: Any, unsaid: Collection[int]) -> str | None:
    """What differs between two loaded tokenizers, in entries or in how they encode; None if nothing that matters."""
    return differing_entries(entries(own), entries(other), unsaid) or differing_encodings(own, other)
