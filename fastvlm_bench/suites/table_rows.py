"""Reads parquet and arrow files by columns and batches: never a whole file, and images only of wanted rows.

pyarrow alone rather than `datasets`: that would bring its own cache of copies, and loads code of repositories.
"""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from fastvlm_bench.errors import UsageError

ROWS_A_BATCH, IMAGES_A_BATCH = 1024, 16


def _pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.ipc
        import pyarrow.parquet
    except ImportError:
        raise UsageError("parquet and arrow files need pyarrow: pip install 'fastvlm-bench[parquet]'") from None
    return pyarrow


def column_names(path: Path) -> list[str]:
    """The names of a file's columns."""
    return [field.name for field in _schema(path)]


def light_rows(path: Path, columns: Sequence[str], images: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Every row as a dict of `columns`; of the `images` columns only whether they hold anything, as a bool.

    The bytes of images are not read. Whether a column that is not a struct with a path holds anything is told only when
    it is read: here it is True.
    """
    for batch in _batches(path, columns, images):
        own = {name: batch.column(name).to_pylist() for name in columns}
        for name in images:
            known = name in batch.schema.names
            own[name] = batch.column(name).is_valid().to_pylist() if known else [True] * batch.num_rows
        for index in range(batch.num_rows):
            yield {name: values[index] for name, values in own.items()}


def image_values(path: Path, wanted: Collection[int], columns: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """(row, its images as they are stored) of the wanted rows, in the file's order. Only their row groups are read."""
    rows = sorted(set(wanted))
    for start, batch in _image_batches(path, rows, columns):
        for row in rows:
            if start <= row < start + batch.num_rows:
                yield row, {name: batch.column(name)[row - start].as_py() for name in columns}


def _schema(path: Path) -> Any:
    pa = _pyarrow()
    with _readable(path):
        if path.suffix == ".arrow":
            with pa.memory_map(str(path)) as source:
                return pa.ipc.open_stream(source).schema
        return pa.parquet.read_schema(path)


def _batches(path: Path, columns: Sequence[str], images: Sequence[str]) -> Iterator[Any]:
    pa = _pyarrow()
    with _readable(path):
        if path.suffix == ".arrow":
            with pa.memory_map(str(path)) as source:
                for batch in pa.ipc.open_stream(source):
                    yield batch.select([*columns, *images])
            return
        schema = _schema(path)
        paths = [f"{name}.path" for name in images if _has_path(pa, schema.field(name).type)]
        plain = [
            name for name in images if pa.types.is_string(kind := schema.field(name).type) or pa.types.is_null(kind)
        ]
        with pa.parquet.ParquetFile(path) as file:
            yield from file.iter_batches(ROWS_A_BATCH, columns=[*columns, *paths, *plain])


def _image_batches(path: Path, rows: Sequence[int], columns: Sequence[str]) -> Iterator[tuple[int, Any]]:
    """(number of its first row, batch) of every batch with wanted rows."""
    pa = _pyarrow()
    start = 0
    with _readable(path):
        if path.suffix == ".arrow":
            with pa.memory_map(str(path)) as source:
                for batch in pa.ipc.open_stream(source):
                    yield start, batch.select(list(columns))
                    start += batch.num_rows
                    if start > rows[-1]:
                        return
            return
        with pa.parquet.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                count = file.metadata.row_group(group).num_rows
                own = [row - start for row in rows if start <= row < start + count]
                begin = start
                for batch in file.iter_batches(IMAGES_A_BATCH, [group], columns=list(columns)) if own else ():
                    yield begin, batch
                    begin += batch.num_rows
                    if begin > start + own[-1]:
                        break
                start += count


def _has_path(pa: Any, kind: Any) -> bool:
    return pa.types.is_struct(kind) and kind.get_field_index("path") >= 0


class _readable:
    """Turns pyarrow's errors about a torn or foreign file into one line."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, _: Any) -> None:
        if isinstance(error, Exception) and not isinstance(error, UsageError):
            problem = str(error).splitlines()[0] if str(error) else type(error).__name__
            what = "parquet" if self.path.suffix == ".parquet" else "arrow"
            raise UsageError(f"{self.path}: not readable {what} ({problem}); it may be torn: fetch it again") from None
