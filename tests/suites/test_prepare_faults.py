"""`suites prepare` where servers die or tell nothing, or archives are damaged, encrypted or of a strange kind."""

import io
import shutil
import zipfile
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from covering import covering
from suites.test_remote_zip import IMAGE, IMAGES, Ranged, call, fill, noise, server, suite, there

from fastvlm_bench.errors import UsageError
from fastvlm_bench.suites.definition import Download
from fastvlm_bench.suites.prepare import fetch, fetch_members, in_words, planned, sizes, whole_archive
from fastvlm_bench.suites.remote_zip import Remote, probe

__all__ = ["call", "server"]  # fixtures


def silent(*_: Any) -> None:
    pass


@pytest.mark.parametrize("images", covering([1.5, 3.5, 8], [3.5]))
def test_a_server_that_dies_midway_leaves_no_folder_that_passes_for_whole(
    server: Ranged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Callable[..., Any], images: float
) -> None:
    fill(server)
    data = suite(tmp_path, server.url, monkeypatch)
    assert call("mine", "--data", data).exit_code == 0
    shutil.rmtree(data / "images")  # the questions are there, and no image
    server.budget = server.sent + int(images * IMAGE)
    assert call("mine", "--data", data, "--limit", 12).exit_code == 2
    assert 0 < len(there(data)) < 12
    assert [item.makes for item in planned("mine", data)] == ["images"]
    server.budget = None
    assert call("mine", "--data", data).exit_code == 0
    assert len(there(data)) == IMAGES and planned("mine", data) == []


def test_a_folder_of_chosen_members_is_marked_until_it_is_whole(server: Ranged, tmp_path: Path) -> None:
    """`members` of a suite's file takes a part of an archive, too, and leaves no mark at the end."""
    fill(server)
    item = Download(f"{server.url}/images.zip", "images", members="images/n1*.jpg")  # 11 of 40
    server.budget = 6 * IMAGE
    with pytest.raises(UsageError, match="what came is kept"):
        fetch_members(item, tmp_path, silent, probe(item.url), ())
    mark = tmp_path / "images" / ".first-images-only"
    assert there(tmp_path) and mark.is_file()
    server.budget = None
    assert fetch_members(item, tmp_path, silent, probe(item.url), ())
    assert len(there(tmp_path)) == 11 and not mark.exists()


def archive(method: int, change: Callable[[bytearray], None]) -> bytes:
    """Two members, one of noise so that single members are worth it, and a change of the bytes."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as packed:
        packed.writestr("images/n1.jpg", b"some text " * 100 + noise(1)[:500])
        packed.writestr("pad", noise(0))
    content = bytearray(out.getvalue())
    change(content)
    return bytes(content)


LOCAL, DIRECTORY = b"PK\x03\x04", b"PK\x01\x02"


def put(at: int, value: int, in_local: int | None = None) -> Callable[[bytearray], None]:
    """Sets a byte of the first entry of the directory, and perhaps the same one of the member's own header."""

    def change(content: bytearray) -> None:
        content[content.index(DIRECTORY) + at] = value
        if in_local is not None:
            content[in_local] = value

    return change


def garbage(content: bytearray) -> None:
    start = 30 + len("images/n1.jpg")
    content[start : start + 200] = b"\xff" * 200


def nothing(_: bytearray) -> None:
    pass


def far(content: bytearray) -> None:
    """The member's place in the directory lies behind the file's end."""
    at = content.index(DIRECTORY) + 42
    content[at : at + 4] = (1 << 30).to_bytes(4, "little")


CASES = [
    (zipfile.ZIP_DEFLATED, garbage, "damaged|cannot be unpacked"),
    (zipfile.ZIP_BZIP2, garbage, "damaged|cannot be unpacked"),
    (zipfile.ZIP_LZMA, garbage, "damaged|cannot be unpacked"),
    (zipfile.ZIP_STORED, garbage, "damaged|cannot be unpacked"),
    (zipfile.ZIP_DEFLATED, put(8, 1, 6), "encrypted.*by hand"),
    (zipfile.ZIP_DEFLATED, put(10, 97), "cannot be unpacked here .*by hand"),
    (zipfile.ZIP_DEFLATED, put(6, 99), "cannot be unpacked here .*by hand"),
    (zipfile.ZIP_DEFLATED, far, "damaged|cannot be unpacked"),
]  # fmt: skip
IDS = ["deflate", "bzip2", "lzma", "stored", "encrypted", "method", "version", "far"]


@pytest.mark.parametrize(("method", "change", "words"), CASES, ids=IDS)
@pytest.mark.parametrize("whole", [True, False], ids=["whole", "members"])
def test_an_archive_that_cannot_be_read_is_one_line(
    server: Ranged, tmp_path: Path, method: int, change: Callable[[bytearray], None], words: str, whole: bool
) -> None:
    server.files["/images.zip"] = archive(method, change)
    item = Download(f"{server.url}/images.zip", "images")
    with pytest.raises(UsageError, match=words) as error:
        if whole:
            fetch(item, tmp_path, silent)
        else:
            fetch_members(item, tmp_path, silent, probe(item.url), ["n1.jpg"])
    assert "\n" not in str(error.value) and not (tmp_path / "images" / "n1.jpg").exists()
    if whole:
        kept = "by hand" in words  # fetched anew it would be the same
        assert (tmp_path / "images.zip").exists() == kept


