"""The picture of `suites sheet`: some samples of each suite, each image with its question and what counts as right."""

import io
import textwrap
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastvlm_bench.errors import UsageError
from fastvlm_bench.records.storage import check_target_file, write_output
from fastvlm_bench.suites.suite import Sample, Suite, open_image

if TYPE_CHECKING:
    from PIL.Image import Image

COLUMNS = 2
CELL = (460, 128)
PICTURE, MARGIN, LINE = 112, 8, 15
LETTERS_A_LINE = 54
FORM_FEEDS = str.maketrans("\n\r\v\f\x85\u2028\u2029", " " * 7)


def one_an_image(suite: Suite, most: int) -> Suite:
    """The suite reduced to its first `most` images, with one sample each. UsageError if `most` is below 1."""
    if most < 1:
        raise UsageError(f"--limit is {most}; it must be at least 1")
    first = {sample.image_path: sample for sample in reversed(suite.samples)}
    samples = tuple(sample for sample in suite.samples if first[sample.image_path] is sample)
    return replace(suite, samples=samples[:most])


def draw_sheet(suites: Sequence[Suite], out: Path) -> int:
    """Draw the samples of the suites into one PNG. Returns its bytes. UsageError for an unreadable image.

    UsageError, too, for a path that cannot be a file; WriteFailed if the disk refuses it.

    Each sample shows its image, its question (captions have none), and as many references as fit.
    """
    from PIL import Image, ImageDraw

    check_target_file(out, "--out")
    heights = [LINE + 2 * MARGIN + CELL[1] * -(-len(suite.samples) // COLUMNS) for suite in suites]
    sheet = Image.new("RGB", (CELL[0] * COLUMNS, sum(heights)), "white")
    draw, font, top = ImageDraw.Draw(sheet), _font(), 0
    for suite, height in zip(suites, heights, strict=True):
        draw.rectangle((0, top, sheet.width, top + LINE + MARGIN), fill=(232, 236, 242))
        draw.text((MARGIN, top + MARGIN // 2), f"{suite.name}, {suite.split}: {suite.source}", fill="black", font=font)
        for index, sample in enumerate(suite.samples):
            x = index % COLUMNS * CELL[0] + MARGIN
            y = top + LINE + 2 * MARGIN + index // COLUMNS * CELL[1]
            sheet.paste(_fitted(open_image(sample)), (x, y))
            for number, (text, colour) in enumerate(_texts(suite, sample)):
                draw.text((x + PICTURE + MARGIN, y + number * LINE), text, fill=colour, font=font)
        top += height
    drawn = io.BytesIO()
    sheet.quantize(256, kmeans=1).save(drawn, "PNG", optimize=True)  # few colours: a third of the size
    write_output(out, drawn.getvalue())
    return len(drawn.getvalue())


def _font() -> Any:
    from PIL import ImageFont

    try:
        return ImageFont.load_default(size=12)
    except (TypeError, ImportError):  # Pillow before 10.1, or without FreeType
        return ImageFont.load_default()


def _fitted(image: "Image") -> "Image":
    scale = PICTURE / max(image.size)
    return image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))


def _texts(suite: Suite, sample: Sample) -> list[tuple[str, str]]:
    """The (line, colour) pairs of a sample's texts, as many as its cell holds."""
    lines: list[tuple[str, str]] = []
    if sample.question:
        lines += [(line, "black") for line in textwrap.wrap(_plain(sample.question), LETTERS_A_LINE)]
    for text in dict.fromkeys(sample.references):
        lines += [(line, "darkgreen") for line in textwrap.wrap(_plain(text), LETTERS_A_LINE, initial_indent="= ")]
    most = PICTURE // LINE
    return lines if len(lines) <= most else [*lines[: most - 1], ("...", "gray")]


def _plain(text: str) -> str:
    """The text on one line and in Latin-1: the font has no other scripts, and a lone surrogate would raise an error."""
    return text.translate(FORM_FEEDS).encode("latin-1", "replace").decode("latin-1")
