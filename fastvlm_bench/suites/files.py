"""Finds the files of a suite on disk: the annotation files and images of a split, and what is missing."""

import os
import stat
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any

from fastvlm_bench.errors import UsageError
from fastvlm_bench.suites import readers
from fastvlm_bench.suites.annotations import Entry
from fastvlm_bench.suites.definition import TABLE_FORMAT, Split
from fastvlm_bench.suites.line_breaks import line_break

SHOWN = 5
FILE_FORMAT = "jsonl"
"""The one format for which the data may be given as a file."""


def data_root(given: str | Path, splits: Sequence[Split]) -> Path:
    """The folder (or `jsonl` file) that holds the data. UsageError if there is no such folder or file."""
    path = Path(given).expanduser()
    if path.is_dir() or (path.is_file() and any(split.format == FILE_FORMAT for split in splits)):
        return path
    state = "is not a folder" if path.exists() else "does not exist"
    raise UsageError(f"data folder {given} {state}; give the folder that holds the official files")


def layout(split: Split) -> str:
    """The official files that a split needs, in words, for messages."""
    if split.format == FILE_FORMAT:
        return "FILE.jsonl (name it with --data FILE.jsonl) and the images that it names, from its own folder"
    if split.format == TABLE_FORMAT:
        return table_layout(split)
    items = [item for names in split.files.values() for item in names]
    named = {item: " or ".join(f"annotations/{name}" for name in alternatives(item)) for item in items}
    needed, extra = ([named[item] for item in items if _optional(item) == wanted] for wanted in (False, True))
    where = " and " + " or ".join(f"{name}/" for name in alternatives(split.images))
    return f"{', '.join(needed)}{where}" + (f"; if it is there, {', '.join(extra)}" if extra else "")


def table_layout(split: Split) -> str:
    """The table that a split can be read from, in words, for messages."""
    assert split.table is not None
    where = f" of {split.table.repository}" if split.table.repository else ""
    return f"the parquet files {split.table.rows}{where}"


def alternatives(names: str) -> list[str]:
    """The names of a text that gives several between bars, without the mark of an optional one."""
    return [name.strip().removeprefix("?").strip() for name in names.split("|")]


def _optional(item: str) -> bool:
    return item.lstrip().startswith("?")


def candidates(root: Path, split: Split) -> dict[str, tuple[Path, ...] | None]:
    """Key -> its annotation files, in `annotations/` or directly in the folder; None if a needed one is missing."""
    if root.is_file():
        return dict.fromkeys(split.files, (root,))
    found: dict[str, tuple[Path, ...] | None] = {}
    for key, items in split.files.items():
        paths = [_candidate(root, item) for item in items]
        there = all(path or _optional(item) for path, item in zip(paths, items, strict=True))
        found[key] = tuple(path for group in paths for path in group) if there else None
    return found


def _candidate(root: Path, item: str) -> list[Path]:
    for name in alternatives(item):
        for folder in (root / "annotations", root):
            if "*" in name:
                if paths := sorted(path for path in folder.glob(name) if path.is_file()):
                    return paths
            elif (folder / name).is_file():
                return [folder / name]
    return []


def read_entries(root: Path, split: Split, hashed: Callable[[bytes], Any]) -> list[Entry]:
    """The samples of a split. UsageError for missing files and for what is wrong in them."""
    found = candidates(root, split)
    items = [item for key, paths in found.items() if paths is None for item in split.files[key]]
    missing = [" or ".join(alternatives(item)) for item in items if not _optional(item) and not _candidate(root, item)]
    if missing:
        raise UsageError(f"missing {' and '.join(missing)} in {root} and {root / 'annotations'}; split '{split.name}' "
                         f"needs {layout(split)}")  # fmt: skip
    files = {key: paths for key, paths in found.items() if paths is not None}
    return readers.load(split.format).read(readers.Source(files, settings_of(split), hashed))


def settings_of(split: Split) -> dict[str, str]:
    """The settings that a reader gets besides the files, by name."""
    return {"images": split.images, "image_name": split.image_name, "subset": split.subset}


# ------------------------------------------------------------------------------------------ images


def image_places(name: str, split: Split | None) -> list[str]:
    """The paths, below the data folder, at which an image of this name may lie, best first."""
    folders = [] if split is None or split.images in ("", ".") else alternatives(split.images)
    return [name, *(f"{start}{folder}/{name}" for folder in (*folders, "images") for start in ("", "images/"))]


