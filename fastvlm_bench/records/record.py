"""Run folders: `run.json` and `samples.jsonl`. Their only writer, and a reader that trusts nothing it reads.

A crash loses at most the line being written: each line is one write on an append-only descriptor, then fsync, and
carries a sequence number and a CRC-32. `run.json` is replaced as a whole. Failures are UsageError (a folder that cannot
be used), CorruptRecord (a file that was changed after it was written) or WriteFailed (a full disk, say).
"""

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastvlm_bench.errors import BenchError, CorruptRecord, UsageError, WriteFailed
from fastvlm_bench.records.document_frequencies import attach
from fastvlm_bench.records.storage import (
    LOCK_FILE,
    differences,
    encode_document,
    lock_folder,
    now,
    seal,
    sync_folder,
    unseal,
    write_atomically,
)

SCHEMA_VERSION = 1
RUN_FILE, SAMPLES_FILE, TORN_FILE = "run.json", "samples.jsonl", "samples.jsonl.torn"
MACHINE = ("model.weights_sha256", "model.processor_sha256", "model.dtype", "model.device", "model.attention",
           "environment.cpu", "environment.gpu", "environment.threads")  # fmt: skip
"""Fields of `run.json` that must not change between the invocations of one run; nor may a part of `generation`."""
Key = tuple[str, str, int]
"""(suite, sample_id, repeat): names a group of lines that are measured together, one per method."""


@dataclass(frozen=True)
class Run:
    """A run folder in memory.

    meta: `run.json`. lines: the last line of each (suite, sample, method, repeat), in file order. torn: whether the
    samples file ends in half a line.
    """

    folder: Path
    meta: dict[str, Any]
    lines: list[dict[str, Any]]
    torn: bool = False

    @property
    def run_id(self) -> str:
        return str(self.meta["run_id"])

    def method(self, label: str) -> dict[str, Any]:
        """The entry of `methods` with this label."""
        return next(method for method in self.meta["methods"] if method["label"] == label)


# ------------------------------------------------------------------------------------------ reading


def read_meta(folder: Path) -> dict[str, Any]:
    """`run.json` of a run folder.

    UsageError if it is missing, unreadable or of an unknown schema. CorruptRecord if it is not JSON or lacks a key.
    """
    path = Path(folder) / RUN_FILE
    try:
        meta = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise UsageError(f"{folder} is not a run folder: it has no {RUN_FILE}; give a folder under results/") from None
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise CorruptRecord(f"{path} is not JSON ({error}); restore it from a copy") from None
    version = meta.get("schema_version") if isinstance(meta, dict) else None
    if version != SCHEMA_VERSION:
        raise UsageError(
            f"{path} has schema_version {version!r}; this version reads {SCHEMA_VERSION}; "
            "open it with the fastvlm-bench that wrote it, or upgrade"
        )
    missing = [key for key in ("run_id", "status", "config", "suites", "model", "methods", "reference")
               if key not in meta]  # fmt: skip
    if missing:
        raise CorruptRecord(f"{path} lacks {', '.join(missing)}; restore it from a copy")
    return dict(meta)


