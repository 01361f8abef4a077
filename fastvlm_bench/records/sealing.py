"""The seal of a run folder: digests in `run.json` of all that its numbers are made of.

It finds what was altered by accident, by a bad disk or by hand, and names it. It is no signature: who alters a record
and seals it anew is not found out. Records of older versions have no seal.
"""

import hashlib
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from fastvlm_bench.errors import CorruptRecord
from fastvlm_bench.records.document_frequencies import FILE as FREQUENCIES_FILE
from fastvlm_bench.records.storage import finite

SEAL, SEALED = "seal", "sealed"
"""Keys of `run.json`. SEALED says that there is a seal, so that a seal whose key is damaged is missed."""
SAMPLES_FILE = "samples.jsonl"
PIECE_BYTES, PIECE_ITEMS = 1 << 20, 1000
"""So much of a long file or list is in memory at a time."""
ENDED = ("success", "interrupted", "error")
"""Values of `status` after which nothing is added to the samples file, until the run is resumed."""


class Digest:
    """Length, lines and SHA-256 of a file that only grows, so that none of it is read again."""

    def __init__(self) -> None:
        self.bytes, self.lines, self._sha256 = 0, 0, hashlib.sha256()

    def add(self, data: bytes) -> None:
        """Take in what was written at the end of the file."""
        self.bytes, self.lines = self.bytes + len(data), self.lines + data.count(b"\n")
        self._sha256.update(data)

    @classmethod
    def of(cls, path: Path, size: int) -> "Digest":
        """Of the first `size` bytes of a file. OSError."""
        found, left = cls(), size
        with open(path, "rb") as file:
            while left and (data := file.read(min(left, PIECE_BYTES))):
                found.add(data)
                left -= len(data)
        return found

    @property
    def sha256(self) -> str:
        return self._sha256.hexdigest()

    def entry(self) -> dict[str, Any]:
        """The entry of the samples file in the seal."""
        return {"bytes": self.bytes, "lines": self.lines, "sha256": self.sha256}


def sealed(meta: Mapping[str, Any], folder: Path, samples: Digest) -> dict[str, Any]:
    """`run.json` with a seal of its own fields and of the files beside it, as they are now. OSError.

    samples: the digest of the samples file. The entries of the suites' samples are not copied: they are texts and lists
    of texts.
    """
    plain = _plain({**_unsealed(meta), SEALED: True})
    whole, fields = _digests(plain)
    return {**plain, SEAL: {"sha256": whole, "fields": fields, "files": _files(folder, samples)}}


def _plain(meta: Mapping[str, Any]) -> dict[str, Any]:
    """The record as JSON would give it back."""
    lists = [(suite.get("samples") if isinstance(suite, Mapping) else None) for suite in meta.get("suites") or []]
    short = {**meta, "suites": [{**suite, "samples": None} if samples else suite
                                for suite, samples in zip(meta.get("suites") or [], lists, strict=True)]}  # fmt: skip
    plain: dict[str, Any] = json.loads(json.dumps(finite(short if "suites" in meta else meta)))
    for suite, samples in zip(plain.get("suites") or [], lists, strict=True):
        if samples:
            suite["samples"] = samples
    return plain


def is_sealed(meta: Mapping[str, Any]) -> bool:
    """Whether a record has a seal, whole or damaged."""
    return bool(meta.get(SEALED)) or SEAL in meta


def sealed_lines(meta: Mapping[str, Any]) -> int:
    """How many lines of the samples file are sealed; 0 without a seal."""
    return int(meta.get(SEAL, {}).get("files", {}).get(SAMPLES_FILE, {}).get("lines", 0))


def check_fields(path: Path, meta: Mapping[str, Any]) -> None:
    """CorruptRecord, which names the fields, where `run.json` is not as it was sealed. Nothing without a seal."""
    if not is_sealed(meta):
        return
    seal = meta.get(SEAL)
    try:
        whole, fields = seal["sha256"], dict(seal["fields"])  # type: ignore[index]
        files = {name: (each["bytes"], each["sha256"]) for name, each in seal["files"].items()}  # type: ignore[index]
    except (TypeError, KeyError, ValueError, AttributeError):
        raise _altered(path, "its seal is damaged") from None
    own_sha256, now = _digests(_unsealed(meta))
    changed = [name for name in {**fields, **now} if fields.get(name) != now.get(name)]
    if changed:
        do = "do" if len(changed) > 1 else "does"
        raise _altered(path, f"{', '.join(sorted(changed)[:8])} {do} not fit the seal")
    if whole != own_sha256 or not all(isinstance(n, int) and isinstance(d, str) for n, d in files.values()):
        raise _altered(path, "its seal is damaged")