def image_folders(root: Path, split: Split) -> list[Path]:
    """The folders in which the images of a split may lie, best first."""
    return [folder / name for name in alternatives(split.images) for folder in (root, root / "images")]


def cache_folder(name: str) -> Path:
    """The folder in which this package keeps what can be made again."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "fastvlm-bench" / name


def image_cache() -> Path:
    """The folder for images that are unpacked from other files. Each is named by the hash of its content."""
    return cache_folder("images")


def places_of(root: Path, split: Split, entries: Sequence[Entry]) -> list[str]:
    """Where each entry stands, as "FILE: PLACE", for messages."""
    named = candidates(root, split)
    files = ", ".join(map(str, named.get("questions") or named.get("annotations") or (split.name,)))
    return [f"{entry.file or files}: {entry.place}" for entry in entries]


def odd_breaks(places: Sequence[str], entries: Sequence[Entry]) -> list[str]:
    """A warning about references with a line break that misleads other scorers (the first and their number), or []."""
    found = [(file, entry, index, name) for file, entry in zip(places, entries, strict=True)
             for index, text in enumerate(entry.references) if (name := line_break(text))]  # fmt: skip
    if not found:
        return []
    file, entry, index, name = found[0]
    others = ("", ", so does 1 other")[len(found) - 1] if len(found) < 3 else f", so do {len(found) - 1} others"
    file = file.removesuffix(f": {entry.place}")
    return [f"{file}: {entry.reference_place(index)} (id {entry.sample_id}) holds {name}{others}; it is scored as a "
            "space, while coco-caption's tokenizer would move every later caption to another image"]  # fmt: skip


def find_images(
    root: Path, split: Split, entries: Sequence[Entry], where: str, absent: list[Path] | None = None
) -> tuple[dict[str, Path], dict[str, int]]:
    """(image name -> path, image name -> size in bytes) of the entries' images.

    UsageError for a name that leads out of the folder, and for missing files. Links are followed wherever they lead:
    whoever laid them meant it, and every snapshot of the hub is made of them. absent: a list that gets the paths of
    missing files; they are then no error. where: the suite and split, for messages.
    """
    places = places_of(root, split, entries)
    root = root.parent if root.is_file() else root
    folders = image_folders(root, split)
    folder = next((path for path in folders if path.is_dir()), None)
    if folder is None:
        raise UsageError(f"images of {where} not found: looked for {' and '.join(map(str, folders))}")
    paths: dict[str, Path] = {}
    sizes: dict[str, int] = {}
    missing: dict[str, str] = {}
    named = [(name, place) for entry, place in zip(entries, places, strict=True) for name in entry.image_names]
    for name, place in named:
        if name in paths:
            continue
        own = split.format == FILE_FORMAT and os.path.isabs(name)  # one's own file may say where anything lies
        path = Path(name) if own else spelled(folder / checked_name(name, place))
        paths[name] = path
        try:
            status = os.stat(path)
        except OSError:
            status = None
        if status is None or not stat.S_ISREG(status.st_mode):
            missing[name] = place
        else:
            sizes[name] = status.st_size
    if absent is not None:
        absent += [paths[name] for name in missing]
    elif missing:
        raise UsageError(f"{len(missing)} of {len(paths)} images of {where} are missing in {folder}: "
                         f"{some(list(missing))}; the first is that of {next(iter(missing.values()))}; add them, or "
                         "use --limit to stay with the first samples")  # fmt: skip
    return paths, sizes


def checked_name(name: str, place: str) -> str:
    """The image name, unchanged. UsageError unless it can only mean a file below the image folder."""
    parts = PureWindowsPath(name)  # knows both kinds of slash and drive letters
    printable = name.isprintable() and bool(name.strip())
    if not printable or parts.anchor or ".." in parts.parts:
        raise UsageError(f"{place} has image {name!r}, which is not a path below the image folder; "
                         "correct the file, or download the official one again")  # fmt: skip
    return name


def spelled(path: Path) -> Path:
    """The path, or, if nothing lies there, the one whose last part has its accents composed or apart and exists.

    macOS and some archives write "é" as two characters where JSON has one, or the other way round.
    """
    if path.name.isascii() or os.path.lexists(path):
        return path
    forms = (path.with_name(unicodedata.normalize(form, path.name)) for form in ("NFC", "NFD"))
    return next((form for form in forms if os.path.lexists(form)), path)


def some(names: list[str]) -> str:
    """The first few of a list, in words."""
    return ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "")
