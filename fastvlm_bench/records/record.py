"""Run folders: `run.json` and `samples.jsonl`. Their only writer; `reading` reads them.

A crash loses at most the line being written: each line is one write on an append-only descriptor, then fsync, and
carries a sequence number and a CRC-32. `run.json` is replaced as a whole, with a seal (`sealing`). Failures are
UsageError (a folder that cannot be used), CorruptRecord (a file that was changed after it was written) or WriteFailed
(a full disk, say).
"""

import contextlib
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from fastvlm_bench.errors import UsageError, WriteFailed
from fastvlm_bench.records.mixing import mixed
from fastvlm_bench.records.reading import RUN_FILE, SCHEMA_VERSION, Run, list_runs, read_lines, read_meta, read_run
from fastvlm_bench.records.sealing import SAMPLES_FILE, Digest, check_files, sealed, sealed_lines
from fastvlm_bench.records.storage import (
    LOCK_FILE,
    differences,
    encode_run,
    lock_file,
    lock_folder,
    now,
    remove_temporaries,
    seal,
    sync_folder,
    write_atomically,
)
from fastvlm_bench.records.undisturbed import undisturbed

__all__ = ["RUN_FILE", "SAMPLES_FILE", "SCHEMA_VERSION", "Run", "RunWriter", "list_runs", "read_meta", "read_run"]

TORN_FILE = "samples.jsonl.torn"
AT_ONCE = 1000
"""So many lines are written before the next fsync, where there are many."""
Key = tuple[str, str, int]
"""(suite, sample_id, repeat): names a group of lines that are measured together, one per method."""
TurnKey = tuple[str, str, str, int]
"""(suite, sample_id, method, repeat): names a line, of a sample of several turns."""

_BEGUN: dict[str, Any] = {"status": "started", "completed_at": None, "error": None, "totals": {}, "verdict": None}
"""What a resumed run does not keep: it will be judged anew."""


