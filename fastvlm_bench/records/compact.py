"""Keeps a million lines in memory: equal texts and lists once, and the names of the keys once for all lines.

A line as `json` gives it takes about 2.7 kB, most of it for keys, and for what other lines of the sample have, too.
What is read is never changed, so that lines may share it.
"""

import contextlib
import gc
from collections.abc import Iterator
from typing import Any

SHARED = ("token_ids", "token_chars", "text", "losslessness", "flags", "scores", "ranks")
"""Fields that the methods of a sample mostly have alike."""
REPEATED = ("suite", "sample_id", "method", "stop")
"""Texts of which there are few, or one a sample."""


MOST_KINDS, MOST_KEYS = 64, 30
"""A record has few kinds of entries; Python keeps the keys of an object apart from its values up to so many."""
MANY = 500_000
"""So many lists and dictionaries of one record that it would cost seconds to look through them again and again."""
_KINDS: dict[tuple[str, ...], type] = {}


def compacted(entry: dict[str, Any]) -> dict[str, Any]:
    """An equal dictionary, which has its keys in common with the others that have the same keys in the same order.

    It is the dictionary of an object: of the objects of one class Python stores the names of the attributes once.
    """
    names = tuple(entry)
    kind = _KINDS.get(names)
    if kind is None:
        if len(_KINDS) >= MOST_KINDS or len(names) > MOST_KEYS:
            return entry
        kind = _KINDS[names] = type("Keys", (), {})
    keys = kind()
    for name, value in entry.items():
        setattr(keys, name, value)
    return vars(keys)


class Compactor:
    """Makes lines small, one after the other."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}
        self._before: dict[str, Any] = {}

    def line(self, line: dict[str, Any]) -> dict[str, Any]:
        """An equal line that shares with those before it what is alike."""
        for name in REPEATED:
            if type(text := line.get(name)) is str:
                line[name] = self._texts.setdefault(text, text)
        for name in SHARED:
            if (value := line.get(name)) is not None:
                before = self._before.get(name)
                if before == value and type(before) is type(value):
                    line[name] = before
                else:
                    self._before[name] = value
        if type(rounds := line.get("rounds")) is list:
            line["rounds"] = [list(each) if type(each) is list else each for each in rounds]  # without room to grow
        if type(memory := line.get("memory")) is dict and type(how := memory.get("rss_method")) is str:
            memory["rss_method"] = self._texts.setdefault(how, how)
            line["memory"] = compacted(memory)
        return compacted(line)

    def sample(self, sample: dict[str, Any]) -> dict[str, Any]:
        """An equal entry of a suite's `samples`, whose references are mostly those of others."""
        if type(references := sample.get("references")) is list:
            sample["references"] = [
                self._texts.setdefault(text, text) if type(text) is str else text for text in references
            ]
        return compacted(sample)


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Within it, nothing is looked for that could be freed: so many objects are made that each look costs seconds."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
        if gc.get_count()[0] > MANY:
            gc.freeze()  # what was read stays, and is not looked through again while it is analysed
    finally:
        if was_enabled:
            gc.enable()
