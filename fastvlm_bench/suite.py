"""Suites: samples in a fixed order, checked and hashed, from the embedded split or from the official files on disk.

One reader serves both, so what is tested on the embedded split is what reads the real data set. Nothing is fetched.
Images are opened here too, so that every method sees the same pixels. Pillow is imported when an image is opened.
"""

import hashlib
import os
import stat
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING

from fastvlm_bench import annotations
from fastvlm_bench.annotations import Document, Entry
from fastvlm_bench.errors import UsageError
from fastvlm_bench.suite_definition import (
    Definition,
    Split,
    describe_suites,
    read_definition,
    suite_names,
    suites_folder,
)

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Sample", "Suite", "check_images", "describe_suites", "load_suite", "open_image", "suite_names"]

DATA_VARIABLE = "FASTVLM_BENCH_DATA"
EMBEDDED_SOURCE = "embedded (rendered scenes)"
SHOWN = 5


@dataclass(frozen=True)
class Sample:
    """One image and prompt. references: reference captions, or for VQA the ten human answers."""

    sample_id: str
    image_id: str
    image_path: Path
    prompt: str
    references: tuple[str, ...]


@dataclass(frozen=True)
class Suite:
    """A set of samples in file order.

    source: "embedded (rendered scenes)", or the data folder as the user gave it. sha256: of the annotation files'
    bytes and of each sample's id, image name and image size in bytes, in order; not of the images' contents, so
    changed pixels in a file of the same size go unseen. note: what a reader of the numbers must know, or "".
    """

    name: str
    version: str
    kind: str
    split: str
    source: str
    prompt: str
    max_new_tokens: int
    metrics: tuple[str, ...]
    licence: str
    citation: str
    sha256: str
    samples: tuple[Sample, ...]
    note: str = ""


def load_suite(
    name: str, *, split: str | None = None, data: str | Path | None = None, limit: int | None = None
) -> Suite:
    """Read a suite, check it and hash it. UsageError for whatever is wrong with the names or the files.

    split: None is the suite's default, or with `data` the first split whose files are there. data: the folder of the
    real data set, else that of FASTVLM_BENCH_DATA. limit: the first so many samples, in the annotation file's order.
    """
    definition = read_definition(name)
    if limit is not None and limit < 1:
        raise UsageError(f"limit is {limit}; it must be at least 1, or left out for all samples")
    folder = data if data is not None else os.environ.get(DATA_VARIABLE) or None
    chosen = _choose_split(definition, split, folder)
    if chosen.root:
        if data is not None:
            raise UsageError(f"split '{chosen.name}' of suite '{name}' is embedded and reads no --data; leave one out")
        root, source = suites_folder() / chosen.root, EMBEDDED_SOURCE
    elif folder is None:
        raise UsageError(f"split '{chosen.name}' of suite '{name}' is not embedded: say where it lies with --data DIR "
                         f"or {DATA_VARIABLE}; DIR holds {_layout(chosen)}")  # fmt: skip
    else:
        root, source = _data_folder(folder), str(folder)
    digest = hashlib.sha256()
    entries = _read_entries(chosen, _find_files(root, chosen), digest.update)[:limit]
    images, sizes = _find_images(root, chosen, entries, f"{name}/{chosen.name}")
    for entry in entries:
        digest.update(f"{entry.sample_id}\0{entry.image_name}\0{sizes[entry.image_name]}\n".encode())
    samples = tuple(
        Sample(e.sample_id, e.image_id, images[e.image_name], definition.prompt.replace("{question}", e.question),
               e.references) for e in entries
    )  # fmt: skip
    return Suite(
        name, definition.version, definition.kind, chosen.name, source, definition.prompt, definition.max_new_tokens,
        definition.metrics, chosen.licence or definition.licence, chosen.citation or definition.citation,
        digest.hexdigest(), samples, chosen.note,
    )  # fmt: skip


# ------------------------------------------------------------------------------------------ finding files


def _choose_split(definition: Definition, name: str | None, folder: str | Path | None) -> Split:
    if name is not None:
        return definition.split(name)
    if folder is None:
        return definition.split(definition.default_split)
    root, real = _data_folder(folder), [split for split in definition.splits.values() if not split.root]
    found = [split for split in real if None not in _candidates(root, split).values()]
    if not found:
        looked_for = "; ".join(f"{split.name}: {_layout(split)}" for split in real)
        raise UsageError(f"no split of suite '{definition.name}' under {folder}; looked for {looked_for}; "
                         "correct the folder, or use --split embedded without --data")  # fmt: skip
    with_images = [split for split in found if any(path.is_dir() for path in _image_folders(root, split))]
    return (with_images or found)[0]


def _data_folder(folder: str | Path) -> Path:
    path = Path(folder).expanduser()
    if not path.is_dir():
        state = "is not a folder" if path.exists() else "does not exist"
        raise UsageError(f"data folder {folder} {state}; give the folder that holds the official files")
    return path


def _layout(split: Split) -> str:
    """The official files of a split, in words."""
    return f"{', '.join(f'annotations/{name}' for name in split.files.values())} and {split.images}/"


def _candidates(root: Path, split: Split) -> dict[str, Path | None]:
    """Key -> the annotation file, in `annotations/` or directly in the folder; None if it is in neither."""
    return {
        key: next((path for path in (root / "annotations" / name, root / name) if path.is_file()), None)
        for key, name in split.files.items()
    }


