"""Images: what cannot be decoded is found before a run, and everything else becomes the same RGB for all methods."""

import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from suites.official import MAKE
from typer.testing import CliRunner

from fastvlm_bench.cli.app import app
from fastvlm_bench.errors import UsageError
from fastvlm_bench.suites.suite import Sample, check_images, load_suite, open_image

FIRST = "val2014/COCO_val2014_000000000042.jpg"


def noise(size: tuple[int, int] = (64, 64)) -> Image.Image:
    """A picture that JPEG cannot make small."""
    return Image.frombytes("RGB", size, bytes((i * i * 7 + i * 13) % 256 for i in range(size[0] * size[1] * 3)))


def bomb() -> bytes:
    """A PNG whose header claims 40 000 x 40 000 pixels."""
    header = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 100))]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def sample(path: Path) -> Sample:
    return Sample("s7", "7", path, "", ())


def break_image(path: Path, fault: str) -> None:
    if fault == "zero bytes":
        path.write_bytes(b"")
    elif fault == "HTML":
        path.write_bytes(b"<!DOCTYPE html><html><body>404</body></html>")
    elif fault == "bomb":
        path.write_bytes(bomb())
    else:
        noise().save(path, "PNG" if fault == "truncated PNG" else "JPEG")
        os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize(("fault", "reason"), [
    ("zero bytes", "an empty file"), ("HTML", "it starts with b'<!DOCTYPE html>'"),
    ("truncated JPEG", "damaged, "), ("truncated PNG", "damaged, "), ("bomb", "perhaps a decompression bomb"),
])  # fmt: skip
def test_an_unreadable_image(data: Path, fault: str, reason: str) -> None:
    break_image(data / FIRST, fault)
    suite = load_suite("coco-caption", split="val2014", data=data)
    with pytest.raises(UsageError) as caught:
        check_images(suite)
    assert "1 of 3 images of coco-caption/val2014 cannot be read: COCO_val2014_000000000042.jpg (" in str(caught.value)
    assert reason in str(caught.value) and "\n" not in str(caught.value)
    assert f"that of {data / 'annotations' / 'captions_val2014.json'}: images[0]; replace them" in str(caught.value)
    with pytest.raises(UsageError, match="of sample 42 .*: images.0.*: .*; replace it") as one:
        open_image(suite.samples[0])
    assert reason in str(one.value)
    open_image(suite.samples[1])


def test_a_truncated_jpeg_passes_what_pillow_calls_verify(tmp_path: Path) -> None:
    """Why images are decoded to their end: the cheap check would let this one through."""
    break_image(tmp_path / "x.jpg", "truncated JPEG")
    with Image.open(tmp_path / "x.jpg") as image:
        image.verify()
    with pytest.raises(UsageError):
        open_image(sample(tmp_path / "x.jpg"))


def test_a_large_image_below_the_hard_limit_is_refused_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise().save(tmp_path / "x.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64 * 64 - 1)  # Pillow itself only warns up to twice this
    with pytest.raises(UsageError, match="more than 4,095 pixels.*--max-image-pixels"):
        open_image(sample(tmp_path / "x.png"))


def test_images_above_the_limit_are_read_where_they_are_allowed(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    monkeypatch.setenv("FASTVLM_BENCH_MAX_IMAGE_PIXELS", "")
    asked = ["suites", "check", "coco-caption", "--data", str(data)]
    refused = CliRunner().invoke(app, asked)
    assert refused.exit_code == 2 and "--max-image-pixels N allows them" in refused.stdout
    allowed = CliRunner().invoke(app, [*asked, "--max-image-pixels", "1000000"])
    assert "pixels" not in allowed.stdout
    few = CliRunner().invoke(app, [*asked, "--max-image-pixels", "0"])
    assert few.exit_code == 2 and "--max-image-pixels is 0; it must be at least 1" in few.stderr


@pytest.mark.parametrize("start", [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"%PDF-1.4\n", b"\xd7\xcd"])
def test_a_file_that_another_program_would_draw_is_no_image(tmp_path: Path, start: bytes) -> None:
    """Pillow itself opens the first kind, with Ghostscript."""
    (tmp_path / "x.jpg").write_bytes(start + bytes(100))
    with pytest.raises(UsageError, match="not an image of a kind that is read"):
        open_image(sample(tmp_path / "x.jpg"))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "MPO"])