class RunWriter:
    """Writes one run folder, which it locks for itself. completed: the groups in which every method has a line.

    said: (suite, sample, method, repeat) -> the text of each turn that was there when a run is resumed. The samples
    file is locked, too, so that nobody writes beside it when the lock file is removed.
    """

    def __init__(self, folder: Path, meta: dict[str, Any], lock: int, file: int, lines: list[dict[str, Any]]) -> None:
        self.folder, self.meta, self._lock, self._file = folder, meta, lock, file
        self._seq = len(lines)
        self._digest = Digest.of(folder / SAMPLES_FILE, os.fstat(file).st_size)
        self.completed: set[Key] = completed(lines, meta)
        self.said: dict[TurnKey, str | None] = said(lines)
        remove_temporaries(folder)
        self._save()
        sync_folder(folder)

    @classmethod
    def create(cls, folder: Path, run: Mapping[str, Any]) -> "RunWriter":
        """Make a new run folder with this `run.json`. UsageError if it holds a run already or cannot be written."""
        folder = Path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = lock_folder(folder)
        except OSError as error:
            raise UsageError(f"cannot write to {folder}: {error.strerror}; choose another --out") from None
        if (folder / RUN_FILE).exists() or (folder / SAMPLES_FILE).exists():
            os.close(lock)
            raise UsageError(f"{folder} already holds a run; go on with --resume, or choose another --out")
        return cls(folder, {"schema_version": SCHEMA_VERSION, **run}, lock, lock_file(folder / SAMPLES_FILE), [])

    @classmethod
    def resume(cls, folder: Path, config_sha256: str, config: Mapping[str, Any] | None = None) -> "RunWriter":
        """Open a run to go on with it. UsageError, with the differing fields (old -> new), for another configuration.

        config: the new configuration, from which the message names those fields. A torn last line is moved to
        `samples.jsonl.torn`. A half-measured group is not in `completed`, so it is measured again in full: a ratio
        must come from one invocation.
        """
        folder = Path(folder)
        meta = read_meta(folder)
        if meta.get("config_sha256") != config_sha256:
            old = {name: value for name, value in meta["config"].items() if name in (config or ())}
            changed = differences(old, config) if config is not None else []
            detail = "; ".join(changed) or f"config_sha256: {meta.get('config_sha256')} -> {config_sha256}"
            raise UsageError(
                f"{folder} was made with another configuration ({detail}); leave those options out, or start anew"
            )
        path, file = folder / SAMPLES_FILE, -1
        if not path.exists() and sealed_lines(meta):
            check_files(folder, meta, 0)
        lock = lock_folder(folder)
        try:
            file = lock_file(path)
            lines, whole = read_lines(path)
            check_files(folder, meta, whole)
            with open(path, "r+b") as torn_file:
                torn_file.seek(whole)
                if torn := torn_file.read():
                    with open(folder / TORN_FILE, "ab") as aside:
                        aside.write(torn)
                        os.fsync(aside.fileno())
                    torn_file.truncate(whole)
                    os.fsync(torn_file.fileno())
            return cls(folder, {**meta, **_BEGUN}, lock, file, lines)
        except BaseException:
            if file >= 0:
                os.close(file)
            (folder / LOCK_FILE).unlink(missing_ok=True)
            os.close(lock)
            raise

    def update(self, **fields: Any) -> None:
        """Replace fields of `run.json` by what is known only once the model is loaded.

        In a resumed run that has lines, UsageError if that changes anything that decides a token or a time (`mixed`):
        a run must not mix two machines, two models, two drafts or two ways of generating.
        """
        if self._seq and (changed := mixed(self.meta, fields)):
            how, remedy = _how(changed)
            raise UsageError(f"{self.folder} was measured {how} ({'; '.join(changed)}); {remedy}, or start anew")
        self.meta = {**self.meta, **fields}
        self._save()

    def _save(self) -> None:
        """Replace `run.json`, sealed. WriteFailed if that fails."""
        self.restore()
        try:
            document = sealed(self.meta, self.folder, self._digest)
        except OSError as error:
            raise WriteFailed(f"cannot read {self.folder / SAMPLES_FILE}: {error.strerror}") from error
        write_atomically(self.folder / RUN_FILE, encode_run(document))

    def restore(self) -> None:
        """Where the folder or its samples file was removed while it is measured, make it again with all its lines.

        WriteFailed if that fails, or if another file has taken its place.
        """
        path = self.folder / SAMPLES_FILE
        if self._lock < 0:
            return
        try:
            if os.path.samestat(os.stat(path), os.fstat(self._file)):
                return
            raise WriteFailed(f"{path} was replaced by another file while it was measured; resume from that one with "
                              f"--resume {self.folder}")  # fmt: skip
        except (FileNotFoundError, NotADirectoryError):
            pass
        data = os.pread(self._file, os.fstat(self._file).st_size, 0)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not (self.folder / LOCK_FILE).exists():
                old, self._lock = self._lock, lock_folder(self.folder)
                os.close(old)
            write_atomically(path, data)
            old, self._file = self._file, lock_file(path)
            os.close(old)
            write_atomically(self.folder / RUN_FILE, encode_run(sealed(self.meta, self.folder, self._digest)))
        except OSError as error:
            raise WriteFailed(f"{path} was removed while it was measured, and cannot be made again: {error.strerror}; "
                              f"{self._seq} lines are lost") from error  # fmt: skip
        print(f"fastvlm-bench: note: {path} was removed while it was measured; it is there again, with its "
              f"{self._seq} lines", file=sys.stderr)  # fmt: skip

    def append(self, line: Mapping[str, Any]) -> None:
        """Add one line to the samples file and fsync it; `v`, `seq` and `crc32` are filled in here.

        WriteFailed if that fails. What was written of the line is then removed.
        """
        self.append_all([line])

    def append_all(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Add many lines, with one fsync for each thousand of them. WriteFailed as in `append`."""
        left = iter(lines)
        while some := list(islice(left, AT_ONCE)):
            self._append([{k: v for k, v in line.items() if k not in ("v", "seq")} for line in some])

    def absorb(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Add lines that other processes have measured; `completed` and `said` then hold theirs, too. WriteFailed."""
        added = list(lines)
        self.append_all(added)
        self.completed |= completed(added, self.meta)
        self.said |= said(added)

    def _append(self, lines: Sequence[Mapping[str, Any]]) -> None:
        data = b"".join(
            seal({"v": SCHEMA_VERSION, "seq": seq, **line}) for seq, line in enumerate(lines, start=self._seq)
        )
        with undisturbed():
            self.restore()
            write_lines(self._file, data, self.folder / SAMPLES_FILE, self._seq)
            self._seq += len(lines)
            self._digest.add(data)

    def finish(self, status: str, **fields: Any) -> None:
        """Write the final `run.json` ("success", "interrupted" or "error", and any other fields) and close."""
        self.meta = {**self.meta, "status": status, "completed_at": now(), **fields}
        try:
            self._save()
        finally:
            self.close()

    def finish_unjudged(self) -> None:
        """Close an interrupted run that nobody has judged, unless it is closed already."""
        if self._lock >= 0:
            self.finish("interrupted")

    def discard(self) -> bool:
        """Remove a run that has measured nothing. If it has any line, do nothing and return False."""
        if self._seq:
            return False
        self.close()
        for name in (RUN_FILE, SAMPLES_FILE):
            (self.folder / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # the folder stays if a user's file lies in it
            self.folder.rmdir()
        return True

    def close(self) -> None:
        """Release the folder without changing `run.json`. Closing twice is allowed."""
        if self._lock < 0:
            return
        os.close(self._file)
        with contextlib.suppress(OSError):  # the folder may be gone, or a file may stand in its place
            (self.folder / LOCK_FILE).unlink()
        os.close(self._lock)
        self._lock = -1

    def __enter__(self) -> "RunWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def completed(lines: Iterable[Mapping[str, Any]], meta: Mapping[str, Any]) -> set[Key]:
    """The groups of which every method has a line."""
    wanted = {method["label"] for method in meta["methods"]}
    seen: dict[Key, set[str]] = {}
    for line in lines:
        seen.setdefault((line["suite"], line["sample_id"], line["repeat"]), set()).add(line["method"])
    return {key for key, labels in seen.items() if labels >= wanted}


def said(lines: Iterable[Mapping[str, Any]]) -> dict[TurnKey, str | None]:
    """The text of each turn, where there are several: None where it failed."""
    return {(line["suite"], line["sample_id"], line["method"], line["repeat"]): line["text"]
            for line in lines if "dialog" in line}  # fmt: skip


def write_lines(file: int, data: bytes, path: Path, kept: int) -> None:
    """Add whole lines to a file and fsync it. WriteFailed if that fails; what was written of them is then removed.

    file: its descriptor. kept: how many lines it has.
    """
    start = os.fstat(file).st_size
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(file, rest) :]
        os.fsync(file)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.ftruncate(file, start)
        raise WriteFailed(f"cannot write to {path}: {error.strerror}; {kept} lines are kept, free space and go on with "
                          "--resume") from error  # fmt: skip


def _how(changed: Sequence[str]) -> tuple[str, str]:
    """How a run was measured before, in words, and what would let it go on."""
    if all(each.startswith("generation.") for each in changed):
        return "with other generation settings", "resume it with those"
    machine = ("environment.", "model.dtype", "model.device", "model.attention")
    if all(each.startswith(machine) for each in changed):
        return "elsewhere", "resume it there"
    return "with something else", "put it back as it was and resume"
