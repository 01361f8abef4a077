"""What `suites prepare` does: it downloads a suite's files from their official places.

No other code of this package downloads data, and this code runs only when the command is given.
"""

import hashlib
import shutil
import zipfile
from collections.abc import Callable, Collection, Iterator
from fnmatch import fnmatch
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit
from urllib.request import Request, urlopen

from fastvlm_bench.errors import UsageError
from fastvlm_bench.suites.definition import Download, Split, read_definition
from fastvlm_bench.suites.files import alternatives, read_entries
from fastvlm_bench.suites.remote_zip import (
    DAMAGED,
    Remote,
    begins_at,
    length_of,
    open_remote,
    packed_bytes,
    probe,
    readable,
)

CHUNK = 1 << 20
TIMEOUT_S = 30
Progress = Callable[[str, int, int | None], None]
"""Called with the file's name, the bytes that are here, and how many there will be (None: the server does not say)."""


FIRST_IMAGES = ".first-images-only"
"""A file in a folder that `--limit`, or an end midway, left incomplete: a later `prepare` fetches the rest."""
PART_WORTH_IT = 0.5
"""Members are fetched one by one where they are less than this share of the archive."""


def planned(name: str, data: Path, split: str | None = None) -> list[Download]:
    """The downloads that a suite (or one of its splits) still needs, unfinished ones included."""
    definition = read_definition(name)
    if split is not None:
        definition.split(split)
    wanted = [d for d in definition.downloads if split is None or not d.splits or split in d.splits]
    return [d for d in wanted if not (data / d.makes).exists() or _unfinished(d, data)]


def splits_of_images(download: Download, splits: Collection[Split]) -> list[Split]:
    """The splits whose images come in this archive; [] for other files."""
    folder = PurePosixPath(download.makes).name
    return [
        split for split in splits
        if download.url.endswith(".zip") and (not download.splits or split.name in download.splits)
        and folder in {PurePosixPath(name).name for name in alternatives(split.images)}
    ]  # fmt: skip


def first_images(splits: Collection[Split], data: Path, limit: int) -> list[str]:
    """The names of the images of the first samples of each split. The annotation files must be there."""
    found = [name for split in splits for entry in read_entries(data, split, lambda _: None)[:limit]
             for name in entry.image_names]  # fmt: skip
    return list(dict.fromkeys(found))


def fetch_members(download: Download, data: Path, progress: Progress, remote: Remote, names: Collection[str]) -> bool:
    """Bring single members of a .zip to their places, if the server gives parts of files and they are a small part.

    names: the ends of the members' names, as of images; empty for those that `members` of the download matches.
    False, with nothing fetched, where the whole archive must be fetched instead. Members that are here are kept.
    """
    if not remote.ranges or remote.size is None or not download.url.endswith(".zip"):
        return False
    if not names and not download.members:
        return False
    label = PurePosixPath(download.makes).name
    got = 0

    def count(fetched: int) -> None:
        nonlocal got
        got += fetched
        progress(label, got, total)

    total: int | None = None
    with open_remote(download.url, remote.size, count) as archive:
        wanted = [member for member in archive.infolist() if _matches(download, member.filename, names)]
        if not wanted or packed_bytes(wanted) > PART_WORTH_IT * remote.size:
            return False
        total = got + packed_bytes(wanted)
        mark = data / download.makes / FIRST_IMAGES
        if makes_folder := _makes_folder(download, wanted):  # until all members are there, the folder is no whole one
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.write_text("not complete: made by suites prepare --limit, or while it fetches\n")
        with readable(download.url, "a member came damaged", "give the command again"):
            _extract(download, archive, wanted, data / download.to, download.url)
        if makes_folder and not names:
            mark.unlink()
    if not (data / download.makes).exists():
        raise UsageError(f"{download.url}: holds no {download.makes}; get it by hand and put it into {data}")
    return True


