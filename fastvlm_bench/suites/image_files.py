"""Opens an image file: of the kinds that data sets have, up to a number of pixels, to its last byte.

Pillow also knows kinds that start programs (a file that begins with %!PS runs Ghostscript) or follow other files; of a
data set that somebody else made, neither is wanted.
"""

import contextlib
import hashlib
import io
import os
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from fastvlm_bench.errors import UsageError
from fastvlm_bench.visible import waited

if TYPE_CHECKING:
    from PIL.Image import Image

IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "JPEG2000", "AVIF")
"""As Pillow names them. MPO, a kind of JPEG, comes with it."""
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".jp2", ".avif")
"""Names under which such files are looked for in a folder; what lies in a file is told by its content."""
MOST_PIXELS = "FASTVLM_BENCH_MAX_IMAGE_PIXELS"
"""Set by --max-image-pixels, and inherited by every process of a run. Without it, Pillow's own limit holds."""

MOST_THREADS, AT_ONCE = 8, 4096


def allow_pixels(most: int | None) -> int | None:
    """Allow images of so many pixels, here and in the processes that this one starts. None changes nothing.

    UsageError for a number below 1.
    """
    if most is not None:
        if most < 1:
            raise UsageError(f"--max-image-pixels is {most}; it must be at least 1")
        os.environ[MOST_PIXELS] = str(most)
    return most


def images_below(folder: Path) -> list[Path]:
    """The files with an image's name in a folder and all below it, sorted; through links, but no folder twice."""
    found, seen = [], set()
    for place, folders, names in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(place)) in seen:
            folders.clear()
            continue
        seen.add(real)
        found += [Path(place, name) for name in names if Path(name).suffix.lower() in IMAGE_SUFFIXES]
    return sorted(found)


@lru_cache
def _kinds() -> tuple[str, ...]:
    """Those of IMAGE_FORMATS that this Pillow was built with."""
    from PIL import Image

    Image.init()
    return tuple(kind for kind in IMAGE_FORMATS if kind in Image.OPEN)


def image_size(path: Path) -> tuple[int, int]:
    """Width and height in pixels, of which the header alone is read; (0, 0) for what is no image."""
    from PIL import Image

    try:
        with Image.open(path, formats=_kinds()) as image:
            return image.size
    except (OSError, ValueError, Image.DecompressionBombError):
        return 0, 0


def decode_image(path: Path) -> "Image":
    """The image as RGB, fully decoded. UsageError with the reason alone if it cannot be."""
    with _warnings_are_errors():
        return _decoded(path, path)


def faults(paths: Sequence[Path], what: str) -> Iterator[str | None]:
    """For each image why it cannot be decoded, or None; `sha256_of` knows its digest then. what: said by the bar.

    Each file is read once. Decoders release Python's lock, so there is a thread for each CPU.
    """
    workers = min(MOST_THREADS, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1)
    with _warnings_are_errors(), ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(paths), AT_ONCE):  # so that an interruption waits for few
            part = paths[start : start + AT_ONCE]
            yield from waited(pool.map(_fault, part), len(part), what)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, which is read again only where it may have changed since."""
    found = _DIGESTS.get(path)
    if found is None or found[0] != _stamp(path):
        stamp = _stamp(path)
        found = _DIGESTS[path] = stamp, hashlib.sha256(path.read_bytes()).hexdigest()
    return found[1]


_DIGESTS: dict[Path, tuple[tuple[int, ...], str]] = {}


def _stamp(path: Path) -> tuple[int, ...]:
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _fault(path: Path) -> str | None:
    try:
        stamp, data = _stamp(path), path.read_bytes()
        _DIGESTS[path] = stamp, hashlib.sha256(data).hexdigest()
        _decoded(path, io.BytesIO(data))
    except FileNotFoundError:
        return "the file is gone"
    except (UsageError, OSError) as error:
        return str(error)
    return None


@contextlib.contextmanager
def _warnings_are_errors() -> Iterator[None]:
    """Of images that may be bombs: Pillow refuses twice its limit. It holds for all threads."""
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def _decoded(path: Path, source: Path | io.BytesIO) -> "Image":
    from PIL import Image, UnidentifiedImageError

    if given := os.environ.get(MOST_PIXELS):
        if not given.isdecimal() or int(given) < 1:
            raise UsageError(f"{MOST_PIXELS}={given} is no number of pixels")
        Image.MAX_IMAGE_PIXELS = int(given)
    try:
        with Image.open(source, formats=_kinds()) as image:
            return image.convert("RGB")  # decodes to the end of the file
    except UnidentifiedImageError:
        with open(path, "rb") as file:
            start = file.read(15)
        kinds = f"not an image of a kind that is read ({', '.join(_kinds())})"
        reason = f"{kinds}; it starts with {start!r}" if start else "an empty file"
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        reason = (f"more than {Image.MAX_IMAGE_PIXELS:,} pixels, perhaps a decompression bomb; if not, "
                  "--max-image-pixels N allows them")  # fmt: skip
    except FileNotFoundError:
        reason = "the file is gone"
    except Exception as error:  # decoders fail in many ways: OSError, SyntaxError, ValueError, struct.error, zlib.error
        reason = f"damaged, {str(error).splitlines()[0] if str(error) else type(error).__name__}"
    raise UsageError(reason)
