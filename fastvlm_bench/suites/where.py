"""Where the samples of a split are read from: official files, a table in a folder, or a repository of the hub."""

from dataclasses import dataclass
from pathlib import Path

from fastvlm_bench.errors import UsageError
from fastvlm_bench.suites.definition import TABLE_FORMAT, Definition, Split
from fastvlm_bench.suites.files import (
    alternatives,
    candidates,
    data_root,
    image_folders,
    image_places,
    layout,
    read_entries,
    table_layout,
)
from fastvlm_bench.suites.hub_data import Files, Folder, HubData, is_hub
from fastvlm_bench.suites.tables import fits, has_table


@dataclass(frozen=True)
class Place:
    """Where a split is read from. files: the folder or repository of its table, or the repository of its official
    files; None for official files on disk."""

    split: Split
    files: Files | None
    is_table: bool


def choose_split(
    definition: Definition, name: str | None, data: str | Path | None, offline: bool = False, limited: bool = False
) -> Place:
    """The split, and where it lies. offline, limited: as in `HubData`.

    name: None is the default split, or with `data` the first whose files are there; of several that one repository or
    folder could be, the one whose repository has its name.
    """
    if data is None or (name is not None and definition.split(name).root):
        return Place(definition.split(name or definition.default_split), None, False)
    if name is not None:
        return _place_of(definition.split(name), data, offline, limited)
    real = [split for split in definition.splits.values() if not split.root]
    found = [split for split in real if is_official(data, split)]
    if found:
        root = data_root(data, real)
        with_images = [split for split in found if any(path.is_dir() for path in image_folders(root, split))]
        return Place(_of_its_size(root, with_images or found), None, False)
    files = HubData(data, offline, limited) if is_hub(data) else Folder(data_root(data, real), str(data))
    tables = [split for split in real if has_table(files, split)]
    tables.sort(key=lambda split: _same_name(split, str(data)), reverse=True)  # stable: the suite's order otherwise
    if tables := [split for split in tables if len(tables) == 1 or fits(files, split)]:
        return Place(tables[0], files, True)
    if isinstance(files, HubData):
        if there := [split for split in real if _official_names(files, split)]:
            return Place(there[0], files, False)
        looked_for = "; ".join(dict.fromkeys(_wanted(split) for split in real))
        raise UsageError(f"{files.label} holds no split of suite '{definition.name}'; looked for {looked_for}")
    looked_for = "; ".join(f"{split.name}: {layout(split)}" for split in real)
    embedded = any(split.root for split in definition.splits.values())
    raise UsageError(f"no split of suite '{definition.name}' under {data}; looked for {looked_for}; correct the "
                     f"folder{', or use --split embedded without --data' if embedded else ''}")  # fmt: skip


def _of_its_size(root: Path, splits: list[Split]) -> Split:
    """The first split; of several that would read the very same files, the one that has as many samples."""
    first = splits[0]
    same = [split for split in splits if candidates(root, split) == candidates(root, first)
            and (split.format, split.subset) == (first.format, first.subset)]  # fmt: skip
    if len(same) < 2:
        return first
    count = len(read_entries(root, first, lambda _: None))
    return next((split for split in same if split.samples == count), first)


def _place_of(split: Split, data: str | Path, offline: bool, limited: bool) -> Place:
    """Where a split lies that the user has named."""
    if is_hub(data):
        hub = HubData(data, offline, limited)
        return Place(split, hub, split.table is not None and (has_table(hub, split) or not _official_names(hub, split)))
    root = data_root(data, [split])
    if split.table is None or root.is_file():
        return Place(split, None, False)
    files = Folder(root, str(data))
    is_table = split.format == TABLE_FORMAT or (not is_official(data, split) and has_table(files, split))
    return Place(split, files if is_table else None, is_table)


def official_files(files: HubData, split: Split, limit: int | None) -> Path:
    """The snapshot folder into which the official files of a split, and the images of its first samples, are fetched.

    UsageError if the repository does not have them.
    """
    names = _official_names(files, split)
    if names is None:
        raise UsageError(f"{files.label} does not hold {_wanted(split)}")
    root = Path()
    for name in names:
        path = files.path(name)
        assert path is not None
        root = Path(str(path).removesuffix(f"/{name}"))
    for entry in read_entries(root, split, lambda _: None)[:limit]:
        for name in entry.image_names:
            place = next((place for place in image_places(name, split) if place in files.names()), None)
            if place is not None:
                files.path(place)
    return root


def is_official(data: str | Path, split: Split) -> bool:
    """Whether `data` is a folder (or file) with the official annotation files of a split."""
    if split.format == TABLE_FORMAT or is_hub(data):
        return False
    return None not in candidates(data_root(data, [split]), split).values()


def _official_names(files: HubData, split: Split) -> list[str] | None:
    """The names of a split's annotation files in a repository; None if one that is needed is missing."""
    there, found = set(files.names()), []
    for items in split.files.values():
        for item in items:
            names = [f"{folder}{name}" for name in alternatives(item) for folder in ("annotations/", "")]
            if own := [name for name in names if name in there]:
                found.append(own[0])
            elif not item.lstrip().startswith("?"):
                return None
    return found or None


def _same_name(split: Split, data: str) -> bool:
    """Whether a split's repository has the name of the repository or folder that the user gave; owners may differ."""
    name = data.partition("@")[0].rstrip("/").rpartition("/")[2]
    return split.table is not None and split.table.repository.rpartition("/")[2] == name


def _wanted(split: Split) -> str:
    return layout(split) if split.table is None else table_layout(split)
