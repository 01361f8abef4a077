"""A split from a data set's table: its entries, and the images of those that are wanted, unpacked into a cache.

Only the columns of texts are read of every row, and images only of wanted rows. From the hub, files are fetched until
there are enough samples.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fastvlm_bench.errors import UsageError, WriteFailed
from fastvlm_bench.records.storage import write_atomically
from fastvlm_bench.suites.annotations import Document, Entry
from fastvlm_bench.suites.definition import Split
from fastvlm_bench.suites.files import checked_name, image_cache, image_places, table_layout
from fastvlm_bench.suites.hub_data import Files, Folder
from fastvlm_bench.suites.table_definition import Table
from fastvlm_bench.suites.table_entries import Entries, Row
from fastvlm_bench.suites.table_files import require, table_files
from fastvlm_bench.suites.table_rows import column_names, image_values, light_rows
from fastvlm_bench.suites.turns import check_marks

KINDS = {b"\x89PNG": ".png", b"\xff\xd8\xff": ".jpg", b"GIF8": ".gif", b"RIFF": ".webp", b"BM": ".bmp", b"II*": ".tif"}
SHOWN_FROM = 200
"""From so many images on, unpacking them shows a bar."""


@dataclass(frozen=True)
class TableSamples:
    """whole: the entries of all rows that were read. entries: the wanted ones, with image names; images: name -> path.

    partly: not all rows of the split were read, because fetching them was not needed.
    """

    whole: tuple[Entry, ...]
    entries: tuple[Entry, ...]
    images: Mapping[str, Path]
    partly: bool


def has_table(files: Files, split: Split) -> bool:
    """Whether the split's rows are there."""
    return split.table is not None and bool(table_files(files, split.table.rows))


def fits(files: Files, split: Split) -> bool:
    """Whether the first file of a split's table has the columns and a row of the split: COCO's two years look alike."""
    assert split.table is not None
    try:
        name = table_files(files, split.table.rows)[0]
        return next(Entries(split.table, "").of(require(files, name), name), None) is not None
    except UsageError:
        return False


def read_table(files: Files, split: Split, limit: int | None) -> TableSamples:
    """The split's samples. UsageError for missing files and columns, and for what is wrong in them."""
    table = split.table
    assert table is not None
    rows, partly = _read_rows(files, split, limit)
    wanted = rows[:limit]
    found = _joined(files, table, wanted) if table.join else _unpacked(files, split, wanted)
    entries = tuple(replace(row.entry, image_name=_name(paths[0]), image_id=row.entry.image_id or paths[0].stem,
                            images=tuple(map(_name, paths)) if len(paths) > 1 else ())
                    for row, paths in zip(wanted, found, strict=True))  # fmt: skip
    images = {_name(path): path for paths in found for path in paths}
    return TableSamples(tuple(row.entry for row in rows), entries, images, partly)


def table_texts(files: Files, split: Split) -> list[Entry]:
    """The entries of all rows without their images, for scoring predictions. UsageError as for `read_table`."""
    return [row.entry for row in _read_rows(files, split, None)[0]]


def _read_rows(files: Files, split: Split, limit: int | None) -> tuple[list[Row], bool]:
    """The split's rows, and whether files were left out because `limit` needed no more."""
    table = split.table
    assert table is not None
    names = table_files(files, table.rows)
    if not names:
        raise UsageError(f"{files.label} has no rows {table.rows}; split '{split.name}' needs {table_layout(split)}")
    rows: list[Row] = []
    reading, read = Entries(table, _needs(table)), 0
    for name in names:
        enough = limit is not None and len(rows) >= limit
        if enough and not (isinstance(files, Folder) and files.path(name) is not None):
            break
        rows += list(reading.of(require(files, name), f"{files.label}/{name}"))
        read += 1
    if not rows:
        raise UsageError(f"{files.label}: no row of {table.rows} belongs to split '{split.name}'; {_needs(table)}")
    return rows, read < len(names)


def _name(path: Path) -> str:
    """An image's name: its hash in the cache, else its folder and its own."""
    return path.name if path.parent == image_cache() else f"{path.parent.name}/{path.name}"


def _needs(table: Table) -> str:
    columns = [*table.id[:1], *table.question[:1], *table.references[:1], table.choices, table.answer, *table.image[:1]]
    told = ", ".join(column.strip("{}") for column in columns if column)
    return f"the table of this split has {told}"


