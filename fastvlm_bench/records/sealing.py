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
ENDED = ("success", "interrupted", "error")
"""Values of `status` after which nothing is added to the samples file, until the run is resumed."""


def sealed(meta: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """`run.json` with a seal of its own fields and of the files beside it, as they are now. OSError."""
    plain = json.loads(json.dumps(finite({**_unsealed(meta), SEALED: True})))
    return {**plain, SEAL: {"sha256": _sha256(_text(plain)), "fields": dict(_fields(plain)), "files": _files(folder)}}


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
    own = _unsealed(meta)
    now = dict(_fields(own))
    changed = [name for name in {**fields, **now} if fields.get(name) != now.get(name)]
    if changed:
        do = "do" if len(changed) > 1 else "does"
        raise _altered(path, f"{', '.join(sorted(changed)[:8])} {do} not fit the seal")
    if whole != _sha256(_text(own)) or not all(isinstance(n, int) and isinstance(d, str) for n, d in files.values()):
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
            data = path.read_bytes()
        except FileNotFoundError:
            if not size:
                continue
            raise CorruptRecord(f"{path} is gone, and {folder / 'run.json'} sealed it; {RESTORE}") from None
        except OSError as error:
            raise CorruptRecord(f"cannot read {path}: {error.strerror}") from None
        own = whole if name == SAMPLES_FILE else len(data)
        other_size = own < size or (own > size and meta["status"] in ENDED)
        if name == SAMPLES_FILE and other_size and (there := data[:own].count(b"\n")) != kept["lines"]:
            raise _altered(path, f"it has {there} lines, and run.json sealed {kept['lines']}")
        if other_size or _sha256(data[:size]) != kept["sha256"]:
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


def _fields(meta: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The name of each part of `run.json`, with a short digest of it, which is there to name what was altered."""
    for key, value in meta.items():
        if key == "suites" and isinstance(value, list) and all(isinstance(suite, dict) for suite in value):
            for place, suite in enumerate(value):
                for part, own in suite.items():
                    yield f"suites.{suite.get('name', place)}.{part}", _crc(own)
        elif key in ("config", "model", "environment") and isinstance(value, dict):
            for part, own in value.items():
                yield f"{key}.{part}", _crc(own)
        else:
            yield key, _crc(value)


def _files(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in (SAMPLES_FILE, FREQUENCIES_FILE):
        if not (folder / name).is_file():
            continue
        data = (folder / name).read_bytes()
        if name == SAMPLES_FILE:  # half a line at its end is no part of it
            data = data[: data.rfind(b"\n") + 1]
        lines = {"lines": data.count(b"\n")} if name == SAMPLES_FILE else {}
        found[name] = {"bytes": len(data), **lines, "sha256": _sha256(data)}
    return found


def _text(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode("ascii")


def _crc(value: Any) -> str:
    return f"{zlib.crc32(_text(value)):08x}"


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
