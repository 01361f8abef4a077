"""Samples of several turns and images, as far as readers understand them: which turn asks what, about which image."""

import re
from typing import Any

from fastvlm_bench.suites.annotations import Document

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