def _find_files(root: Path, split: Split) -> dict[str, Path]:
    found = _candidates(root, split)
    missing = [split.files[key] for key, path in found.items() if path is None]
    if missing:
        raise UsageError(f"missing {' and '.join(missing)} in {root} and {root / 'annotations'}; split '{split.name}' "
                         f"needs {_layout(split)}")  # fmt: skip
    return {key: path for key, path in found.items() if path is not None}


def _read_entries(split: Split, files: dict[str, Path], hashed: Callable[[bytes], None]) -> list[Entry]:
    def read(key: str, layout: str) -> Document:
        document, raw = annotations.read_document(files[key], layout)
        hashed(raw)
        return document

    if split.format == "coco-captions":
        return annotations.read_coco_captions(read("annotations", annotations.COCO_LAYOUT))
    if split.format == "coco-karpathy":
        document = read("annotations", annotations.KARPATHY_LAYOUT)
        return annotations.read_coco_karpathy(document, split.subset, split.images)
    questions = read("questions", annotations.QUESTIONS_LAYOUT)
    return annotations.read_vqav2(questions, read("annotations", annotations.ANSWERS_LAYOUT), split.image_name)


# ------------------------------------------------------------------------------------------ images


def _image_folders(root: Path, split: Split) -> list[Path]:
    return [root / split.images, root / "images" / split.images]


def _find_images(root: Path, split: Split, entries: list[Entry], where: str) -> tuple[dict[str, Path], dict[str, int]]:
    """Image name -> path, and -> size in bytes. UsageError for a name that leaves the folder, or for missing files."""
    folders = _image_folders(root, split)
    folder = next((path for path in folders if path.is_dir()), None)
    if folder is None:
        raise UsageError(f"images of {where} not found: looked for {' and '.join(map(str, folders))}")
    allowed = tuple(os.path.realpath(path) for path in (folder, root))
    paths: dict[str, Path] = {}
    sizes: dict[str, int] = {}
    missing: list[str] = []
    for entry in entries:
        name = entry.image_name
        if name in paths:
            continue
        paths[name] = path = folder / _checked_name(entry, where)
        try:
            link = stat.S_ISLNK(os.lstat(path).st_mode)
            if (link or os.sep in name) and not _within(path, allowed):
                raise UsageError(f"{where}: {entry.place} has image '{name}', a link that leads out of {root}; "
                                 "copy the image there")  # fmt: skip
            status = os.stat(path)
        except OSError:
            status = None
        if status is None or not stat.S_ISREG(status.st_mode):
            missing.append(name)
        else:
            sizes[name] = status.st_size
    if missing:
        raise UsageError(f"{len(missing)} of {len(paths)} images of {where} are missing in {folder}: {_some(missing)}; "
                         "add them, or use --limit to stay with the first samples")  # fmt: skip
    return paths, sizes


def _checked_name(entry: Entry, where: str) -> str:
    """The image name, if it can only mean a file below the image folder."""
    name = entry.image_name
    parts = PureWindowsPath(name)  # knows both kinds of slash and drive letters
    printable = name.isprintable() and bool(name.strip())
    if not printable or parts.anchor or ".." in parts.parts:
        raise UsageError(f"{where}: {entry.place} has image {name!r}, which is not a path below the image folder; "
                         "download the official annotation file again")  # fmt: skip
    return name


def _within(path: Path, allowed: tuple[str, ...]) -> bool:
    real = Path(os.path.realpath(path))
    return any(real.is_relative_to(folder) for folder in allowed)


def _some(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "")


def open_image(sample: Sample) -> "Image":
    """The sample's image as RGB, fully decoded. UsageError, with the reason, if it cannot be.

    As in lmms-eval: EXIF rotation is not applied, transparency is dropped, of an animation the first frame counts,
    and 16-bit greys are clipped, not scaled. Images of more than Pillow's limit (about 89 million pixels) are refused.
    """
    try:
        return _decode(sample.image_path)
    except UsageError as error:
        raise UsageError(f"image {sample.image_path} of sample {sample.sample_id}: {error}; replace it") from None


def check_images(suite: Suite) -> None:
    """Decode every image of a suite once; UsageError with the number of unreadable ones and the first five.

    A truncated JPEG shows only when it is decoded to its end, so this takes some milliseconds an image. Bytes flipped
    inside the compressed data often decode without complaint and are not found.
    """
    images = dict.fromkeys(sample.image_path for sample in suite.samples)
    broken: list[str] = []
    for path in images:
        try:
            _decode(path)
        except UsageError as error:
            broken.append(f"{path.name} ({error})")
    if broken:
        raise UsageError(f"{len(broken)} of {len(images)} images of {suite.name}/{suite.split} cannot be read: "
                         f"{_some(broken)}; replace them")  # fmt: skip


def _decode(path: Path) -> "Image":
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                return image.convert("RGB")  # decodes to the end of the file
    except UnidentifiedImageError:
        with open(path, "rb") as file:
            start = file.read(15)
        reason = f"not an image, it starts with {start!r}" if start else "an empty file"
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        reason = "too many pixels, perhaps a decompression bomb"
    except FileNotFoundError:
        reason = "the file is gone"
    except Exception as error:  # decoders fail in many ways: OSError, SyntaxError, ValueError, struct.error, zlib.error
        reason = f"damaged, {str(error).splitlines()[0] if str(error) else type(error).__name__}"
    raise UsageError(reason)
