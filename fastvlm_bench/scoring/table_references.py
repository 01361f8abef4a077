"""The references of a suite from the parquet form of its data, for `score`."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from fastvlm_bench.errors import UsageError
from fastvlm_bench.suites.annotations import Entry
from fastvlm_bench.suites.definition import TABLE_FORMAT, Definition
from fastvlm_bench.suites.hub_data import is_hub
from fastvlm_bench.suites.table_entries import Entries
from fastvlm_bench.suites.tables import table_texts
from fastvlm_bench.suites.where import choose_split


def table_references(
    definition: Definition, paths: Sequence[Path], name: str | None
) -> tuple[str, list[Entry], str] | None:
    """(split, samples, note) of a folder or a repository (hf:OWNER/NAME) with a table, or of files of one.

    note: as in `Files`. None where it holds official files. Images are not read: where a table does not tell an image's
    id, each sample counts as an image of its own.
    """
    first = paths[0]
    alone = all(split.format == TABLE_FORMAT for split in definition.splits.values())
    if len(paths) == 1 and (first.is_dir() or is_hub(first)):
        try:
            place = choose_split(definition, name, first)
        except UsageError:
            if is_hub(first) or alone:
                raise
            return None  # `score` says what it looked for: fewer files than a run needs
        if place.files is None or not place.is_table:
            return None
        return place.split.name, _own(table_texts(place.files, place.split)), place.files.note
    if not all(path.suffix in (".parquet", ".arrow") for path in paths):
        if alone:
            raise UsageError(f"{first}: suite '{definition.name}' is read from parquet: give its files or folder")
        return None
    splits = [definition.split(name)] if name else [split for split in definition.splits.values() if split.table]
    failure = UsageError(f"suite '{definition.name}' has no table form: give its official annotation files")
    for split in splits:
        if split.table is None:
            continue
        try:
            reading = Entries(split.table, f"split '{split.name}' reads it")
            rows = [row for path in paths for row in reading.of(path, str(path))]
        except UsageError as error:
            failure = error
            continue
        if rows:
            return split.name, _own([row.entry for row in rows]), ""
    raise failure


def _own(entries: Sequence[Entry]) -> list[Entry]:
    return [replace(entry, image_id=entry.image_id or entry.sample_id) for entry in entries]
