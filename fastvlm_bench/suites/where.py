"""Where the samples of a split are read from: official files, a table in a folder, or a repository of the hub."""

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


def choose_split(
    definition: Definition, name: str | None, data: str | Path | None, offline: bool = False
) -> tuple[Split, Files | None]:
    """The split, and the files in which its table (or, on the hub, whatever it has) lies; None for official files.

    name: None is the default split, or with `data` the first whose files are there; of several that one repository or
    folder could be, the one whose repository has its name.
    """
    if data is None:
        return definition.split(name or definition.default_split), None
    if name is not None:
        chosen = definition.split(name)
        return chosen, None if chosen.root else place_of(chosen, data, offline)
    real = [split for split in definition.splits.values() if not split.root]
    if not is_hub(data):
        root = data_root(data, real)
        found = [
            split for split in real if split.format != TABLE_FORMAT and None not in candidates(root, split).values()
        ]
        if found:
            with_images = [split for split in found if any(path.is_dir() for path in image_folders(root, split))]
            return (with_images or found)[0], None
    files = HubData(data, offline) if is_hub(data) else Folder(data_root(data, real), str(data))
    tables = [split for split in real if has_table(files, split)]
    tables.sort(key=lambda split: _same_name(split, str(data)), reverse=True)  # stable: the suite's order otherwise
    if tables := [split for split in tables if len(tables) == 1 or fits(files, split)]:
        return tables[0], files
    if isinstance(files, HubData):
        if there := [split for split in real if split.table is None and _official_names(files, split) is not None]:
            return there[0], files
        looked_for = "; ".join(dict.fromkeys(_wanted(split) for split in real))
        raise UsageError(f"{files.label} holds no split of suite '{definition.name}'; looked for {looked_for}")
    looked_for = "; ".join(f"{split.name}: {layout(split)}" for split in real)
    embedded = any(split.root for split in definition.splits.values())
    raise UsageError(f"no split of suite '{definition.name}' under {data}; looked for {looked_for}; correct the "
                     f"folder{', or use --split embedded without --data' if embedded else ''}")  # fmt: skip


def place_of(split: Split, data: str | Path, offline: bool = False) -> Files | None:
    """The files in which a split's table lies, or its repository; None where its official files are to be read."""
    if is_hub(data):
        return HubData(data, offline)
    root = data_root(data, [split])
    if split.table is None or root.is_file():
        return None
    files = Folder(root, str(data))
    return (
        files if not _is_official(root, split) and (split.format == TABLE_FORMAT or has_table(files, split)) else None
    )


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
        place = next((place for place in image_places(entry.image_name, split) if place in files.names()), None)
        if place is not None:
            files.path(place)
    return root


def _is_official(root: Path, split: Split) -> bool:
    """Whether the official annotation files of a split are there."""
    return split.format != TABLE_FORMAT and None not in candidates(root, split).values()


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
    return found


def _same_name(split: Split, data: str) -> bool:
    """Whether a split's repository has the name of the repository or folder that the user gave; owners may differ."""
    name = data.partition("@")[0].rstrip("/").rpartition("/")[2]
    return split.table is not None and split.table.repository.rpartition("/")[2] == name


def _wanted(split: Split) -> str:
    return layout(split) if split.table is None else table_layout(split)
