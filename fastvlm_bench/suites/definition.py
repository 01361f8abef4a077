"""Reads `suites/<name>.toml`: what is asked, how it is scored, and which official files each split consists of."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from fastvlm_bench.errors import UsageError, did_you_mean
from fastvlm_bench.metrics import variants_of
from fastvlm_bench.suites import readers
from fastvlm_bench.suites.catalogue import known_suite, suite_files, suite_names
from fastvlm_bench.suites.results_formats import DEFAULT, FORMATS
from fastvlm_bench.suites.table_definition import Table, parse_table

KINDS = ("caption", "vqa", "ranking")
"""What a suite asks for: captions, answers, or a ranking of given answers.

A ranking suite also has an answer generated, to time it; only the ranks are scored.
"""
SUITE_KEYS: dict[str, type] = {
    "version": str, "title": str, "kind": str, "prompts": dict, "max_new_tokens": int, "metrics": list,
    "licence": str, "citation": str, "default_split": str, "splits": dict,
}  # fmt: skip
OPTIONAL_KEYS: dict[str, type] = {"prompt": str, "about": str, "manual": str, "downloads": list, "variants": dict,
                                  "results": str, "turns": int}  # fmt: skip
FILE_KEYS = ("annotations", "questions", "image_info", "dense", "id_splits")
"""Keys of a split that name annotation files, as one text or a list of texts (all of them are read).