def _unpacked(files: Files, split: Split, rows: Sequence[Row]) -> list[list[Path]]:
    """The paths of each row's images. Their bytes go to the cache; an image that is only named is looked for."""
    several = split.table is not None and split.table.all_images
    found: dict[tuple[Path, int], list[Path]] = {}
    by_file: dict[Path, dict[int, Row]] = {}
    for row in rows:
        by_file.setdefault(row.path, {})[row.index] = row
    with _bar(len(rows)) as bar:
        for path, own in by_file.items():
            columns = sorted({column for row in own.values() for column in row.images})
            for index, values in image_values(path, own, columns):
                row = own[index]
                document = Document(Path(row.entry.file), None, "an image is a struct of bytes and path, or a path")
                paths = [_image(files, split, document, value, f"{row.entry.place}.{column}")
                         for column in (row.images if several else row.images[:1])
                         for value in _listed(values[column], several)]  # fmt: skip
                if several and len(columns) == 1:
                    check_marks(document, (row.entry.question,), len(paths), row.entry.place)
                found[path, index] = paths
                bar.update(1)
    return [found[row.path, row.index] for row in rows]


def _listed(value: Any, several: bool) -> list[Any]:
    """The images of a column: those of its list where a sample may have several."""
    return value if several and isinstance(value, list) and value else [value]


def _joined(files: Files, table: Table, rows: Sequence[Row]) -> list[list[Path]]:
    """The same for images in a second table, which is read until all are found."""
    join = table.join
    assert join is not None
    wanted, found = {row.key for row in rows}, dict[str, Path]()
    names = table_files(files, join.rows)
    if not names:
        raise UsageError(f"{files.label} has no rows {join.rows}, which hold the images of {table.rows}")
    for name in names:
        if wanted <= set(found):
            break
        path = require(files, name)
        lacking = [column for column in (join.id, table.image[0]) if column not in column_names(path)]
        if lacking:
            raise UsageError(
                f"{files.label}/{name} has no column '{lacking[0]}'; it must hold the images and their ids"
            )
        ids = [str(row[join.id]) for row in light_rows(path, [join.id], [])]
        own = {index: key for index, key in enumerate(ids) if key in wanted and key not in found}
        document = Document(Path(f"{files.label}/{name}"), None, "an image is a struct of bytes and path")
        for index, values in image_values(path, own, [table.image[0]]) if own else ():
            place = f"row {index}.{table.image[0]}"
            found[own[index]] = _image(files, None, document, values[table.image[0]], place)
    if absent := [row for row in rows if row.key not in found]:
        raise UsageError(f"{absent[0].entry.file}: {absent[0].entry.place} has image '{absent[0].key}', which "
                         f"{join.rows} does not hold ({len(absent)} such)")  # fmt: skip
    return [[found[row.key]] for row in rows]


def _image(files: Files, split: Split | None, document: Document, value: Any, place: str) -> Path:
    """The path of one image as it is stored: a struct of bytes and path, bytes, a path, or a list of one of these."""
    if isinstance(value, list):
        if len(value) != 1:
            raise document.fault(place, f"holds {len(value)} images; a prompt here holds one")
        value = value[0]
    content, name = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, value)
    if isinstance(content, bytes):
        if not content:
            raise document.fault(place, "is an empty image")
        return _kept(content)
    if not isinstance(name, str) or not name:
        raise document.fault(place, "is null: the sample has no image")
    name = name if not Path(name).is_absolute() else Path(name).name
    checked_name(name, f"{document.path}: {place}")
    for candidate in image_places(name, split):
        if (path := files.path(candidate)) is not None:
            return path
    raise document.fault(place, f"has no bytes, only the path '{name}', and no such file lies in {files.label}")


def _kept(content: bytes) -> Path:
    """The image in the cache, named by the hash of its content."""
    cache = image_cache()
    kind = next((kind for start, kind in KINDS.items() if content.startswith(start)), ".img")
    path = cache / f"{hashlib.sha256(content).hexdigest()}{kind}"
    if not path.is_file():
        try:
            cache.mkdir(parents=True, exist_ok=True)
            write_atomically(path, content)
        except (OSError, WriteFailed) as error:
            cause = error.__cause__ or error
            reason = getattr(cause, "strerror", None) or cause
            raise UsageError(f"cannot unpack images to {cache}: {reason}; set XDG_CACHE_HOME") from None
    return path


def _bar(count: int) -> Any:
    from huggingface_hub.utils import tqdm

    return tqdm(total=count, desc="images", unit="", leave=False, disable=True if count < SHOWN_FROM else None)


def content_lines(entries: Sequence[Entry]) -> Iterator[bytes]:
    """What identifies the texts of entries, for the suite's hash: files of tables hold images, and vary in form."""
    for e in entries:
        yield repr((e.sample_id, e.image_id, e.references, e.question, sorted(e.fields.items()), e.group)).encode()