def _read_lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """All whole lines of a samples file, and how many bytes they take. Any bytes after them are a torn last line."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise UsageError(f"{path.parent} has no {SAMPLES_FILE}: nothing was measured; run it again") from None
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    lines: list[dict[str, Any]] = []
    whole = 0
    for number, raw in enumerate(data.splitlines(keepends=True), start=1):
        if whole + len(raw) == len(data) and not raw.endswith(b"\n"):
            break  # a line is one write, so one without a line feed is half written
        try:
            line = unseal(raw.removesuffix(b"\n"))
        except ValueError as error:
            raise CorruptRecord(f"{path}, line {number} is corrupt: {error}; restore it from a copy") from None
        if line.get("v") != SCHEMA_VERSION:
            raise UsageError(f"{path}, line {number} has v {line.get('v')!r}; this version reads {SCHEMA_VERSION}")
        if line.get("seq") != number - 1:
            raise CorruptRecord(
                f"{path}, line {number} has seq {line.get('seq')!r} instead of {number - 1}: lines were removed, "
                "added or moved; restore it from a copy"
            )
        lines.append(line)
        whole += len(raw)
    return lines, whole


def read_run(folder: Path) -> Run:
    """Read and check a run folder. A torn last line is left out; where a key has several lines, the last one counts.

    UsageError: not a run folder, no samples file, unknown schema. CorruptRecord: a damaged file, or a line of a sample
    or method that `run.json` does not list.
    """
    folder = Path(folder)
    meta, path = read_meta(folder), folder / SAMPLES_FILE
    lines, whole = _read_lines(path)
    known = {(suite["name"], sample["sample_id"]) for suite in meta["suites"] for sample in suite["samples"]}
    labels = {method["label"] for method in meta["methods"]}
    latest: dict[tuple[Any, ...], dict[str, Any]] = {}
    for number, line in enumerate(lines, start=1):
        key = (line.get("suite"), line.get("sample_id"), line.get("method"), line.get("repeat"))
        if key[:2] not in known or key[2] not in labels:
            raise CorruptRecord(f"{path}, line {number} is of {key[:3]}, which {RUN_FILE} does not know")
        latest[key] = line
    kept = sorted(latest.values(), key=lambda line: line["seq"])
    attach(folder, meta["suites"])
    return Run(folder, meta, kept, torn=whole < path.stat().st_size)


def list_runs(results_dir: Path) -> list[Path]:
    """The run folders in a results folder, newest first; those whose `run.json` cannot be read come last."""
    if not Path(results_dir).is_dir():
        return []

    def started(folder: Path) -> tuple[str, str]:
        try:
            return str(read_meta(folder).get("started_at") or ""), folder.name
        except BenchError:
            return "", folder.name

    # A sweep over batch sizes is a folder of runs, so its runs lie one level deeper.
    folders = [path.parent for depth in ("*", "*/*") for path in Path(results_dir).glob(f"{depth}/{RUN_FILE}")]
    return sorted(folders, key=started, reverse=True)


# ------------------------------------------------------------------------------------------ writing


class RunWriter:
    """Writes one run folder, which it locks for itself. completed: the groups in which every method has a line."""

    def __init__(self, folder: Path, meta: dict[str, Any], lock: int, lines: list[dict[str, Any]]) -> None:
        self.folder, self.meta, self._lock = folder, meta, lock
        self._seq = len(lines)
        wanted = {method["label"] for method in meta["methods"]}
        seen: dict[Key, set[str]] = {}
        for line in lines:
            seen.setdefault((line["suite"], line["sample_id"], line["repeat"]), set()).add(line["method"])
        self.completed: set[Key] = {key for key, labels in seen.items() if labels >= wanted}
        write_atomically(folder / RUN_FILE, encode_document(meta))
        self._file = os.open(folder / SAMPLES_FILE, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
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
        return cls(folder, {"schema_version": SCHEMA_VERSION, **run}, lock, [])

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
            changed = differences(meta["config"], config) if config is not None else []
            detail = "; ".join(changed) or f"config_sha256: {meta.get('config_sha256')} -> {config_sha256}"
            raise UsageError(
                f"{folder} was made with another configuration ({detail}); resume with the same one, or start anew"
            )
        lock = lock_folder(folder)
        try:
            path = folder / SAMPLES_FILE
            path.touch()
            lines, whole = _read_lines(path)
            with open(path, "r+b") as file:
                file.seek(whole)
                if torn := file.read():
                    with open(folder / TORN_FILE, "ab") as aside:
                        aside.write(torn)
                        os.fsync(aside.fileno())
                    file.truncate(whole)
                    os.fsync(file.fileno())
            return cls(folder, {**meta, "status": "started", "completed_at": None, "error": None}, lock, lines)
        except BaseException:
            os.close(lock)
            raise

    def update(self, **fields: Any) -> None:
        """Replace fields of `run.json` by what is known only once the model is loaded.

        In a resumed run that has lines, UsageError if a field of `MACHINE` or of `generation` changes: a run must not
        mix two machines, two sets of weights or two ways of generating.
        """
        told = differences(self.meta, {**self.meta, **fields})
        changed = [d for d in told if d.split(":")[0] in MACHINE]
        ways = [d for d in told if d.startswith("generation.") and "generation" in self.meta]  # older records lack it
        if self._seq and (changed or ways):
            how, remedy = ("elsewhere", "there") if changed else ("with other generation settings", "with those")
            detail = "; ".join([*changed, *ways])
            raise UsageError(f"{self.folder} was measured {how} ({detail}); resume it {remedy}, or start anew")
        self.meta = {**self.meta, **fields}
        write_atomically(self.folder / RUN_FILE, encode_document(self.meta))

    def append(self, line: Mapping[str, Any]) -> None:
        """Add one line to the samples file and fsync it; `v`, `seq` and `crc32` are filled in here.

        WriteFailed if that fails. What was written of the line is then removed.
        """
        data = seal({"v": SCHEMA_VERSION, "seq": self._seq, **{k: v for k, v in line.items() if k not in ("v", "seq")}})
        start = os.fstat(self._file).st_size
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(self._file, rest) :]
            os.fsync(self._file)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, start)
            raise WriteFailed(
                f"cannot write to {self.folder / SAMPLES_FILE}: {error.strerror}; {self._seq} lines are kept, "
                "free space and go on with --resume"
            ) from error
        self._seq += 1

    def finish(self, status: str, **fields: Any) -> None:
        """Write the final `run.json` ("success", "interrupted" or "error", and any other fields) and close."""
        self.meta = {**self.meta, "status": status, "completed_at": now(), **fields}
        try:
            write_atomically(self.folder / RUN_FILE, encode_document(self.meta))
        finally:
            self.close()

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
        (self.folder / LOCK_FILE).unlink(missing_ok=True)
        os.close(self._lock)
        self._lock = -1

    def __enter__(self) -> "RunWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
