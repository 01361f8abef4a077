"""Results files that other tools have written, read into one form: one file per tool, told apart by content.

May import the rooms below `method_spec`, and never brings torch.

answers.py     answers of Spec-Bench, MMSpec and EAGLE
vllm_serve.py  vLLM's `bench serve`
lmms_eval.py   lmms-eval's samples

A reader is a module with `TOOL`, its name for people; `LAYOUT`, for messages; `knows(row)`, whether a file's first
object is of that tool; and `read(document, rows)`, which gives `Contents`.
"""

import importlib
import json
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, cast

from fastvlm_bench.errors import UsageError
from fastvlm_bench.suites.annotations import Document, read_bytes

Rows = Sequence[tuple[str, Any]]
"""(place, object) of every line, for messages."""
LARGEST = 1e15
"""No sample takes as many seconds or tokens; up to it sums of floats hold whole numbers exactly."""


@dataclass(frozen=True)
class Answer:
    """What a method returned for one sample, turn by turn.

    seconds, tokens, rounds: a number each turn; () where the tool did not record it. rounds are passes of the target.
    told: the acceptance length that the tool wrote, a turn. group: the topic, or "". prompt: what tells the prompt from
    others, by kind (a hash, a length, a topic); kinds that two answers share must agree. failed: why there is no
    answer, or "".
    """

    sample_id: str
    texts: tuple[str, ...]
    seconds: tuple[float, ...] = ()
    tokens: tuple[int, ...] = ()
    rounds: tuple[int, ...] = ()
    told: tuple[float, ...] = ()
    group: str = ""
    prompt: Mapping[str, str] = field(default_factory=dict, hash=False)
    failed: str = ""
    recorded_at: float | None = None


@dataclass(frozen=True)
class Contents:
    """What a reader found. alpha, draft_acceptance_rate, tau: as the tool tells them for the whole file, else None.

    concurrency: requests in flight, None where the tool has no such thing or sets no bound. placed: ids are places in
    a list, which mean nothing to another tool. notes: what a reader of the numbers must know.
    """

    answers: tuple[Answer, ...]
    model: str = ""
    alpha: float | None = None
    draft_acceptance_rate: float | None = None
    tau: float | None = None
    concurrency: int | None = None
    placed: bool = False
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ResultsFile:
    """One file. torn: it ends within a line, which was left out. repeated: ids that occurred again; the last counts."""

    path: Path
    tool: str
    contents: Contents
    torn: bool = False
    repeated: int = 0

    @cached_property
    def answers(self) -> dict[str, Answer]:
        return {answer.sample_id: answer for answer in self.contents.answers}


class Reader(Protocol):
    """What a module of this room offers."""

    TOOL: str
    LAYOUT: str

    def knows(self, row: Any) -> bool: ...
    def read(self, document: Document, rows: Rows) -> Contents: ...


def readers() -> list[Reader]:
    """The readers of all tools."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    return [cast(Reader, importlib.import_module(f"{__name__}.{name}")) for name in names]


def read_results(path: Path) -> ResultsFile:
    """A results file of any known tool. UsageError in one line for an unknown tool (it lists the known) and for faults.

    A line that was torn off at the end, as a full disk or a kill leaves it, is left out; any other is a fault.
    """
    if not Path(path).is_file():
        state = "is a folder" if Path(path).is_dir() else "does not exist"
        raise UsageError(f"results file {path} {state}; give the path of a file")
    raw = read_bytes(path, "give a results file")
    rows, torn = _rows(path, raw)
    reader = next((reader for reader in readers() if reader.knows(rows[0][1])), None)
    if reader is None:
        first = rows[0][1]
        if not first and isinstance(first, dict | list):
            kind = "object" if isinstance(first, dict) else "list"
            raise UsageError(f"{path}: an empty {kind}, so it holds no results; known are {_tools()}")
        keys = f"it begins with {', '.join(list(map(str, first))[:8])}" if isinstance(first, dict) else "no object"
        raise UsageError(f"{path}: results of an unknown tool ({keys}); known are {_tools()}")
    contents = reader.read(Document(path, None, reader.LAYOUT), rows)
    last = {answer.sample_id: answer for answer in contents.answers}
    repeated = len(contents.answers) - len(last)
    return ResultsFile(path, reader.TOOL, replace(contents, answers=tuple(last.values())), torn, repeated)


def _rows(path: Path, raw: bytes) -> tuple[list[tuple[str, Any]], bool]:
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if error.end < len(raw):
            raise UsageError(f"{path}: not UTF-8 text, so no results file; known are {_tools()}") from None
        text = raw[: error.start].decode("utf-8-sig")  # torn within a character
    if text.lstrip().startswith(("{", "[")):
        try:
            whole = json.loads(text)
            if isinstance(whole, list) and whole:
                return [(f"[{index}]", row) for index, row in enumerate(whole)], False
            return [("the file", whole)], False
        except (ValueError, RecursionError):
            pass
    lines = [(f"line {n}", line) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
    rows: list[tuple[str, Any]] = []
    for index, (place, line) in enumerate(lines):
        try:
            rows.append((place, json.loads(line)))
        except (ValueError, RecursionError):
            if index == len(lines) - 1 and rows:
                return rows, True
            raise UsageError(f"{path}: {place} is not JSON (it starts with {line[:20]!r}); known are the results of "
                             f"{_tools()}") from None  # fmt: skip
    if not rows:
        raise UsageError(f"{path}: an empty file; known are the results of {_tools()}")
    return rows, False


def _tools() -> str:
    return ", ".join(reader.TOOL for reader in readers())


def number(document: Document, value: Any, place: str, whole: bool = False, most: float = LARGEST) -> float:
    """A number as tools count and time: finite, from 0 to `most`, and without a fraction if `whole`. Else a fault."""
    if problem := _no_number(value, whole):
        raise document.fault(place, problem)
    if value > most:
        raise document.fault(place, f"is {json.dumps(value)[:30]}, not a number from 0 to {most:g}")
    return float(value)


def numbers(document: Document, row: Any, key: str, turns: int, place: str, whole: bool = False) -> tuple[float, ...]:
    """The numbers at `key`, one for each turn; () where the key is absent or null. Faults raise the document's."""
    if row.get(key) is None:
        return ()
    given = document.get(row, key, list, place)
    odd = next((f", but [{i}] {problem}" for i, v in enumerate(given) if (problem := _no_number(v, whole))), "")
    if len(given) != turns or odd:
        raise document.fault(f"{place}.{key}", f"must be {turns} number{'s' * (turns > 1)}, one for each turn{odd}")
    return tuple(map(float, given))


def is_number(value: Any) -> bool:
    """Whether `number` takes it."""
    return not _no_number(value, False)


def _no_number(value: Any, whole: bool) -> str:
    """What keeps a value from being a number of its kind, or ""."""
    right = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= LARGEST  # no NaN is
    if right and not (whole and value != int(value)):
        return ""
    return f"is {json.dumps(value)[:30]}, not a {'whole ' if whole else ''}number of at least 0"
