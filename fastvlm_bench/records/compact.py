"""Keeps a million lines in memory: equal texts and lists once, and the names of the keys once for all lines.

A line as `json` gives it takes about 2.7 kB, most of it for keys, and for what other lines of the sample have, too.
What is read is never changed, so that lines may share it.
"""

import contextlib
import gc
from collections.abc import Iterator
from dataclasses import make_dataclass
from typing import Any

SHARED = ("token_ids", "token_chars", "text", "losslessness", "flags", "scores", "ranks", "memory")
"""Fields that the methods of a sample mostly have alike."""
REPEATED = ("suite", "sample_id", "method", "stop")
"""Texts of which there are few, or one a sample."""


MOST_KINDS, MOST_KEYS = 64, 30
"""A record has few kinds of entries; Python keeps the keys of an object apart from its values up to so many."""
MANY = 500_000
"""So many lists and dictionaries of one record that it would cost seconds to look through them again and again."""
_KINDS: dict[tuple[str, ...], type | None] = {}


def compacted(entry: dict[str, Any]) -> dict[str, Any]:
    """An equal dictionary, which has its keys in common with the others that have the same keys in the same order.

    It is the dictionary of an object: of the objects of one class Python stores the names of the attributes once.
    """
    names = tuple(entry)
    try:
        kind = _KINDS[names]
    except KeyError:
        if len(_KINDS) >= MOST_KINDS:
            return entry
        kind = _KINDS[names] = _kind(names)
    return entry if kind is None else vars(kind(*entry.values()))


def _kind(names: tuple[str, ...]) -> type | None:
    """A class of objects with these attributes in this order, which it takes by place; None where it cannot be."""
    if not names or len(names) > MOST_KEYS or any(name.startswith("__") for name in names):
        return None  # names of Python's own would change the object itself
    try:
        return make_dataclass("Keys", names, repr=False, eq=False)
    except TypeError:  # a key that is no name, or a word of the language
        return None


class Compactor:
    """Makes lines small, one after the other."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}
        self._before: dict[str, Any] = {}

    def line(self, line: dict[str, Any]) -> dict[str, Any]:
        """The line, which shares with those before it what is alike, without its seal: that was checked."""
        line.pop("crc32", None)
        for name in REPEATED:
            if type(text := line.get(name)) is str:
                line[name] = self._texts.setdefault(text, text)
        for name in SHARED:
            if (value := line.get(name)) is not None:
                before = self._before.get(name)
                if before == value and type(before) is type(value):
                    line[name] = before
                else:
                    self._before[name] = line[name] = self._small(value) if name == "memory" else value
        if type(rounds := line.get("rounds")) is list:
            line["rounds"] = [list(each) if type(each) is list else each for each in rounds]  # without room to grow
        return compacted(line)

    def _small(self, memory: Any) -> Any:
        if type(memory) is not dict:
            return memory
        if type(how := memory.get("rss_method")) is str:
            memory["rss_method"] = self._texts.setdefault(how, how)
        return compacted(memory)

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