def _makes_folder(download: Download, members: Collection[zipfile.ZipInfo]) -> bool:
    """Whether members come to lie below the place that a download makes, which is then a folder."""
    made = PurePosixPath(download.makes)
    return any(made in (PurePosixPath(download.to) / _own_name(download, member)).parents for member in members)


def _own_name(download: Download, member: zipfile.ZipInfo) -> str:
    """A member's name below `Download.to`."""
    return member.filename.removeprefix(f"{download.strip}/") if download.strip else member.filename


def _matches(download: Download, name: str, ends: Collection[str]) -> bool:
    if download.members and not fnmatch(name, download.members):
        return False
    parts = PurePosixPath(name).parts
    return not ends or any("/".join(parts[start:]) in ends for start in range(len(parts)))


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
        if (mark := data / download.makes / FIRST_IMAGES).is_file():
            mark.unlink()
        if not (data / download.makes).exists():
            raise UsageError(f"{download.url}: holds no {download.makes}; get it by hand and put it into {data}")
        kept.unlink()


def _unfinished(download: Download, data: Path) -> bool:
    kept = _kept(download, data)
    if (data / download.makes / FIRST_IMAGES).exists():
        return True
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
            elif not begins_at(answer, have):
                raise UsageError(f"{url}: the server gave another part than the rest that was asked for; remove {part} "
                                 "and give the command again")  # fmt: skip
            length = length_of(answer)
            total = have + length if length is not None else None
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
    with readable(archive, "cannot be unpacked", "it was removed, give the command again"):
        try:
            with zipfile.ZipFile(archive) as packed:
                own = [member for member in packed.infolist() if _matches(download, member.filename, ())]
                _extract(download, packed, own, folder, str(archive))
        except DAMAGED:
            archive.unlink()
            raise
        except OSError as error:
            raise UsageError(f"{archive}: cannot be read ({error.strerror or error}); give the command again") from None


def _extract(
    download: Download, packed: zipfile.ZipFile, members: Collection[zipfile.ZipInfo], folder: Path, source: str
) -> None:
    """Write members below a folder. source: the archive, for messages.

    UsageError for a name that leads out, and for a file that cannot be written; `readable` is for the rest.
    """
    for member in members:
        if member.is_dir():
            continue
        name = _own_name(download, member)
        target = folder / name
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or "\\" in name:
            raise UsageError(f"{source}: holds '{member.filename}', which leads out of {folder}; remove it")
        if target.is_file() and target.stat().st_size == member.file_size:
            continue
        half = target.with_name(f"{target.name}.half")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with packed.open(member) as content, open(half, "wb") as file:
                shutil.copyfileobj(content, file, CHUNK)
            half.replace(target)
        except OSError as error:
            if error.errno is None:  # bz2's way to say that data are damaged
                raise zipfile.BadZipFile(str(error)) from None
            raise UsageError(f"{target}: cannot be unpacked from {source} ({error.strerror or error}); give the "
                             "command again") from None  # fmt: skip


def whole_archive(download: Download, remote: Remote) -> str:
    """What to say before a whole archive is fetched although single members would do; "" where they can be had."""
    if remote.ranges:
        return ""
    why = "the server gives no parts" if remote.answered else "the server did not say whether it gives parts"
    return f"{download.url}: {why}: the whole archive ({in_words(remote.size)}) is fetched"


def in_words(size: int | None) -> str:
    """A number of bytes for people: "253 MB", "6.6 GB"."""
    if size is None:
        return "size unknown"
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= factor:
            return f"{size / factor:.3g} {unit}"
    return f"{size} bytes"


def sizes(downloads: Collection[Download]) -> Iterator[Remote]:
    """What the servers say of each download. A server that did not answer at all is not asked again."""
    silent: set[str] = set()
    for download in downloads:
        host = urlsplit(download.url).netloc
        remote = Remote(answered=False) if host in silent else probe(download.url)
        if not remote.answered:
            silent.add(host)
        yield remote
