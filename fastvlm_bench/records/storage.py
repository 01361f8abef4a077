"""Files that survive a crash: sealed JSON lines, files replaced as a whole, one writer per folder.

Also the differences between two configurations, field by field. `record` is built on it.
"""

import contextlib
import json
import math
import os
import re
import shutil
import sys
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from fastvlm_bench.errors import UsageError, WriteFailed

LOCK_FILE = ".lock"
STANDARD_OUTPUT = Path("-")
"""What a user names to have a file printed."""
BOTH_PRINTED = "--json and --csv - both go to the standard output; give --csv a file"
_TEMPORARY = re.compile(r"\..+\.[0-9]+\.tmp")
"""Names of the temporary files of `write_atomically`, by process id. A user's own hidden files must not match."""
_LONG = re.compile(rb"[:\[,\s]-?[0-9]{19}")
"""The beginning of an integer that may have more than 64 bits."""
_SEAL = re.compile(rb',"crc32":"([0-9a-f]{8})"\}$')
_SEAL_BYTES = len(b',"crc32":"00000000"}')


def finite(value: Any) -> Any:
    """The value with NaN and infinities as None, since JSON has no such numbers, and with paths as text."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def seal(line: Mapping[str, Any]) -> bytes:
    """The bytes of a line: ASCII JSON with its CRC-32 as the last key, and a line feed."""
    body = {key: value for key, value in line.items() if key != "crc32"}
    raw = json.dumps(finite(body), allow_nan=False, separators=(",", ":")).encode("ascii")
    return raw[:-1] + b',"crc32":"%08x"}\n' % zlib.crc32(raw)


def parse(raw: bytes) -> Any:
    """What `json` reads, mostly by orjson, which takes a third of the time. ValueError as `json` raises it."""
    return json.loads(raw) if _LONG.search(raw) else _parse_short(raw)


def _parse_short(raw: bytes) -> Any:
    """The same where no integer has more than 64 bits: orjson makes floats of those. Some texts it refuses."""
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:
        return json.loads(raw)


def unseal(raw: bytes) -> dict[str, Any]:
    """The line of these bytes (without line feed). ValueError if it is not JSON or its CRC does not match."""
    line = _parse_short(raw)
    found = _SEAL.match(raw, max(0, len(raw) - _SEAL_BYTES))
    if not isinstance(line, dict) or found is None:
        raise ValueError("it is not an object that ends in its crc32")
    if zlib.crc32(b"}", zlib.crc32(memoryview(raw)[: found.start()])) != int(found[1], 16):
        raise ValueError("its crc32 does not match")
    return line


def write_atomically(path: Path, data: bytes | Iterable[bytes]) -> None:
    """Replace a file as a whole: temporary file in the same folder, fsync, rename, fsync of the folder.

    data: in one piece or in several. WriteFailed if that fails. The old file then stands as it was. A link that
    somebody laid under the temporary file's name is removed, not followed.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.unlink(missing_ok=True)
        with open(temporary, "xb") as file:
            file.writelines([data] if isinstance(data, bytes) else data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise _failed(path, error) from error
    sync_folder(path.parent)


def write_output(path: Path, data: bytes | Iterable[bytes]) -> None:
    """Write a file that the user named. WriteFailed if that fails.

    A plain file is replaced as a whole, also where a link leads to it. What is none is written through: a pipe,
    a terminal, /dev/null, and "-" is the standard output. Replaced by a file, a device would be lost to all programs.
    """
    pieces = [data] if isinstance(data, bytes) else data
    try:
        if path == STANDARD_OUTPUT:
            sys.stdout.flush()
            for piece in pieces:
                sys.stdout.buffer.write(piece)
            sys.stdout.flush()
        elif is_special(path):
            with open(path, "wb", buffering=0) as stream:
                for piece in pieces:
                    left = memoryview(piece)
                    while left:
                        left = left[stream.write(left) :]
        else:
            write_atomically(path.resolve(), pieces)
    except OSError as error:
        raise _failed(path, error) from error


def is_special(path: Path) -> bool:
    """Whether it exists and is neither a plain file nor a folder: a device, a pipe, or a link to one."""
    return path.exists() and not path.is_file() and not path.is_dir()


def _failed(path: Path, error: OSError) -> WriteFailed:
    name = "the standard output" if path == STANDARD_OUTPUT else path
    return WriteFailed(f"cannot write {name}: {error.strerror}; free space or make it writable")


def check_target_file(path: Path, option: str) -> None:
    """UsageError, before anything is measured, if the file that `option` names could not be written afterwards."""
    if path == STANDARD_OUTPUT:
        return
    if path.is_dir():
        raise UsageError(f"{option} {path} is a folder; name a file in it")
    if not path.parent.is_dir():
        raise UsageError(f"{option} {path}: {path.parent} is not a folder; make it, or choose another")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise UsageError(f"{option} {path} may not be written; choose another")


def sync_folder(folder: Path) -> None:
    """fsync a folder, so that a file that was made or renamed in it is still there after a crash."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def encode_document(meta: Mapping[str, Any]) -> bytes:
    """The bytes of `run.json`: ASCII JSON, with NaN and infinities as null."""
    return (json.dumps(finite(meta), allow_nan=False, indent=1) + "\n").encode("ascii")


def encode_run(meta: Mapping[str, Any]) -> Iterator[bytes]:
    """The same in pieces, with each sample of a suite on a line of its own, for a data set has many."""
    lists = [suite.get("samples") or [] for suite in meta["suites"]]
    marks = [f"\0samples {place}" for place in range(len(lists))]
    short = [{**suite, "samples": mark} if samples else suite
             for suite, samples, mark in zip(meta["suites"], lists, marks, strict=True)]  # fmt: skip
    left = encode_document({**meta, "suites": short})
    for samples, mark in zip(lists, marks, strict=True):
        if samples:
            before, _, left = left.partition(json.dumps(mark).encode("ascii"))
            yield before + b"[\n"
            for place, sample in enumerate(samples):
                yield (b",\n    " if place else b"    ") + json.dumps(sample).encode("ascii")
            yield b"\n   ]"
    yield left


def now() -> str:
    """The time in UTC, ISO-8601, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings and sequences as {"a.b.0": leaf}, to compare two configurations field by field."""
    items: Sequence[tuple[Any, Any]] = []
    if isinstance(value, Mapping):
        items = list(value.items())
    elif isinstance(value, list | tuple):
        items = list(enumerate(value))
    if not items:
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, item in items:
        flat |= flatten(item, f"{prefix}.{key}" if prefix else str(key))
    return flat


def differences(old: Any, new: Any) -> list[str]:
    """ "field: old -> new" for each leaf that differs, as JSON writes it (so a tuple equals a list)."""
    before, after = flatten(finite(old)), flatten(finite(new))
    names = [*before, *(name for name in after if name not in before)]
    absent = "(absent)"
    return [
        f"{name}: {before.get(name, absent)} -> {after.get(name, absent)}"
        for name in names
        if before.get(name, absent) != after.get(name, absent)
    ]


def lock_folder(folder: Path) -> int:
    """Lock a folder for this process and return the descriptor of the lock file; closing it ends the lock.

    UsageError, naming the process, if another one holds the lock.
    """
    import fcntl  # POSIX only; reading results must work everywhere

    path = folder / LOCK_FILE
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            owner = os.read(descriptor, 32).decode("ascii", "replace").strip() or "unknown"
            os.close(descriptor)
            raise UsageError(f"{folder} is being written by process {owner}; wait for it or stop it") from None
        with contextlib.suppress(FileNotFoundError):
            # A writer that has just finished may have removed this very file: then lock its successor.
            if os.fstat(descriptor).st_ino == os.stat(path).st_ino:
                os.ftruncate(descriptor, 0)
                os.write(descriptor, b"%d\n" % os.getpid())
                return descriptor
        os.close(descriptor)


def lock_file(path: Path) -> int:
    """Open a file to read and append, made if it is missing, and lock it for this process. Returns the descriptor.

    It holds where the lock file of the folder has been removed. UsageError if another process has it.
    """
    import fcntl

    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise UsageError(f"{path.parent} is being written by another process; wait for it or stop it") from None
    return descriptor


def remove_temporaries(folder: Path) -> None:
    """Remove what an earlier writer left when it was killed within `write_atomically`: the folder must be locked."""
    for left in folder.iterdir():
        if not _TEMPORARY.fullmatch(left.name):
            continue
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)
