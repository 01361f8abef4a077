"""What `suites prepare` does: it downloads a suite's files from their official places.

No other code of this package downloads data, and this code runs only when the command is given.
"""

import hashlib
import shutil
import zipfile
from collections.abc import Callable
from fnmatch import fnmatch
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit
from urllib.request import Request, urlopen

from fastvlm_bench.errors import UsageError
from fastvlm_bench.suites.definition import Download, read_definition

CHUNK = 1 << 20
TIMEOUT_S = 30
Progress = Callable[[str, int, int | None], None]
"""Called with the file's name, the bytes that are here, and how many there will be (None: the server does not say)."""


def planned(name: str, data: Path, split: str | None = None) -> list[Download]:
    """The downloads that a suite (or one of its splits) still needs, unfinished ones included."""
    definition = read_definition(name)
    if split is not None:
        definition.split(split)
    wanted = [d for d in definition.downloads if split is None or not d.splits or split in d.splits]
    return [d for d in wanted if not (data / d.makes).exists() or _unfinished(d, data)]


def fetch(download: Download, data: Path, progress: Progress) -> None:
    """Bring one download to its place, going on where an earlier try stopped; a .zip is unpacked and removed.

    UsageError if the server fails, the file is too short or its checksum is wrong. It says what is kept for the next
    try.
    """
    kept, part = _kept(download, data), _part(download, data)
    kept.parent.mkdir(parents=True, exist_ok=True)
    if not kept.exists():
        _transfer(download.url, part, progress)
        _verify(download, part)
        part.replace(kept)
        _tag(part).unlink(missing_ok=True)
    if kept.suffix == ".zip":
        _unpack(download, kept, data / download.to)
        if not (data / download.makes).exists():
            raise UsageError(f"{download.url}: holds no {download.makes}; get it by hand and put it into {data}")
        kept.unlink()


def _unfinished(download: Download, data: Path) -> bool:
    kept = _kept(download, data)
    return _part(download, data).exists() or (kept.suffix == ".zip" and kept.exists())


def _kept(download: Download, data: Path) -> Path:
    name = unquote(PurePosixPath(urlsplit(download.url).path).name)
    return data / download.to / name if name.endswith(".zip") else data / download.makes


def _part(download: Download, data: Path) -> Path:
    kept = _kept(download, data)
    return kept.with_name(f"{kept.name}.part")


def _tag(part: Path) -> Path:
    """The file that keeps the server's ETag or date: an old beginning must not be joined to a changed file's rest."""
    return part.with_name(f"{part.name}.etag")


def _transfer(url: str, part: Path, progress: Progress) -> None:
    tag = _tag(part)
    have = part.stat().st_size if part.exists() and tag.exists() else 0
    headers = {"Range": f"bytes={have}-", "If-Range": tag.read_text()} if have else {}
    try:
        with urlopen(Request(url, headers=headers), timeout=TIMEOUT_S) as answer:
            if answer.status != 206:
                have = 0
            length = answer.headers.get("Content-Length")
            total = have + int(length) if length is not None else None
            if mark := answer.headers.get("ETag") or answer.headers.get("Last-Modified"):
                tag.write_text(mark)
            with open(part, "ab" if have else "wb") as file:
                progress(part.stem, have, total)
                while block := answer.read(CHUNK):
                    file.write(block)
                    have += len(block)
                    progress(part.stem, have, total)
    except HTTPError as error:
        if error.code == 416:  # no such range: the kept part is of no use, so the next try starts anew
            part.unlink(missing_ok=True)
            tag.unlink(missing_ok=True)
        raise UsageError(f"{url}: the server says {error.code} {error.reason}; try again later") from None
    except (URLError, OSError, HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise UsageError(f"{url}: {reason}; what came is kept, give the command again to go on") from None
    if total is not None and have < total:
        raise UsageError(f"{url}: ended after {have} of {total} bytes; what came is kept, give the command again")


def _verify(download: Download, part: Path) -> None:
    for kind, expected in (("sha256", download.sha256), ("md5", download.md5)):
        if not expected:
            continue
        with open(part, "rb") as file:
            found = hashlib.file_digest(file, kind).hexdigest()
        if found != expected:
            part.unlink()
            _tag(part).unlink(missing_ok=True)
            raise UsageError(f"{download.url}: {kind} is {found}, not {expected}; it was removed, try again")


def _unpack(download: Download, archive: Path, folder: Path) -> None:
    """Unpack the files that are not there in full. Each appears under its name only when it is whole."""
    try:
        with zipfile.ZipFile(archive) as packed:
            for member in packed.infolist():
                if member.is_dir() or (download.members and not fnmatch(member.filename, download.members)):
                    continue
                name = member.filename.removeprefix(f"{download.strip}/") if download.strip else member.filename
                target = folder / name
                if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or "\\" in name:
                    raise UsageError(f"{archive}: holds '{member.filename}', which leads out of {folder}; remove it")
                if target.is_file() and target.stat().st_size == member.file_size:
                    continue
                target.parent.mkdir(parents=True, exist_ok=True)
                half = target.with_name(f"{target.name}.half")
                with packed.open(member) as source, open(half, "wb") as file:
                    shutil.copyfileobj(source, file, CHUNK)
                half.replace(target)
    except (zipfile.BadZipFile, OSError) as error:
        if isinstance(error, zipfile.BadZipFile):
            archive.unlink()
        raise UsageError(f"{archive}: cannot be unpacked ({error}); give the command again") from None
