"""Single files out of a .zip on a server, by ranges: 20 images of COCO instead of 6 GB.

A zip's directory is at its end; with it, each member is a range of the file. A server that gives no ranges is told by
`probe`, and the whole archive is fetched then.
"""

import contextlib
import io
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from http.client import HTTPException
from lzma import LZMAError
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from fastvlm_bench.errors import UsageError

TIMEOUT_S = 30
PROBE_TIMEOUT_S = 5
BLOCK = 1 << 18
DAMAGED = (zipfile.BadZipFile, zlib.error, LZMAError, EOFError, ValueError, struct.error)
"""What `zipfile` and its decompressors raise for bytes that are no archive or a damaged one."""
REFUSED = (NotImplementedError, RuntimeError)
"""What it raises for an archive that it cannot read: encrypted, or packed in a way it does not know."""


@dataclass(frozen=True)
class Remote:
    """What a server says of a file: its bytes (None: it does not say), and whether it gives ranges of it.

    answered: whether it said anything at all, be it that it does not have the file.
    """

    size: int | None = None
    ranges: bool = False
    answered: bool = True


def probe(url: str) -> Remote:
    """Ask for the size of a file without fetching it."""
    try:
        with urlopen(Request(url, method="HEAD"), timeout=PROBE_TIMEOUT_S) as answer:
            size = length_of(answer)
            return Remote(size, size is not None and answer.headers.get("Accept-Ranges", "").lower() == "bytes")
    except (HTTPError, ValueError):
        return Remote()
    except (OSError, HTTPException):  # URLError is an OSError: no connection, or no answer in time
        return Remote(answered=False)


def probe_part(url: str, known: Remote) -> Remote:
    """Ask for the first byte where `probe` found no ranges: some servers refuse HEAD, or say nothing of ranges in it.

    known: what `probe` found. The whole file is not read where the server sends that instead.
    """
    if known.ranges:
        return known
    try:
        with urlopen(Request(url, headers={"Range": "bytes=0-0"}), timeout=TIMEOUT_S) as answer:
            if answer.status != 206:
                return Remote(length_of(answer) or known.size)
            total = answer.headers.get("Content-Range", "").rpartition("/")[2]
            size = int(total) if total.isdecimal() and total.isascii() else known.size
            return Remote(size, size is not None)
    except (HTTPError, ValueError):
        return Remote(known.size)
    except (OSError, HTTPException):
        return known


def length_of(answer: Any) -> int | None:
    """The bytes that an answer has by its own word; None where it does not say, or says no number."""
    length = answer.headers.get("Content-Length") or ""
    return int(length) if length.isdecimal() and length.isascii() else None


def begins_at(answer: Any, at: int) -> bool:
    """Whether a part (HTTP 206) begins at this byte, if it says where it begins."""
    told = answer.headers.get("Content-Range")
    return told is None or re.match(rf"bytes\s+{at}-", told, re.IGNORECASE) is not None


class RangeFile(io.RawIOBase):
    """A file on a server that is read and sought like one on disk. fetched: called with the bytes of each answer."""

    def __init__(self, url: str, size: int, fetched: Callable[[int], None] = lambda _: None) -> None:
        self.url, self.size, self.fetched, self.at = url, size, fetched, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        at = offset + (0, self.at, self.size)[whence]
        if at < 0:
            raise ValueError("it points before its own beginning")  # as a file on disk does; a damaged directory can
        self.at = at
        return at

    def readinto(self, buffer: "memoryview | bytearray") -> int:  # type: ignore[override]
        count = min(len(buffer), self.size - self.at)
        if count <= 0:
            return 0
        wanted = f"bytes={self.at}-{self.at + count - 1}"
        try:
            with urlopen(Request(self.url, headers={"Range": wanted}), timeout=TIMEOUT_S) as answer:
                if answer.status != 206:
                    raise UsageError(f"{self.url}: the server stopped giving parts of the file; try again later")
                if not begins_at(answer, self.at):
                    raise UsageError(f"{self.url}: the server gave another part than the one that was asked for; get "
                                     "the file by hand")  # fmt: skip
                content = answer.read(count + 1)
        except (URLError, OSError, HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            raise UsageError(f"{self.url}: {reason}; what came is kept, give the command again to go on") from None
        if len(content) > count:
            raise UsageError(f"{self.url}: the server gave more than the {count} bytes that were asked for; get the "
                             "file by hand")  # fmt: skip
        buffer[: len(content)] = content
        self.at += len(content)
        self.fetched(len(content))
        return len(content)


def open_remote(url: str, size: int, fetched: Callable[[int], None] = lambda _: None) -> zipfile.ZipFile:
    """The archive, of which only the directory has been read. UsageError if it is no zip."""
    with readable(url, "is no zip archive", "get it by hand"):
        return zipfile.ZipFile(io.BufferedReader(RangeFile(url, size, fetched), BLOCK))


@contextlib.contextmanager
def readable(source: str | Path, problem: str, remedy: str) -> Iterator[None]:
    """UsageError in one line for an archive that cannot be read. problem, remedy: where it is damaged."""
    try:
        yield
    except REFUSED as error:  # before the others: such an archive is whole, and the same again when it is fetched anew
        reason = " ".join(str(error).split())
        raise UsageError(f"{source}: cannot be unpacked here ({reason}); get it and unpack it by hand") from None
    except DAMAGED as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UsageError(f"{source}: {problem} ({reason}); {remedy}") from None


def packed_bytes(members: Iterable[zipfile.ZipInfo]) -> int:
    """How many bytes these members take within the archive."""
    return sum(member.compress_size for member in members)
