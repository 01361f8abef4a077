"""The samples that a draft is trained on: a suite's training split, or a folder of images with prompts."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from fastvlm_bench.errors import UsageError
from fastvlm_bench.suites.definition import read_definition
from fastvlm_bench.suites.image_files import IMAGE_SUFFIXES, images_below
from fastvlm_bench.suites.suite import Sample, load_suite, open_images

if TYPE_CHECKING:
    from PIL.Image import Image

TRAIN = "train"


@dataclass(frozen=True)
class TrainingSample:
    """One prompt and its image, or images. `open` returns the decoded image, or a list of them.

    references: the texts to score answers against; training on references takes the first.
    """

    sample_id: str
    image_id: str
    prompt: str
    open: Callable[[], "Image | list[Image]"]
    references: tuple[str, ...] = ()


def suite_samples(
    name: str,
    *,
    data: str | Path | None,
    split: str | None,
    prompt_set: str | None = None,
    prompt: str | None = None,
    offline: bool = False,
) -> list[TrainingSample]:
    """The samples of a suite's training split on disk (split None: `train`). UsageError if there is no such split.

    Of samples of several turns these are the first turns.
    """
    definition = read_definition(name)
    if split is None:
        if TRAIN not in definition.splits:
            there = [s.name for s in definition.splits.values() if not s.root]
            raise UsageError(f"suite '{name}' has no split '{TRAIN}': choose one of {', '.join(there)} with --split, "
                             "and do not report numbers on what you trained on")  # fmt: skip
        split = TRAIN
    suite = load_suite(name, split=split, data=data, offline=offline, prompt_set=prompt_set, prompt=prompt)
    return [training_sample(name, sample) for sample in suite.openings]


def training_sample(suite: str, sample: Sample) -> TrainingSample:
    """A suite's sample, with the suite's name before its ids."""
    key = f"{suite}/{sample.sample_id}"
    return TrainingSample(
        key, f"{suite}/{sample.image_id}", sample.prompt, partial(open_images, sample), sample.references
    )


def folder_samples(images: Path, prompts: Path) -> list[TrainingSample]:
    """Every image below a folder, each with one prompt: the lines of the file `prompts` take turns.

    UsageError where there is no image or no prompt.
    """
    if not images.is_dir():
        raise UsageError(f"--images {images} is not a folder; give one that holds images")
    try:
        lines = [line.strip() for line in prompts.read_text(encoding="utf-8-sig").split("\n") if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"--prompts {prompts} cannot be read ({error}); give a UTF-8 text, one prompt a line"
        ) from None
    found = images_below(images)
    if not found or not lines:
        what = f"no image ({', '.join(IMAGE_SUFFIXES)}) under {images}" if not found else f"no prompt in {prompts}"
        raise UsageError(f"{what}; there is nothing to train on")
    out = []
    for number, path in enumerate(found):
        key = path.relative_to(images).as_posix()
        sample = Sample(key, key, path, lines[number % len(lines)], ())
        out.append(training_sample(images.name, sample))
    return out


def hold_out(
    samples: Sequence[TrainingSample], count: int, seed: int
) -> tuple[list[TrainingSample], list[TrainingSample]]:
    """(training, held out). `count` samples are held out, whole images of them, so that no image is on both sides.

    UsageError if nothing would be left to train on.
    """
    images = sorted({sample.image_id for sample in samples})
    random.Random(seed).shuffle(images)
    by_image: dict[str, list[TrainingSample]] = {}
    for sample in samples:
        by_image.setdefault(sample.image_id, []).append(sample)
    held: list[TrainingSample] = []
    while images and len(held) < count:
        held += by_image.pop(images.pop())
    if not by_image:
        raise UsageError(f"{len(samples)} samples on {len(set(s.image_id for s in samples))} images leave nothing to "
                         f"train on after {count} are held out; give more data or a smaller --held-out")  # fmt: skip
    rest = [sample for sample in samples if sample.image_id in by_image]
    return rest, held[:count]
