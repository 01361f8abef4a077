"""Small pictures of a run's samples for a page, read from the suite where its files are, if they are unchanged.

A report asks no network: of a data set of the Hub, only what is on this machine is shown.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastvlm_bench.errors import BenchError
from fastvlm_bench.records.record import Run
from fastvlm_bench.suites.suite import Suite, images_sha256, load_suite, open_images

SIDE, QUALITY = 176, 62
"""Longest side in pixels, and the quality of the compression: about 4 kB a photograph."""


@dataclass(frozen=True)
class Thumbnails:
    """pictures: data URIs by a key. of_sample: which key a sample has. reason: why some or all are not there, or ""."""

    pictures: Mapping[str, str] = field(default_factory=dict)
    of_sample: Mapping[str, str] = field(default_factory=dict)
    reason: str = ""


def thumbnails_of(run: Run, suite: Mapping[str, Any], sample_ids: Sequence[str]) -> Thumbnails:
    """The thumbnails of these samples of a suite of a run. What prevents them is said, and never raised."""
    try:
        found = _suite_of(run, suite)
    except BenchError as error:
        return Thumbnails(reason=f"Images are not shown: {error}.")
    if (known := suite.get("images_sha256")) and known != images_sha256(found):
        return Thumbnails(reason=f"Images are not shown: those of {found.source} are not the ones that were measured.")
    samples = {sample.sample_id: sample for sample in found.samples}
    pictures: dict[str, str] = {}
    of_sample: dict[str, str] = {}
    unread = 0
    for name in sample_ids:
        if (sample := samples.get(name)) is None:
            unread += 1
            continue
        key = "\0".join(map(str, sample.image_paths))
        if key not in pictures:
            try:
                pictures[key] = _data_uri(open_images(sample))
            except BenchError:
                unread += 1
                continue
        of_sample[name] = key
    lacking = f"{unread} images are not shown: the suite here does not have them." if unread else ""
    return Thumbnails(pictures, of_sample, lacking)


def _suite_of(run: Run, suite: Mapping[str, Any]) -> Suite:
    config = run.meta["config"]
    embedded = str(suite.get("source", "")).startswith("embedded")
    return load_suite(suite["name"], split=suite["split"], data=None if embedded else config.get("data"),
                      limit=config.get("limit"), offline=True, ranking=True)  # fmt: skip


def _data_uri(image: Any) -> str:
    """WebP, or JPEG where this Pillow has none. Several images stand side by side."""
    from PIL import Image, features

    small = image if isinstance(image, list) else [image]
    for one in small:
        one.thumbnail((SIDE, SIDE))
    sheet = Image.new("RGB", (sum(one.width for one in small), max(one.height for one in small)), "white")
    for place, one in enumerate(small):
        sheet.paste(one, (sum(other.width for other in small[:place]), 0))
    form = "WEBP" if features.check("webp") else "JPEG"
    stream = io.BytesIO()
    sheet.save(stream, form, quality=QUALITY)
    return f"data:image/{form.lower()};base64,{base64.b64encode(stream.getvalue()).decode()}"