def test_the_kinds_that_data_sets_have(tmp_path: Path, kind: str) -> None:
    several = {"save_all": True, "append_images": [noise()]} if kind == "MPO" else {}
    noise().save(tmp_path / "x.jpg", kind, **several)
    assert open_image(sample(tmp_path / "x.jpg")).size == (64, 64)


def test_an_image_that_is_gone_since_it_was_checked(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the file is gone"):
        open_image(sample(tmp_path / "x.png"))


def test_only_the_first_five_are_named_and_each_image_once(data: Path) -> None:
    for path in (data / "val2014").iterdir():
        path.write_bytes(b"")
    with pytest.raises(UsageError, match="3 of 3 images of vqav2/val2014"):
        check_images(load_suite("vqav2", data=data))


@pytest.mark.parametrize(("mode", "suffix", "colour", "rgb"), [
    ("1", "png", 1, (255, 255, 255)), ("L", "png", 100, (100, 100, 100)), ("P", "gif", 0, (0, 0, 0)),
    ("RGBA", "png", (10, 20, 30, 0), (10, 20, 30)), ("LA", "png", (100, 0), (100, 100, 100)),
    ("I;16", "png", 40_000, (255, 255, 255)), ("CMYK", "tiff", (0, 0, 0, 0), (255, 255, 255)),
])  # fmt: skip
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str, suffix: str, colour: object, rgb: tuple[int, ...]) -> None:
    Image.new(mode, (3, 2), colour).save(tmp_path / f"x.{suffix}")  # type: ignore[arg-type]
    image = open_image(sample(tmp_path / f"x.{suffix}"))
    assert (image.mode, image.size, image.getpixel((0, 0))) == ("RGB", (3, 2), rgb)


def test_one_pixel(tmp_path: Path) -> None:
    Image.new("RGB", (1, 1), (1, 2, 3)).save(tmp_path / "x.png")
    assert open_image(sample(tmp_path / "x.png")).getpixel((0, 0)) == (1, 2, 3)


def test_exif_rotation_is_not_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: turn by 90 degrees to show
    Image.new("RGB", (8, 4)).save(tmp_path / "x.jpg", exif=exif)
    assert open_image(sample(tmp_path / "x.jpg")).size == (8, 4)


def test_of_an_animation_the_first_frame_counts(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ((255, 0, 0), (0, 255, 0))]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    assert open_image(sample(tmp_path / "x.gif")).getpixel((0, 0)) == (255, 0, 0)


def test_the_file_is_closed_after_opening(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "x.png")
    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").is_dir() else 0
    images = [open_image(sample(tmp_path / "x.png")) for _ in range(20)]
    after = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").is_dir() else 0
    assert after == before and len(images) == 20


def test_images_of_one_name_are_told_apart(tmp_path: Path) -> None:
    MAKE["scienceqa-img"](tmp_path)
    (tmp_path / "images" / "test" / "6" / "image.png").write_bytes(b"")
    with pytest.raises(UsageError, match=r"1 of 2 images of scienceqa-img/test cannot be read: 6/image.png \("):
        check_images(load_suite("scienceqa-img", data=tmp_path))


def test_a_path_that_leaves_the_folder_names_the_file(tmp_path: Path, edit: Callable[..., None]) -> None:
    MAKE["mm-vet"](tmp_path)
    edit(tmp_path / "mm-vet.json", lambda content: content["v1_0"].update(imagename="../x.png") and None)
    with pytest.raises(UsageError, match=r"mm-vet.json: \['v1_0'\] has image '../x.png', which is not a path below"):
        load_suite("mm-vet", data=tmp_path)
