"""One run measured by several processes: each appends to a file of its own, and the leader lays these together.

`samples.rank-2.jsonl` in a run folder has the lines of rank 2 until the run ends, or is resumed. Then they are in
`samples.jsonl`, in the order of one process, and the file is gone. So no process waits for another while it measures,
and a process that is lost leaves what it had measured.
"""

import contextlib
import os
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from fastvlm_bench.errors import UsageError
from fastvlm_bench.records.merging import side_by_side
from fastvlm_bench.records.reading import SCHEMA_VERSION, read_lines
from fastvlm_bench.records.record import Key, RunWriter, TurnKey, write_lines
from fastvlm_bench.records.storage import lock_file, seal

PATTERN = "samples.rank-*.jsonl"
PATIENCE_S = 20.0
"""So long a process that was told to end may take to close its file."""


def rank_file(folder: Path, rank: int) -> Path:
    """Where a process keeps its lines."""
    return folder / PATTERN.replace("*", str(rank))


class RankWriter:
    """Writes the lines of one process. In the leader `run` is the writer of the folder, which gets the other fields.

    meta: of a process that does not lead, `run.json` as it was read; fields are replaced in memory alone. completed,
    said: as in `RunWriter`.
    """

    def __init__(
        self, folder: Path, rank: int, completed: set[Key], meta: dict[str, Any], run: RunWriter | None,
        said: Mapping[TurnKey, str | None] = MappingProxyType({}),
    ) -> None:  # fmt: skip
        self.folder, self.rank, self.completed, self._meta, self._run = folder, rank, completed, meta, run
        self.said = said
        self.path, self._seq = rank_file(folder, rank), 0
        self._file = lock_file(self.path)
        if os.fstat(self._file).st_size:
            os.close(self._file)
            raise UsageError(f"{self.path} has lines already; go on with --resume {folder}")

    @property
    def meta(self) -> dict[str, Any]:
        return self._meta if self._run is None else self._run.meta

    def update(self, **fields: Any) -> None:
        """Replace fields of `run.json`: on the disk by the leader, as in `RunWriter.update`."""
        if self._run is None:
            self._meta = {**self._meta, **fields}
        else:
            self._run.update(**fields)

    def append(self, line: Mapping[str, Any]) -> None:
        """Add one line, as `RunWriter.append` does. WriteFailed."""
        data = seal({"v": SCHEMA_VERSION, "seq": self._seq, **line})
        write_lines(self._file, data, self.path, self._seq)
        self._seq += 1

    def close(self) -> None:
        """Let the leader read the file. Closing twice is allowed."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


class Unrecorded(RankWriter):
    """Of a process that decodes the same samples as the leader, which records them."""

    def __init__(
        self, folder: Path, rank: int, completed: set[Key], meta: dict[str, Any], run: RunWriter | None,
        said: Mapping[TurnKey, str | None] = MappingProxyType({}),
    ) -> None:  # fmt: skip
        self.folder, self.rank, self.completed, self._meta, self._run = folder, rank, completed, meta, run
        self.said = said

    def append(self, line: Mapping[str, Any]) -> None:
        """Nothing: the leader has the same line."""

    def close(self) -> None:
        """Nothing was opened."""


Writer = RunWriter | RankWriter


def fold(writer: RunWriter) -> int:
    """Move the lines of all rank files into the samples file. Returns how many there were.

    A file whose process still writes after PATIENCE_S is left for the next time. CorruptRecord, WriteFailed.
    """
    until_s = time.monotonic() + PATIENCE_S
    files = [path for path in sorted(writer.folder.glob(PATTERN)) if _free(path, until_s)]
    processes = [read_lines(path)[0] for path in files]
    writer.absorb(side_by_side(processes))
    for path in files:
        path.unlink()
    return sum(map(len, processes))


def _free(path: Path, until_s: float) -> bool:
    """Whether no process writes the file, or no longer does before that time."""
    while True:
        with contextlib.suppress(UsageError):
            os.close(lock_file(path))
            return True
        if time.monotonic() > until_s:
            return False
        time.sleep(0.05)
