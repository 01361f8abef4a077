"""Each image is read once: to decode it and to hash it, however many samples and records ask."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from fastvlm_bench.suites import image_files
from fastvlm_bench.suites.suite import check_images, images_sha256, load_suite


def test_each_image_is_read_and_decoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    suite = load_suite("vqav2", limit=12)
    read, decoded, real, convert = list[Path](), [0], Path.read_bytes, Image.Image.convert

    def read_bytes(path: Path) -> bytes:
        read.append(path)
        return real(path)

    def counted(image: Image.Image, *given: Any) -> Image.Image:
        decoded[0] += 1
        return convert(image, *given)

    before = images_sha256(suite)
    monkeypatch.setattr(image_files, "_DIGESTS", {})
    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    monkeypatch.setattr(Image.Image, "convert", counted)
    check_images(suite)
    for _ in range(3):
        assert images_sha256(suite) == before
    paths = {sample.image_path for sample in suite.samples}
    assert sorted(read) == sorted(paths) and decoded == [len(paths)]


def test_a_changed_image_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    seen = set()
    for colour in ("red", "blue", "green"):
        Image.new("RGB", (8, 8), colour).save(path)
        seen.add(image_files.sha256_of(path))
    assert len(seen) == 3