def check_files(folder: Path, meta: Mapping[str, Any], whole: int) -> None:
    """CorruptRecord where a file of a sealed run is not as it was sealed: cut, longer, removed or with other content.

    whole: bytes of the whole lines of the samples file. A run that has not ended may have added lines.
    """
    if not is_sealed(meta):
        return
    for name, kept in meta[SEAL]["files"].items():
        if name == FREQUENCIES_FILE and meta["status"] not in ENDED:
            continue  # it is made of the lines, anew when the run ends, and run.json is sealed just after it
        path, size = folder / name, kept["bytes"]
        try:
            own = whole if name == SAMPLES_FILE and path.exists() else path.stat().st_size
            found = Digest.of(path, size)
        except FileNotFoundError:
            if not size:
                continue
            raise CorruptRecord(f"{path} is gone, and {folder / 'run.json'} sealed it; {RESTORE}") from None
        except OSError as error:
            raise CorruptRecord(f"cannot read {path}: {error.strerror}") from None
        other_size = own < size or (own > size and meta["status"] in ENDED)
        if name == SAMPLES_FILE and other_size and (there := Digest.of(path, own).lines) != kept["lines"]:
            raise _altered(path, f"it has {there} lines, and run.json sealed {kept['lines']}")
        if other_size or found.sha256 != kept["sha256"]:
            raise _altered(path, "its content is not what run.json sealed")


def digest_of_images(images: Iterable[tuple[str, str]]) -> str:
    """`images_sha256` of a suite: the SHA-256 over name and SHA-256 of each image, in the samples' order."""
    digest = hashlib.sha256()
    for name, content in images:
        digest.update(f"{name}\0{content}\n".encode())
    return digest.hexdigest()


RESTORE = "restore it from a copy"


def _altered(path: Path, what: str) -> CorruptRecord:
    return CorruptRecord(f"{path} was altered after it was written: {what}; {RESTORE}")


def _unsealed(meta: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in meta.items() if key != SEAL}


def _digests(meta: Mapping[str, Any]) -> tuple[str, dict[str, str]]:
    """The SHA-256 of `run.json`, and the name of each part of it with a CRC-32, which names what was altered.

    Both are of JSON with sorted keys and without spaces, made once and in pieces: the samples of a data set are long.
    """
    digest, fields = hashlib.sha256(), dict[str, str]()

    def part(name: str, value: Any) -> None:
        crc = 0
        for piece in _pieces(value):
            digest.update(piece)
            crc = zlib.crc32(piece, crc)
        fields[name] = f"{crc:08x}"

    def parts(prefix: str, entry: Mapping[str, Any]) -> None:
        digest.update(b"{")
        for place, key in enumerate(sorted(entry)):
            digest.update((b"," if place else b"") + _text(key) + b":")
            part(f"{prefix}.{key}", entry[key])
        digest.update(b"}")

    digest.update(b"{")
    for place, key in enumerate(sorted(meta)):
        value = meta[key]
        digest.update((b"," if place else b"") + _text(key) + b":")
        if key == "suites" and isinstance(value, list) and all(isinstance(suite, dict) for suite in value):
            digest.update(b"[")
            for number, suite in enumerate(value):
                digest.update(b"," if number else b"")
                parts(f"suites.{suite.get('name', number)}", suite)
            digest.update(b"]")
        elif key in ("config", "model", "environment") and isinstance(value, dict):
            parts(key, value)
        else:
            part(key, value)
    digest.update(b"}")
    return digest.hexdigest(), fields


def _pieces(value: Any) -> Iterator[bytes]:
    """The text of a value; of a long list in pieces."""
    if not isinstance(value, list) or len(value) <= PIECE_ITEMS:
        yield _text(value)
        return
    for start in range(0, len(value), PIECE_ITEMS):
        yield (b"," if start else b"[") + _text(value[start : start + PIECE_ITEMS])[1:-1]
    yield b"]"


def _files(folder: Path, samples: Digest) -> dict[str, Any]:
    found = {SAMPLES_FILE: samples.entry()} if (folder / SAMPLES_FILE).is_file() else {}
    if (folder / FREQUENCIES_FILE).is_file():
        own = Digest.of(folder / FREQUENCIES_FILE, (folder / FREQUENCIES_FILE).stat().st_size)
        found[FREQUENCIES_FILE] = {"bytes": own.bytes, "sha256": own.sha256}
    return found


def _text(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode("ascii")
