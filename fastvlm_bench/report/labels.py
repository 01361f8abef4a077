"""Names of rows that say in what rows of the same method differ, so that no two of them look alike."""

from collections.abc import Callable, Sequence
from typing import Any

from fastvlm_bench.analysis.summary import Row

Read = Callable[[Row], Any]


def _option(name: str) -> Read:
    """The value of an option in `settings.options`; None where the method has none of that name."""

    def read(row: Row) -> Any:
        return dict(text.split("=", 1) for text in row.settings.options).get(name)

    return read


def _setting(name: str) -> Read:
    return lambda row: getattr(row.settings, name)


def _draft(row: Row) -> str | None:
    return " ".join(part for part in (row.settings.draft, row.settings.draft_id) if part) or None


NAMED: dict[str, Read] = {
    "γ": _setting("gamma"), "exit": _setting("exit_layer"), "head": _setting("head"), "stop": _setting("stop_below"),
    "draft": _draft,
}  # fmt: skip
OF_RUN: dict[str, Read] = {
    "version": _setting("suite_version"), "": _setting("dtype"), "on": _setting("device"),
    "hardware": _setting("hardware"), "attention": _setting("attention"), "threads": _setting("threads"),
    "batch": _setting("batch_size"), "engine": _setting("engine"),
    "limit": _setting("max_new_tokens"), "ignore EOS": _setting("ignore_eos"),
    "temperature": _setting("temperature"), "top-p": _setting("top_p"), "top-k": _setting("top_k"),
    "tool": _setting("tool"), "commit": lambda row: (row.settings.commit or "")[:7] or None,
}  # fmt: skip
LAST: dict[str, Read] = {"": _setting("started_at"), "run": lambda row: row.run_id}
"""What tells rows apart that are alike in all else: two runs of the same."""


def labels(rows: Sequence[Row], of_run: bool = True) -> list[str]:
    """The method of each row and, in brackets, what differs among the rows of that method: "fastvlm [γ 4, draft a]".

    Rows of other models, suites or splits stand under their own names, so they need no brackets. of_run: also say what
    differs between whole runs (dtype, device, commit, date); False where a caption says that already.
    """
    groups: dict[tuple[str, ...], list[int]] = {}
    for index, row in enumerate(rows):
        groups.setdefault((row.model, row.suite, row.settings.split, row.method), []).append(index)
    found = [row.method for row in rows]
    for indices in groups.values():
        own = [rows[i] for i in indices]
        for index, text in zip(indices, differences(own, of_run), strict=True):
            found[index] += f" [{text}]" if text else ""
    return found


def differences(rows: Sequence[Row], of_run: bool = True, of_method: bool = True) -> list[str]:
    """For each of these rows what it has otherwise than the rest, as "γ 4, bfloat16"; "" where they are alike."""
    others = sorted({text.split("=", 1)[0] for row in rows for text in row.settings.options}
                    - {"gamma", "exit_layer", "head", "stop_below", "draft"})  # fmt: skip
    fields = [*NAMED.items(), *((name, _option(name)) for name in others)] if of_method else []
    fields += list(OF_RUN.items()) if of_run else []
    told: list[list[str]] = [[] for _ in rows]
    for name, read in fields:
        _tell(told, name, [read(row) for row in rows])
    for name, read in LAST.items() if of_run else ():
        if len(set(map(tuple, told))) == len(told):
            break
        _tell(told, name, [read(row) for row in rows])
    return [", ".join(texts) for texts in told]


def _tell(told: list[list[str]], name: str, values: Sequence[Any]) -> None:
    """Add the values to what is told of each row, if they differ."""
    if len(set(values)) > 1:
        for texts, value in zip(told, values, strict=True):
            texts.append(f"{name} {_text(value)}".strip())


def _text(value: Any) -> str:
    if value is None:
        return "unknown"
    return f"{value:g}" if isinstance(value, float) else str(value)


def letters(count: int) -> list[str]:
    """Short names of so many runs, as of the columns of a spreadsheet: A, B, …, Z, AA, AB, …"""
    found = []
    for index in range(count):
        name, left = "", index + 1
        while left:
            left, place = divmod(left - 1, 26)
            name = chr(ord("A") + place) + name
        found.append(name)
    return found
