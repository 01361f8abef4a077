"""Readers of the official annotation files: one file per format, with the format's name in suite files as its name.

Every reader module has `NEEDS`, the keys that a split in its format must give, and `read(source) -> list[Entry]`: one
entry per sample, in the order of the official file. A fault is a UsageError of one line: file, place, problem, layout.
Standard library only.
"""

import importlib
import json
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

from fastvlm_bench.errors import UsageError
from fastvlm_bench.suites.annotations import Document, Entry, read_bytes, read_document

PLACEHOLDERS = ("question", "Question", "history", "instruction")
"""What a prompt may hold in braces. `{Question}` is the question as lmms-eval capitalises it for TextVQA."""
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class Source:
    """The files of one split, by key. settings: its other keys. hashed: called with the bytes of each file read."""

    files: Mapping[str, tuple[Path, ...]]
    settings: Mapping[str, str]
    hashed: Callable[[bytes], Any]

    def document(self, key: str, layout: str, keyed: bool = False) -> Document:
        """The JSON file of a key that names one file. keyed: ids are keys of objects, so none may repeat."""
        return self.documents(key, layout, keyed)[0]

    def documents(self, key: str, layout: str, keyed: bool = False) -> list[Document]:
        """The JSON files of a key, in the suite file's order; [] if the split does not have the key."""
        found = []
        for path in self.files.get(key, ()):
            document, raw = read_document(path, layout, keyed)
            self.hashed(raw)
            found.append(document)
        return found

    def raw(self, path: Path) -> bytes:
        """A file's bytes."""
        content = read_bytes(path)
        self.hashed(content)
        return content

    def lines(self, path: Path) -> list[str]:
        """The lines of a UTF-8 text file. Only a line feed, with or without a carriage return, ends a line.

        `str.splitlines` would also break at U+2028 and the like, which occur inside texts. UsageError if the file is
        not UTF-8.
        """
        try:
            text = self.raw(path).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = error.object[: error.start].count(b"\n") + 1
            raise UsageError(f"{path}: line {line} is not UTF-8; download the official file again") from None
        return [line.removesuffix("\r") for line in text.split("\n")]

    def json_lines(self, path: Path, layout: str) -> tuple[Document, list[tuple[str, Any]]]:
        """A file with one JSON value per line: (place, value) of every line that is not blank, at least one."""
        document, rows = Document(path, None, layout), []
        for number, line in enumerate(self.lines(path), 1):
            if not line.strip():
                continue
            try:
                rows.append((f"line {number}", json.loads(line)))
            except (ValueError, RecursionError) as error:
                problem = "nested too deeply" if isinstance(error, RecursionError) else str(error)
                problem = f"is not JSON ({problem}; it starts with {line[:20]!r})"
                raise document.fault(f"line {number}", problem) from None
        if not rows:
            raise document.fault("the file", "has no lines")
        return document, rows


class Reader(Protocol):
    """What a reader module offers."""

    NEEDS: tuple[str, ...]

    def read(self, source: Source) -> list[Entry]: ...


def names() -> list[str]:
    """The names of all formats."""
    return sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(__path__))


def load(name: str) -> Reader:
    """The reader of a format that `names` lists."""
    return cast(Reader, importlib.import_module(f"{__name__}.{name.replace('-', '_')}"))


def coco_id(file_name: str) -> str:
    """COCO's image id from either form of its file names: COCO_val2014_000000000042.jpg, 000000000042.jpg -> "42".

    ValueError for a name that ends in no number.
    """
    return str(int(Path(file_name).name.split("_")[-1].split(".")[0]))


def lettered(options: Sequence[str]) -> list[str]:
    """Answer options as lmms-eval and LLaVA show them and `multiple_choice` reads them: "A. first", "B. second"."""
    return [f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False)]
