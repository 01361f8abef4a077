"""Single files out of a .zip on a server, by ranges: 20 images of COCO instead of 6 GB.

A zip's directory is at its end; with it, each member is a range of the file. A server that gives no ranges is told by
`probe`, and the whole archive is fetched then.
"""

import io
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from http.client import HTTPException
from urllib.error import URLError
from urllib.request import Request, urlopen

from fastvlm_bench.errors import UsageError

TIMEOUT_S = 30
PROBE_TIMEOUT_S = 5
BLOCK = 1 << 18


@dataclass(frozen=True)
class Remote:
    """What a server says of a file: its bytes (None: it does not say), and whether it gives ranges of it."""

    size: int | None = None
    ranges: bool = False


def probe(url: str) -> Remote:
    """Ask for the size of a file without fetching it. A server that does not answer tells nothing."""
    try:
        with urlopen(Request(url, method="HEAD"), timeout=PROBE_TIMEOUT_S) as answer:
            length = answer.headers.get("Content-Length")
            size = int(length) if length is not None and length.isdigit() else None
            return Remote(size, size is not None and answer.headers.get("Accept-Ranges", "").lower() == "bytes")
    except (URLError, OSError, HTTPException, ValueError):
        return Remote()


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
        self.at = offset + (0, self.at, self.size)[whence]
        return self.at

    def readinto(self, buffer: "memoryview | bytearray") -> int:  # type: ignore[override]
        count = min(len(buffer), self.size - self.at)
        if count <= 0:
            return 0
        wanted = f"bytes={self.at}-{self.at + count - 1}"
        try:
            with urlopen(Request(self.url, headers={"Range": wanted}), timeout=TIMEOUT_S) as answer:
                if answer.status != 206:
                    raise UsageError(f"{self.url}: the server stopped giving parts of the file; try again later")
                content = answer.read()
        except (URLError, OSError, HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            raise UsageError(f"{self.url}: {reason}; what came is kept, give the command again to go on") from None
        buffer[: len(content)] = content
        self.at += len(content)
        self.fetched(len(content))
        return len(content)


def open_remote(url: str, size: int, fetched: Callable[[int], None] = lambda _: None) -> zipfile.ZipFile:
    """The archive, of which only the directory has been read. UsageError if it is no zip."""
    try:
        return zipfile.ZipFile(io.BufferedReader(RangeFile(url, size, fetched), BLOCK))
    except zipfile.BadZipFile as error:
        raise UsageError(f"{url}: is no zip archive ({error}); get it by hand") from None


def packed_bytes(members: Iterable[zipfile.ZipInfo]) -> int:
    """How many bytes these members take within the archive."""
    return sum(member.compress_size for member in members)