@pytest.mark.parametrize("method", [case[0] for case in CASES[:4]])
def test_the_same_archive_unchanged_is_read(server: Ranged, tmp_path: Path, method: int) -> None:
    server.files["/images.zip"] = archive(method, nothing)
    item = Download(f"{server.url}/images.zip", "images")
    assert fetch_members(item, tmp_path, silent, probe(item.url), ["n1.jpg"])


@pytest.mark.parametrize("more", [1, 100_000])
def test_a_part_with_more_bytes_than_asked_is_refused(server: Ranged, tmp_path: Path, more: int) -> None:
    fill(server)
    item = Download(f"{server.url}/images.zip", "images")
    remote = probe(item.url)
    server.more = more
    with pytest.raises(UsageError, match=r"images.zip: the server gave more than the \d+ bytes that were asked for"):
        fetch_members(item, tmp_path, silent, remote, ["n1.jpg"])


@pytest.mark.parametrize(("status", "muted"), covering(
    [(403, False), (404, False), (405, False), (500, False), (0, True)], [(405, False), (0, True)]
))  # fmt: skip
def test_only_a_server_that_does_not_answer_is_not_asked_again(server: Ranged, status: int, muted: bool) -> None:
    fill(server)
    server.heads["/first.zip"] = status
    first, second = sizes([Download(f"{server.url}{path}", "x") for path in ("/first.zip", "/images.zip")])
    assert (first.size, first.answered) == (None, not muted)
    assert second.ranges == (not muted) and ("/images.zip" in server.asked) == (not muted)


@pytest.mark.parametrize("status", covering([403, 404, 405, 500, 0, None], [405, None]))
def test_a_whole_archive_is_told_before_it_is_fetched(
    server: Ranged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Callable[..., Any], status: int | None
) -> None:
    fill(server)
    server.ranges = False
    refuse(server, status, "/images.zip")
    data = suite(tmp_path, server.url, monkeypatch)
    result = call("mine", "--data", data, "--limit", 3)
    assert result.exit_code == 0 and len(there(data)) == IMAGES
    size = in_words(len(server.files["/images.zip"]))
    assert f"images.zip: the server gives no parts: the whole archive ({size}) is fetched" in result.stdout


def test_a_server_that_tells_nothing_is_said_so() -> None:
    words = "did not say whether it gives parts: the whole archive (size unknown) is fetched"
    assert words in whole_archive(Download("http://a/b.zip", "b"), Remote(answered=False))


def refuse(server: Ranged, status: int | None, *paths: str) -> None:
    """HEAD has this status, 0 for no answer; None: as it should be."""
    if status is not None:
        server.heads |= dict.fromkeys(paths, status)


@pytest.mark.parametrize(("paths", "status"), covering(
    product((["/images.zip"], ["/questions.zip"], ["/images.zip", "/questions.zip"]), (403, 404, 405, 500, 0)),
    [(["/images.zip"], 403), (["/questions.zip"], 405), (["/images.zip", "/questions.zip"], 0)],
))  # fmt: skip
def test_a_head_without_answer_makes_no_whole_archive_of_a_few_images(
    server: Ranged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Callable[..., Any], status: int,
    paths: list[str],
) -> None:  # fmt: skip
    """Nor does one that a file before it on the same server did not get."""
    fill(server)
    refuse(server, status, *paths)
    data = suite(tmp_path, server.url, monkeypatch)
    result = call("mine", "--data", data, "--limit", 3)
    assert result.exit_code == 0 and len(there(data)) == 3 and "whole archive" not in result.stdout
    assert server.sent < sum(map(len, server.files.values())) / 3


def test_a_part_from_elsewhere_is_refused(server: Ranged, tmp_path: Path) -> None:
    fill(server)
    item = Download(f"{server.url}/images.zip", "images")
    remote, server.shift = probe(item.url), 1
    with pytest.raises(UsageError, match="images.zip: the server gave another part"):
        fetch_members(item, tmp_path, silent, remote, ["n1.jpg"])
    (tmp_path / "images.zip.part").write_bytes(server.files["/images.zip"][:1000])
    (tmp_path / "images.zip.part.etag").write_text('"x"')
    with pytest.raises(UsageError, match="images.zip: the server gave another part .* remove .*images.zip.part"):
        fetch(item, tmp_path, silent)


@pytest.mark.parametrize("length", ["x", "-1", "1.5", "²"])
def test_a_length_that_is_no_number_counts_as_none(server: Ranged, tmp_path: Path, length: str) -> None:
    server.files["/a.json"], server.length = b"some text", length
    item = Download(f"{server.url}/a.json", "a.json")
    (remote,) = sizes([item])
    assert (remote.size, remote.answered) == (None, True)
    fetch(item, tmp_path, silent)
    assert (tmp_path / "a.json").read_bytes() == b"some text"
