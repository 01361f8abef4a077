"""Which files hold the rows of a table: told by the repository's card, by `save_to_disk`'s own files, or by names."""

import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import PurePosixPath
from typing import Any

from fastvlm_bench.errors import UsageError
from fastvlm_bench.suites.hub_data import Files

NUMBERED = re.compile(r"(.*-)(\d{5})-of-(\d{5})(\..*)")
ALIKE = {"val": ("val", "validation"), "validation": ("validation", "val")}
"""Names of the same split, in order of preference."""


def table_files(files: Files, rows: str) -> list[str]:
    """The names of the files with these rows (as `Table.rows` writes them), in order; [] if they are not there.

    A name of a numbered series that is absent is in the list nevertheless: `path` is None for it.
    """
    names = [name for name in files.names() if name.endswith((".parquet", ".arrow"))]
    if not names:
        return []
    configs = list(_configs(files)) if any(name.endswith(".parquet") for name in names) else []
    for alternative in rows.split("|"):
        parts = [part.strip().rpartition("/") for part in alternative.split("+")]
        found = [_part(names, configs, config, split) for config, _, split in parts]
        if all(found):
            return [name for part in found for name in part]
    return []


def require(files: Files, name: str) -> Any:
    """The path of a file that `table_files` names. UsageError if it is absent."""
    if (path := files.path(name)) is None:
        raise UsageError(
            f"{files.label}: {name} is missing; fetch it, too, or use --limit to stay with the first samples"
        )
    return path


def _part(names: Sequence[str], configs: Sequence[tuple[str, str, str]], config: str, split: str) -> list[str]:
    for alias in ALIKE.get(split, (split,)):
        patterns = [pattern for name, own, pattern in configs if own == alias and config in ("*", name)]
        found = [name for name in names if any(fnmatch(name, pattern) for pattern in patterns)]
        if found := found or _by_name(names, config, alias):
            return list(_whole(found))
    single = all("/" not in name for name in names)  # one table, as `Dataset.save_to_disk` or a small repository has it
    return list(_whole(names)) if single and not any(_split_of(name) for name in names) else []


def _by_name(names: Sequence[str], config: str, split: str) -> list[str]:
    """Files that are named after the split: SPLIT-00000-of-00001.parquet, SPLIT.parquet, SPLIT/….parquet.

    Those in a folder named after the config are preferred; other folders count where the config is "default" or "*", or
    where no folder has its name (people fetch single folders).
    """
    own = [name for name in names if _split_of(name) == split or split in PurePosixPath(name).parts[:-1]]
    if config == "*":
        return own
    inside = [name for name in own if config in PurePosixPath(name).parts[:-1]]
    plain = [name for name in own if not set(PurePosixPath(name).parts[:-1]) - {"data", split}]
    return inside or plain


def _split_of(name: str) -> str:
    """The split that a file's own name tells, or ""."""
    stem = PurePosixPath(name).name.split(".")[0]
    match = re.fullmatch(r"(.+?)-\d{5}-of-\d{5}(-[0-9a-f]+)?", stem)
    word = match[1] if match else stem
    return word if word in ("train", "test", "testdev", "dev", *ALIKE) or match and word != "data" else ""


def _whole(found: Sequence[str]) -> Iterator[str]:
    """The names in order, with those of numbered series that are absent."""
    done: set[tuple[str, str]] = set()
    for name in sorted(found):
        match = NUMBERED.fullmatch(name)
        if match is None:
            yield name
        elif (series := (match[1], match[3])) not in done:
            done.add(series)
            yield from (f"{match[1]}{number:05d}-of-{match[3]}{match[4]}" for number in range(int(match[3])))


def _configs(files: Files) -> Iterator[tuple[str, str, str]]:
    """(config, split, pattern of its files) as the repository's card, README.md, declares them."""
    import yaml

    path = files.path("README.md")
    text = path.read_text(encoding="utf-8", errors="replace") if path is not None else ""
    match = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
    try:  # as texts alone: the safe loader raises ValueError for a date that is none, and a split may be called 2014
        card = yaml.load(match[1], yaml.BaseLoader) if match else {}
    except (yaml.YAMLError, RecursionError):
        return
    for entry in _listed(card.get("configs") if isinstance(card, dict) else None):
        if not isinstance(entry, dict):
            continue
        data = entry.get("data_files")
        # a text, or a list of texts, is the hub's short form for the split "train"
        for item in [data] if isinstance(data, str) else _listed(data):
            split, paths = (item.get("split", "train"), item.get("path")) if isinstance(item, dict) else ("train", item)
            for pattern in [paths] if isinstance(paths, str) else _listed(paths):
                if isinstance(pattern, str):
                    yield str(entry.get("config_name", "default")), str(split), pattern


def _listed(given: Any) -> list[Any]:
    """The list that a card has at this place; [] for anything else."""
    return given if isinstance(given, list) else []