A text is a name ("a.json"), alternatives ("a.json | b.json": either one), or a pattern ("*/a-*": all that match). A
file marked with a question mark ("? a.json") is optional.
"""
SPLIT_KEYS = (
    "format", *FILE_KEYS, "images", "image_name", "subset", "samples", "root", "note", "licence", "citation", "table",
)  # fmt: skip
TABLE_FORMAT = "table"
"""The format of a split that only its table has (MMMU, MMStar)."""
DEFAULT_SET = "lmms"
"""The prompt set that is the default in suites that have it. In the others, the first set is the default."""
CUSTOM_SET = "custom"


@dataclass(frozen=True)
class Split:
    """One `[splits.<name>]` table.

    files: the annotation files' names by key, written as `FILE_KEYS` says. images: the image folder's name, perhaps
    with alternatives between bars. samples: their official number, None where it is not known. root: the folder beside
    the suite's file that holds an embedded split; "" for real data, whose place the user gives. note: what a reader of
    the numbers must know. licence, citation: "" where they are the suite's. table: how it is read from parquet files.
    """

    name: str
    format: str
    files: Mapping[str, tuple[str, ...]]
    images: str
    image_name: str = ""
    subset: str = ""
    samples: int | None = None
    root: str = ""
    note: str = ""
    licence: str = ""
    citation: str = ""
    table: Table | None = None


@dataclass(frozen=True)
class Download:
    """A file that its publisher offers. `to`: the folder below the data folder that gets it; a .zip is unpacked there.

    makes: the path below the data folder that exists once this is done. strip: the leading folder of the names in the
    .zip, which is left out when it is unpacked. members: a pattern of the files to unpack. splits: the splits that need
    it, () for all. sha256, md5: "" if not published.
    """

    url: str
    makes: str
    to: str = ""
    strip: str = ""
    members: str = ""
    splits: tuple[str, ...] = ()
    sha256: str = ""
    md5: str = ""


@dataclass(frozen=True)
class Definition:
    """A suite file. `splits` keeps the file's order. prompts: set -> template. manual: what must be fetched by hand.

    variants: metric -> variant, for metrics whose default the suite does not want. results: the official results
    format, a name from `results_formats.FORMATS`. folder: of the file, below which embedded splits
    lie. turns: 1 asks the first turn alone of samples that have several; 0 asks each.
    """

    name: str
    version: str
    title: str
    kind: str
    prompts: Mapping[str, str] = field(hash=False)
    max_new_tokens: int
    metrics: tuple[str, ...]
    licence: str
    citation: str
    default_split: str
    splits: Mapping[str, Split] = field(hash=False)
    about: str = ""
    manual: str = ""
    downloads: tuple[Download, ...] = ()
    variants: Mapping[str, str] = field(default_factory=dict, hash=False)
    results: str = ""
    turns: int = 0
    folder: Path = Path()

    @property
    def default_set(self) -> str:
        return DEFAULT_SET if DEFAULT_SET in self.prompts else next(iter(self.prompts))

    @property
    def prompt(self) -> str:
        """The prompt of the default set."""
        return self.prompts[self.default_set]

    def choose_prompt(self, chosen: str | None = None, text: str | None = None) -> tuple[str, str]:
        """The prompt set's name and its template. UsageError for a set that the suite does not have, or a faulty text.

        text: the user's own template; the set is then "custom".
        """
        if text is not None or chosen == CUSTOM_SET:
            if text is None:
                raise UsageError("--prompt-set custom needs the text: --prompt 'TEXT', with {question} in it")
            if chosen not in (None, CUSTOM_SET):
                raise UsageError(f"--prompt and --prompt-set {chosen} exclude each other; leave one out")
            if problem := _prompt_problem(self.kind, text):
                raise UsageError(f"--prompt {text!r} {problem} (suite '{self.name}')")
            return CUSTOM_SET, text
        name = chosen or self.default_set
        if name not in self.prompts:
            sets = (*self.prompts, CUSTOM_SET)
            raise UsageError(f"suite '{self.name}' has no prompt set '{name}': one of {', '.join(sets)}"
                             f"{did_you_mean(name, sets)}")  # fmt: skip
        return name, self.prompts[name]

    def split(self, name: str) -> Split:
        """The split of this name. UsageError, with the names of all splits, if there is none."""
        if name not in self.splits:
            raise UsageError(f"unknown split '{name}' of suite '{self.name}': one of {', '.join(self.splits)}"
                             f"{did_you_mean(name, self.splits)}")  # fmt: skip
        return self.splits[name]


def read_definition(name: str) -> Definition:
    """The suite of this name or in this file; UsageError if there is none or its file is faulty."""
    name = known_suite(name)
    path = suite_files()[name]
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: not a readable TOML file ({str(error).splitlines()[0]}); correct it") from None
    if isinstance(table.get("prompt"), str) and "prompts" not in table:
        table["prompts"] = {DEFAULT_SET: table.pop("prompt")}  # the short form, for a suite with one prompt
    _check_keys(path, "the suite", table, {**SUITE_KEYS, **OPTIONAL_KEYS})
    for key, kind in {**SUITE_KEYS, **{k: v for k, v in OPTIONAL_KEYS.items() if k in table}}.items():
        if key not in table or not isinstance(table[key], kind) or isinstance(table[key], bool):
            raise UsageError(f"{path}: '{key}' must be given as {kind.__name__}; see the other suite files")
    _check(path, "prompt" not in table, "give 'prompt' or a table 'prompts', not both")
    _check(path, table["kind"] in KINDS, f"kind '{table['kind']}' must be one of {', '.join(KINDS)}")
    _check(path, table["max_new_tokens"] >= 1, "max_new_tokens must be at least 1")
    metrics = table["metrics"]
    _check(path, all(isinstance(name, str) for name in metrics), "metrics must list names; [] is not scored")
    for metric, variant in table.get("variants", {}).items():
        known = variants_of(metric) if metric in metrics else ()
        hint = f"one of {', '.join(known)}" if known else f"'{metric}' is no metric here that has variants"
        _check(path, variant in known, f"variants.{metric} '{variant}': {hint}")
    table.setdefault("results", DEFAULT[table["kind"]])
    _check(path, table["results"] in FORMATS, f"results '{table['results']}' must be one of {', '.join(FORMATS)}")
    _check(path, table.get("turns", 1) == 1, "turns must be 1, the first turn alone, or left out")
    prompts = table["prompts"]
    _check(path, bool(prompts), "prompts must name at least one prompt set")
    for key, text in prompts.items():
        _check(path, isinstance(text, str) and key != CUSTOM_SET, f"prompts.{key} must be a text, not named 'custom'")
        problem = _prompt_problem(table["kind"], text)
        _check(path, not problem, f"prompt {key} {problem}")
    _fill_in(path, table["splits"])
    splits = {key: _split(path, key, value) for key, value in table["splits"].items()}
    _check(path, table["default_split"] in splits, f"default_split must be one of {', '.join(splits)}")
    downloads = tuple(_download(path, index, item, splits) for index, item in enumerate(table.pop("downloads", [])))
    return Definition(**{**table, "name": name, "metrics": tuple(metrics), "splits": splits, "downloads": downloads,
                         "folder": path.parent})  # fmt: skip


def _prompt_problem(kind: str, text: str) -> str:
    """What is wrong with a prompt template, or ""."""
    found = [name for name in readers.PLACEHOLDERS if f"{{{name}}}" in text]
    if not text.strip():
        return "is empty"
    if kind != "caption" and not {"question", "Question"} & set(found):
        return "must contain {question}"
    if kind == "caption" and found:
        return f"contains {{{found[0]}}}, but there is no question to put there"
    return "contains '<image>'; leave it out, the model's own template places the image" if "<image>" in text else ""


def describe_suites() -> list[Definition]:
    """The definitions of all suites, sorted by name. UsageError if one of the files is faulty."""
    return [read_definition(name) for name in suite_names()]


def _fill_in(path: Path, splits: Mapping[str, Any]) -> None:
    """Put into a split's `table` what it has `like` another split's."""
    for name, split in splits.items():
        own = split.get("table") if isinstance(split, dict) else None
        if isinstance(own, dict) and (like := own.pop("like", None)) is not None:
            other = splits.get(like) if isinstance(like, str) else None
            first = other.get("table") if isinstance(other, dict) else None
            _check(path, isinstance(first, dict), f"splits.{name}.table is like '{like}', a split without a table")
            split["table"] = {**(first or {}), **own}


def _split(path: Path, name: str, table: Any) -> Split:
    where = f"splits.{name}"
    _check(path, isinstance(table, dict), f"{where} must be a table")
    _check_keys(path, where, table, SPLIT_KEYS)
    made = parse_table(table["table"]) if "table" in table else None
    _check(path, not isinstance(made, str), f"{where}.table {made}")
    texts = {key: value for key, value in table.items() if key not in (*FILE_KEYS, "samples", "table")}
    _check(path, all(isinstance(value, str) for value in texts.values()), f"{where}: every value must be a string")
    files = {key: table[key] for key in FILE_KEYS if key in table}
    for key, value in files.items():
        files[key] = names = (value,) if isinstance(value, str) else value
        good = isinstance(names, tuple | list) and all(isinstance(name, str) and name.strip() for name in names)
        _check(path, good and bool(names), f"{where}.{key} must be a file name or a list of them")
    samples = table.get("samples")
    _check(path, samples is None or (type(samples) is int and samples > 0), f"{where}.samples must be a whole number")
    form, formats = table.get("format", ""), [*readers.names(), TABLE_FORMAT]
    _check(path, form in formats, f"{where}.format '{form}' must be one of {', '.join(formats)}")
    for key in ("table",) if form == TABLE_FORMAT else (*readers.load(form).NEEDS, "images"):
        _check(path, bool(table.get(key)), f"{where} needs '{key}' for format {form}")
    if "image_name" in table:
        try:
            table["image_name"].format(image_id=1)
        except (KeyError, IndexError, ValueError, AttributeError) as error:
            raise UsageError(f"{path}: {where}.image_name must format image_id only ({error!r}); "
                             "for instance {image_id:012d}.jpg") from None  # fmt: skip
    texts.setdefault("images", "")
    own = {key: tuple(value) for key, value in files.items()}
    return Split(name=name, files=own, samples=samples, table=made, **texts)  # type: ignore[arg-type]


def _download(path: Path, index: int, table: Any, splits: Mapping[str, Split]) -> Download:
    where = f"downloads[{index}]"
    _check(path, isinstance(table, dict), f"{where} must be a table")
    _check_keys(path, where, table, tuple(item.name for item in fields(Download)))
    for key in ("url", "makes"):
        _check(path, isinstance(table.get(key), str) and bool(table[key]), f"{where} needs '{key}'")
    needed = table.get("splits", [])
    _check(path, isinstance(needed, list) and all(n in splits for n in needed), f"{where}.splits must name splits")
    rest = {key: value for key, value in table.items() if key != "splits"}
    _check(path, all(isinstance(value, str) for value in rest.values()), f"{where}: every value must be a string")
    return Download(**rest, splits=tuple(needed))


def _check_keys(path: Path, where: str, table: Mapping[str, Any], known: Mapping[str, type] | tuple[str, ...]) -> None:
    for key in table:
        hint = f"one of {', '.join(known)}{did_you_mean(key, known)}"
        _check(path, key in known, f"{where} has an unknown key '{key}': {hint}")


def _check(path: Path, holds: bool, problem: str) -> None:
    if not holds:
        raise UsageError(f"{path}: {problem}")
