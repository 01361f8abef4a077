"""Suites: samples in a fixed order, checked and hashed, from the embedded split or from the official files on disk.

One reader serves both, so tests on the embedded splits test the code that reads the real data. Nothing is downloaded.
Images are opened here, too, so that every method sees the same pixels. Pillow is imported when an image is opened.
"""

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from fastvlm_bench.errors import UsageError
from fastvlm_bench.metrics import METRICS, choose_variants, java_metrics, tokenised
from fastvlm_bench.suites.annotations import Entry
from fastvlm_bench.suites.catalogue import suite_names
from fastvlm_bench.suites.definition import (
    DEFAULT_SET,
    describe_suites,
    read_definition,
)
from fastvlm_bench.suites.files import data_root, find_images, layout, odd_breaks, places_of, read_entries, some
from fastvlm_bench.suites.hub_data import HubData
from fastvlm_bench.suites.image_files import decode_image
from fastvlm_bench.suites.readers import PLACEHOLDERS
from fastvlm_bench.suites.tables import content_lines, read_table
from fastvlm_bench.suites.turns import by_shared_images, by_turn
from fastvlm_bench.suites.where import choose_split, official_files

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Sample", "Suite", "check_images", "describe_suites", "load_suite", "open_image", "open_images",
           "suite_names"]  # fmt: skip

DATA_VARIABLE = "FASTVLM_BENCH_DATA"
EMBEDDED_SOURCE = "embedded (rendered scenes)"
TURNS = "own answers, prefilled again"
"""What a later turn is asked after: the method's own earlier answers, as text. The whole prompt is prefilled again."""
PARTLY = "CIDEr-D weighs words by the samples of the files that --limit needed, not by the whole split"
PLACEHOLDER = re.compile(r"\{(" + "|".join(PLACEHOLDERS) + r")\}")


@dataclass(frozen=True)
class Sample:
    """One image and prompt. references: reference captions, or for VQA the ten human answers.

    group: the part of the data set that the official file puts it into (an answer type, a domain), or "".
    question: the data set's own text within the prompt, or "". options: the answers that are to be ranked, or ().
    more_images: the images that follow the first in the prompt.
    Of a sample of several turns each turn is a `Sample`. dialog: the id of the whole, "" where there is one turn. turn:
    its number, from 1. earlier: the prompts of the turns before, which the model's own answers follow. turns: the
    questions of all turns, () where the data has one question.
    place: where its annotation stands, "FILE: PLACE", for messages.
    """

    sample_id: str
    image_id: str
    image_path: Path
    prompt: str
    references: tuple[str, ...]
    group: str = ""
    question: str = ""
    options: tuple[str, ...] = ()
    turns: tuple[str, ...] = ()
    place: str = field(default="", compare=False)
    more_images: tuple[Path, ...] = ()
    dialog: str = ""
    turn: int = 1
    earlier: tuple[str, ...] = ()

    @property
    def image_paths(self) -> tuple[Path, ...]:
        """All of its images, in the order in which a model is shown them."""
        return (self.image_path, *self.more_images)


