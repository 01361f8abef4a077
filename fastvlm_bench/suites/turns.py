"""Samples of several turns and images: which turn asks what, about which image, and each turn as its own entry."""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from fastvlm_bench.errors import UsageError
from fastvlm_bench.suites.annotations import Document, Entry

MARK = re.compile(r"<image (\d+)>")
"""How MMMU and MMSpec refer to a sample's images within its text."""


def turns_of(document: Document, row: Any, place: str) -> tuple[str, ...]:
    """The questions at `turns`, at least one, none of them blank."""
    turns = document.get(row, "turns", list, place)
    if not turns:
        raise document.fault(f"{place}.turns", "is an empty list")
    for index, text in enumerate(turns):
        if not isinstance(text, str) or not text.strip():
            raise document.fault(f"{place}.turns[{index}]", "has no text")
    return tuple(turns)


def check_marks(document: Document, turns: tuple[str, ...], images: int, place: str) -> None:
    """The document's fault if a turn refers to an image that the sample does not have."""
    for index, text in enumerate(turns):
        for number in MARK.findall(text):
            if not 1 <= int(number) <= images:
                has = "1 image" if images == 1 else f"{images} images"
                raise document.fault(f"{place}.turns[{index}]", f"refers to <image {number}>, but the sample has {has}")


def turn_id(sample_id: str, turn: int) -> str:
    """The id of a turn: the sample's own for the first, "ID#2" for the second."""
    return sample_id if turn == 1 else f"{sample_id}#{turn}"


def by_turn(entries: Sequence[Entry], first_alone: bool = False) -> list[Entry]:
    """The entries, with one for each turn of a sample of several, in order.

    first_alone: of each sample only the first turn, as if it had no other. UsageError where a turn's id is that of
    another sample.
    """
    found: list[Entry] = []
    for entry in entries:
        if len(entry.turns) < 2 or first_alone:
            given = entry.turn_references[0] if entry.turn_references else entry.references
            found.append(replace(entry, references=given))
            continue
        for index, question in enumerate(entry.turns):
            given = entry.turn_references[index] if entry.turn_references else entry.references
            found.append(replace(entry, sample_id=turn_id(entry.sample_id, index + 1), dialog=entry.sample_id,
                                 turn=index + 1, question=question, references=given,
                                 where=f"{entry.place}, turn {index + 1}, reference [{{}}]"))  # fmt: skip
    known: dict[str, Entry] = {}
    for entry in found:
        other = known.setdefault(entry.sample_id, entry)
        if other is not entry:
            turn, alone = (other, entry) if other.turn > 1 else (entry, other)
            raise UsageError(f"{alone.place} (id {alone.sample_id}) has the id of turn {turn.turn} of {turn.place}; "
                             "give the sample another id")  # fmt: skip
    return found


def by_shared_images(entries: Sequence[Entry]) -> list[Entry]:
    """The entries, with one image_id for all that share an image directly or through others.

    Intervals are clustered by it, and samples that share one of several images are not independent.
    """
    if not any(entry.images for entry in entries):
        return list(entries)
    leader: dict[str, str] = {}

    def lead(name: str) -> str:
        while leader.setdefault(name, name) != name:
            leader[name] = name = leader[leader[name]]
        return name

    for entry in entries:
        for name in entry.image_names[1:]:
            leader[lead(name)] = lead(entry.image_names[0])
    ids: dict[str, str] = {}
    return [replace(entry, image_id=ids.setdefault(lead(entry.image_name), entry.image_id)) for entry in entries]
