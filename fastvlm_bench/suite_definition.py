"""Reads `suites/<name>.toml`: what is asked, how it is scored, and which official files each split consists of."""

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastvlm_bench.errors import UsageError, did_you_mean

SUITES_VARIABLE = "FASTVLM_BENCH_SUITES"
KINDS = ("caption", "vqa")
FORMATS = {
    "coco-captions": ("annotations",),
    "coco-karpathy": ("annotations", "subset"),
    "vqav2": ("questions", "annotations", "image_name"),
}
"""Format -> the keys that a split in it must have, besides `format` and `images`."""
SUITE_KEYS: dict[str, type] = {
    "version": str, "title": str, "kind": str, "prompt": str, "max_new_tokens": int, "metrics": list, "licence": str,
    "citation": str, "default_split": str, "splits": dict,
}  # fmt: skip
SPLIT_KEYS = (
    "format", "annotations", "questions", "images", "image_name", "subset", "root", "note", "licence", "citation",
)  # fmt: skip


@dataclass(frozen=True)
class Split:
    """One `[splits.<name>]` table.

    files: the annotation files' names by key. images: the image folder's name. root: the folder under the suites
    folder that holds an embedded split, "" for real data, which lies where the user says. note: what a reader of the
    numbers must know. licence, citation: "" where the suite's hold.
    """

    name: str
    format: str
    files: Mapping[str, str]
    images: str
    image_name: str = ""
    subset: str = ""
    root: str = ""
    note: str = ""
    licence: str = ""
    citation: str = ""


@dataclass(frozen=True)
class Definition:
    """A suite file. `splits` keeps the file's order."""

    name: str
    version: str
    title: str
    kind: str
    prompt: str
    max_new_tokens: int
    metrics: tuple[str, ...]
    licence: str
    citation: str
    default_split: str
    splits: Mapping[str, Split] = field(hash=False)

    def split(self, name: str) -> Split:
        """The split of this name; UsageError with the names there are."""
        if name not in self.splits:
            raise UsageError(f"unknown split '{name}' of suite '{self.name}': one of {', '.join(self.splits)}"
                             f"{did_you_mean(name, self.splits)}")  # fmt: skip
        return self.splits[name]


def suites_folder() -> Path:
    """Where the suite files lie: FASTVLM_BENCH_SUITES, else the installed package's own, else the checkout's."""
    if override := os.environ.get(SUITES_VARIABLE):
        return Path(override).expanduser()
    package = Path(__file__).parent
    # An installed package is asked first: a folder named `suites` beside it belongs to someone else.
    return package / "_suites" if (package / "_suites").is_dir() else package.parent / "suites"


def suite_names() -> list[str]:
    """The names of all suites, sorted. UsageError if there are none, which only a wrong override can cause."""
    folder = suites_folder()
    names = sorted(path.stem for path in folder.glob("*.toml"))
    if not names:
        raise UsageError(f"no suite files (*.toml) in {folder}; correct {SUITES_VARIABLE} or unset it")
    return names


def read_definition(name: str) -> Definition:
    """The suite of this name; UsageError if there is none or its file is faulty."""
    names = suite_names()
    if name not in names:
        raise UsageError(f"unknown suite '{name}': one of {', '.join(names)}{did_you_mean(name, names)}")
    path = suites_folder() / f"{name}.toml"
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: not a readable TOML file ({str(error).splitlines()[0]}); correct it") from None
    _check_keys(path, "the suite", table, SUITE_KEYS)
    for key, kind in SUITE_KEYS.items():
        if key not in table or not isinstance(table[key], kind) or isinstance(table[key], bool):
            raise UsageError(f"{path}: '{key}' must be given as {kind.__name__}; see the other suite files")
    _check(path, table["kind"] in KINDS, f"kind '{table['kind']}' must be one of {', '.join(KINDS)}")
    _check(path, table["max_new_tokens"] >= 1, "max_new_tokens must be at least 1")
    metrics = table["metrics"]
    _check(path, bool(metrics) and all(isinstance(name, str) for name in metrics), "metrics must list names")
    _check(path, table["kind"] != "vqa" or "{question}" in table["prompt"], "prompt must contain {question}")
    splits = {key: _split(path, key, value) for key, value in table["splits"].items()}
    _check(path, table["default_split"] in splits, f"default_split must be one of {', '.join(splits)}")
    return Definition(**{**table, "name": name, "metrics": tuple(metrics), "splits": splits})


def describe_suites() -> list[Definition]:
    """All suites, for `list`."""
    return [read_definition(name) for name in suite_names()]


def _split(path: Path, name: str, table: Any) -> Split:
    where = f"splits.{name}"
    _check(path, isinstance(table, dict), f"{where} must be a table")
    _check_keys(path, where, table, SPLIT_KEYS)
    _check(path, all(isinstance(value, str) for value in table.values()), f"{where}: every value must be a string")
    form = table.get("format", "")
    _check(path, form in FORMATS, f"{where}.format '{form}' must be one of {', '.join(FORMATS)}")
    for key in (*FORMATS[form], "images"):
        _check(path, bool(table.get(key)), f"{where} needs '{key}' for format {form}")
    if "image_name" in table:
        try:
            table["image_name"].format(image_id=1)
        except (KeyError, IndexError, ValueError, AttributeError) as error:
            raise UsageError(f"{path}: {where}.image_name must format image_id only ({error!r}); "
                             "for instance {image_id:012d}.jpg") from None  # fmt: skip
    files = {key: table[key] for key in ("questions", "annotations") if key in table}
    rest = {key: value for key, value in table.items() if key not in files}
    return Split(name=name, files=files, **rest)


def _check_keys(path: Path, where: str, table: Mapping[str, Any], known: Mapping[str, type] | tuple[str, ...]) -> None:
    for key in table:
        hint = f"one of {', '.join(known)}{did_you_mean(key, known)}"
        _check(path, key in known, f"{where} has an unknown key '{key}': {hint}")


def _check(path: Path, holds: bool, problem: str) -> None:
    if not holds:
        raise UsageError(f"{path}: {problem}")