@dataclass(frozen=True)
class Suite:
    """A set of samples in file order.

    source: "embedded (rendered scenes)", the data folder as the user gave it, or the hub's data set with its commit.
    sha256: of the annotation files' bytes (of the samples' texts where they come from a table) and of each sample's id,
    image name and image size in bytes, in order; it does not see changed pixels in a file of the same size
    (`images_sha256` does). note: what a reader of the numbers must know, or "". prompt_set: whose
    prompt it is, "custom" for the user's own. variants: metric -> variant, for each metric that has any. documents:
    (group, references) of every sample, for CIDEr-D where `limit` left samples out; else (). document_images: the
    number of samples without the limit. oddities: warnings about odd references that do no harm here, to be printed
    before the model loads. turns: where samples have several, what a later one is asked after (`TURNS`); else "".
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
    prompt_set: str = DEFAULT_SET
    variants: Mapping[str, str] = field(default_factory=dict, hash=False)
    documents: tuple[tuple[str, tuple[str, ...]], ...] = ()
    document_images: int = 0
    results: str = ""
    oddities: tuple[str, ...] = ()
    turns: str = ""

    @property
    def openings(self) -> tuple[Sample, ...]:
        """The samples that need no earlier answer: the first turn of each."""
        return tuple(sample for sample in self.samples if sample.turn == 1)


def load_suite(
    name: str,
    *,
    split: str | None = None,
    data: str | Path | None = None,
    limit: int | None = None,
    offline: bool = False,
    prompt_set: str | None = None,
    prompt: str | None = None,
    variants: Mapping[str, str] | None = None,
    java: bool = False,
    metrics: Sequence[str] = (),
    ranking: bool = False,
) -> Suite:
    """Read a suite, check it and hash it. UsageError for whatever is wrong with the names or the files.

    split: None is the suite's default, or with `data` the first split whose files are there. data: the folder of the
    real data set (or the file of a `jsonl` suite), in its official layout or as parquet, or hf:OWNER/NAME[@REVISION];
    None takes FASTVLM_BENCH_DATA. limit: keep only the first so many samples, in the annotation file's order. offline:
    never ask the hub. prompt_set, prompt: as in `Definition.choose_prompt`. variants: metric ->
    variant, instead of the suite's own choice. java: add METEOR and SPICE to a suite that is scored by CIDEr-D.
    metrics: names of further metrics.
    ranking: accept a suite that ranks given answers, which most callers could not handle.
    """
    definition = read_definition(name)
    name = definition.name
    if limit is not None and limit < 1:
        raise UsageError(f"limit is {limit}; it must be at least 1, or left out for all samples")
    if definition.kind == "ranking" and not ranking:
        raise UsageError(f"suite '{name}' ranks given answers, and its references are numbers: only `run` and `score` "
                         f"take it; use {name}-gen, whose references are answers")  # fmt: skip
    chosen_set, template = definition.choose_prompt(prompt_set, prompt)
    folder = data if data is not None else os.environ.get(DATA_VARIABLE) or None
    place = choose_split(definition, split, folder, offline, limit is not None)
    chosen, files = place.split, place.files
    if chosen.root:
        if data is not None:
            raise UsageError(f"split '{chosen.name}' of suite '{name}' is embedded and reads no --data; leave one out")
        root, source = definition.folder / chosen.root, EMBEDDED_SOURCE
    elif folder is None:
        raise UsageError(f"split '{chosen.name}' of suite '{name}' is not embedded: say where it lies with --data DIR "
                         f"or {DATA_VARIABLE}; DIR holds {layout(chosen)}")  # fmt: skip
    else:
        source = files.label if files else str(folder)
    digest, notes = hashlib.sha256(), [chosen.note, files.note if files else ""]
    if files is not None and place.is_table:
        table = read_table(files, chosen, limit)
        whole, entries, images, root = table.whole, table.entries, table.images, Path(source)
        sizes = {image: path.stat().st_size for image, path in images.items()}
        for line in content_lines(entries):
            digest.update(line)
        if table.partly and "cider_d" in definition.metrics:
            notes.append(PARTLY)
    else:
        if isinstance(files, HubData):
            root = official_files(files, chosen, limit)
        elif not chosen.root:
            root = data_root(str(folder), [chosen])
        whole = tuple(read_entries(root, chosen, digest.update))
        entries = whole[:limit]
        images, sizes = find_images(root, chosen, entries, f"{name}/{chosen.name}")
    for entry in entries:
        for image in entry.image_names:
            digest.update(f"{entry.sample_id}\0{image}\0{sizes[image]}\n".encode())
    whole, entries = (tuple(by_turn(by_shared_images(own), definition.turns == 1)) for own in (whole, entries))
    places = places_of(root, chosen, entries)
    samples = tuple(
        Sample(e.sample_id, e.image_id, images[e.image_name], _rendered(template, e), e.references, e.group, e.question,
               e.options, e.turns, place, tuple(images[name] for name in e.image_names[1:]), e.dialog, e.turn,
               tuple(_rendered(template, replace(e, question=text)) for text in e.turns[: e.turn - 1]))
        for e, place in zip(entries, places, strict=True)
    )  # fmt: skip
    more = java_metrics() if java and "cider_d" in definition.metrics else ()
    wanted = tuple(dict.fromkeys([*definition.metrics, *more, *metrics]))
    if not any(entry.references for entry in entries):
        wanted = tuple(metric for metric in wanted if not METRICS[metric].needs_references)
    scored = wanted
    chosen_variants = choose_variants(scored, {**(definition.variants if scored else {}), **(variants or {})})
    weighs = len(entries) < len(whole) and "cider_d" in scored
    return Suite(
        name, definition.version, definition.kind, chosen.name, source, template, definition.max_new_tokens,
        scored, chosen.licence or definition.licence, chosen.citation or definition.citation,
        digest.hexdigest(), samples, "; ".join(filter(None, notes)), chosen_set, chosen_variants,
        tuple((e.group, e.references) for e in whole) if weighs else (), len(whole), definition.results,
        tuple(odd_breaks(places, entries)) if tokenised(scored) else (),
        TURNS if any(entry.dialog for entry in entries) else "",
    )  # fmt: skip


def _rendered(template: str, entry: Entry) -> str:
    """The template with every placeholder replaced in one pass, so that braces in the data are left alone."""
    values = {"question": entry.question, "Question": entry.question.capitalize(), **entry.fields}
    if lacking := [name for name in PLACEHOLDER.findall(template) if name not in values]:
        there = ", ".join(f"{{{name}}}" for name in values)
        raise UsageError(f"prompt {template!r} holds {{{lacking[0]}}}, which these samples do not have; use {there}")
    return PLACEHOLDER.sub(lambda match: values[match[1]], template)


def open_image(sample: Sample) -> "Image":
    """The sample's first image as RGB, fully decoded. UsageError, with the reason, if it cannot be.

    As in lmms-eval, EXIF rotation is not applied, transparency is dropped, an animation is its first frame, and 16-bit
    greys are clipped, not scaled.
    """
    return _opened(sample, sample.image_path)


def open_images(sample: Sample) -> "Image | list[Image]":
    """All images of a sample, each as `open_image` opens it: the image itself where there is one."""
    opened = [_opened(sample, path) for path in sample.image_paths]
    return opened[0] if len(opened) == 1 else opened


def _opened(sample: Sample, path: Path) -> "Image":
    try:
        return decode_image(path)
    except UsageError as error:
        where = f" ({sample.place})" if sample.place else ""
        raise UsageError(f"image {path} of sample {sample.sample_id}{where}: {error}; replace it") from None


def check_images(suite: Suite) -> None:
    """Decode every image of a suite once; UsageError with the number of unreadable ones and the first five.

    A truncated JPEG shows only when it is decoded to its end, so this takes some milliseconds per image. Bytes flipped
    inside the compressed data often decode without complaint and are not found.
    """
    images = {path: sample for sample in reversed(suite.samples) for path in reversed(sample.image_paths)}
    broken: list[str] = []
    first: Sample | None = None
    for path in list(images)[::-1]:
        try:
            decode_image(path)
        except UsageError as error:
            first = first or images[path]
            twins = sum(other.name == path.name for other in images) > 1  # ScienceQA's are all called image.png
            broken.append(f"{path.parent.name + '/' if twins else ''}{path.name} ({error})")
    if first is not None:
        where = f"; the first is {first.image_path}, that of {first.place}" if first.place else ""
        raise UsageError(f"{len(broken)} of {len(images)} images of {suite.name}/{suite.split} cannot be read: "
                         f"{some(broken)}{where}; replace them")  # fmt: skip


def images_sha256(suite: Suite) -> str:
    """SHA-256 over the name and the bytes of every image, in the samples' order: a changed image changes it.

    It also sees a changed file that keeps its length and still decodes, unlike `Suite.sha256` and `check_images`.
    """
    digest = hashlib.sha256()
    for path in dict.fromkeys(path for sample in suite.samples for path in sample.image_paths):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{path.name}\0{content}\n".encode())
    return digest.hexdigest()
