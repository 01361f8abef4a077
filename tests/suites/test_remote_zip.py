"""`suites prepare` against a server that gives ranges: the wanted members of an archive, not the archive."""

import contextlib
import io
import json
import random
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from local_server import Quiet, serving
from typer.testing import CliRunner

from fastvlm_bench.cli.app import app
from fastvlm_bench.errors import UsageError
from fastvlm_bench.suites.definition import Download
from fastvlm_bench.suites.prepare import fetch_members, in_words, planned
from fastvlm_bench.suites.remote_zip import Remote, probe

IMAGES, IMAGE = 40, 60_000
"""So large that the directory and a few images are a small part of the archive."""


class Ranged:
    """Files by path. sent: the bytes of all answers to GET. ranges: parts are given. damaged: they are garbage.

    heads: path -> status of HEAD, 0 for no answer. asked: the paths of HEAD. more: bytes that each part has too many.
    shift: by so many bytes a part claims to lie elsewhere. length: what each answer says of its length, if not "".
    budget: after so many bytes of answers the server dies; None is never.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.sent = 0
        self.ranges = True
        self.damaged = False
        self.heads: dict[str, int] = {}
        self.asked: list[str] = []
        self.more = 0
        self.shift = 0
        self.length = ""
        self.budget: int | None = None
        self.url = ""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Ranged]:
    state = Ranged()

    class Handler(Quiet):
        def do_GET(self) -> None:
            if (whole := state.files.get(self.path)) is None:
                self.send_error(404)
                return
            wanted = self.headers.get("Range") if state.ranges else None
            start, _, end = (wanted or "bytes=0-").removeprefix("bytes=").partition("-")
            first, last = int(start), int(end or len(whole) - 1)
            content = whole[first : last + 1]
            if state.damaged and first:
                content = bytes(len(content))
            if wanted:
                content += bytes(state.more)
            if state.budget is not None and state.sent > state.budget:
                self.close_connection = True
                return
            self.send_response(206 if wanted else 200)
            if wanted:
                self.send_header("Content-Range", f"bytes {first + state.shift}-{last}/{len(whole)}")
            self.send_header("Content-Length", state.length or str(len(content)))
            if state.ranges:
                self.send_header("Accept-Ranges", "bytes")
            self.end_headers()
            if self.command == "GET":
                state.sent += len(content)
                with contextlib.suppress(ConnectionError):  # it was only asked for its first byte
                    self.wfile.write(content)

        def do_HEAD(self) -> None:
            state.asked.append(self.path)
            if (status := state.heads.get(self.path)) is None:
                self.do_GET()
            elif status:
                self.send_error(status)
            else:
                self.close_connection = True

    with serving(Handler, monkeypatch) as state.url:
        yield state


def noise(number: int) -> bytes:
    return random.Random(number).randbytes(IMAGE)


def questions() -> dict[str, Any]:
    return {str(n): {"question": "Is it?", "imageId": f"n{n}", "answer": "no"} for n in range(IMAGES)}


def suite(tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A suite of one archive of questions and one of images; returns the data folder."""
    text = f"""
version = "1"
title = "Mine"
kind = "vqa"
prompt = "{{question}}"
max_new_tokens = 8
metrics = []
licence = "mine"
citation = "none"
default_split = "a"
[splits.a]
format = "gqa"
questions = "a.json"
images = "images"
[[downloads]]
url = "{url}/images.zip"
makes = "images"
[[downloads]]
url = "{url}/questions.zip"
makes = "a.json"
members = "a.json"
"""
    (tmp_path / "suites").mkdir()
    (tmp_path / "suites" / "mine.toml").write_text(text)
    monkeypatch.setenv("FASTVLM_BENCH_SUITES", str(tmp_path / "suites"))
    return tmp_path / "data"


def fill(server: Ranged) -> None:
    for path, members in (
        ("/images.zip", {f"images/n{n}.jpg": noise(n) for n in range(IMAGES)}),
        (
            "/questions.zip",
            {"a.json": json.dumps(questions()).encode(), "b.json": random.Random(0).randbytes(2_000_000)},
        ),
    ):
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in members.items():
                archive.writestr(name, content)
        server.files[path] = out.getvalue()


@pytest.fixture
def call() -> Callable[..., Any]:
    return lambda *arguments: CliRunner().invoke(
        app, ["suites", "prepare", *map(str, arguments)], catch_exceptions=False
    )


def there(data: Path) -> list[str]:
    return sorted(path.name for path in (data / "images").glob("*.jpg"))


def test_a_few_images_come_without_the_archive(
    server: Ranged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Callable[..., Any]
) -> None:
    fill(server)
    data = suite(tmp_path, server.url, monkeypatch)
    result = call("mine", "--data", data, "--limit", 3)
    assert result.exit_code == 0, result.output
    assert there(data) == ["n0.jpg", "n1.jpg", "n2.jpg"] and (data / "images" / "n2.jpg").read_bytes() == noise(2)
    assert json.loads((data / "a.json").read_text()) == questions()
    whole = sum(map(len, server.files.values()))
    assert server.sent < whole / 3
    assert [item.makes for item in planned("mine", data)] == ["images"], "an incomplete folder is not taken for whole"
    assert call("mine", "--data", data).exit_code == 0
    assert len(there(data)) == IMAGES and planned("mine", data) == []


def test_sizes_are_told_before_anything_is_fetched(
    server: Ranged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Callable[..., Any]
) -> None:
    fill(server)
    data = suite(tmp_path, server.url, monkeypatch)
    result = call("mine", "--data", data, "--dry-run")
    size = in_words(len(server.files["/images.zip"]))
    assert f"would get {server.url}/images.zip ({size}) -> {data / 'images'}" in result.stdout
    assert server.sent == 0 and not data.exists()
    del server.files["/images.zip"]
    assert "images.zip (size unknown)" in call("mine", "--data", data, "--dry-run").stdout
    result = call("mine", "--data", data, "--limit", 0)
    assert result.exit_code == 2 and "--limit is 0" in result.stderr


def test_a_server_without_ranges_gives_the_archive(
    server: Ranged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Callable[..., Any]
) -> None:
    fill(server)
    server.ranges = False
    data = suite(tmp_path, server.url, monkeypatch)
    result = call("mine", "--data", data, "--limit", 3)
    assert result.exit_code == 0
    size = in_words(len(server.files["/images.zip"]))
    assert f"images.zip: the server gives no parts: the whole archive ({size}) is fetched" in result.stdout
    assert len(there(data)) == IMAGES and planned("mine", data) == []


def test_most_of_an_archive_is_fetched_as_one(server: Ranged, tmp_path: Path) -> None:
    fill(server)
    item = Download(f"{server.url}/images.zip", "images")
    names = [f"n{n}.jpg" for n in range(IMAGES - 5)]
    assert not fetch_members(item, tmp_path, lambda *_: None, probe(item.url), names)
    assert not (tmp_path / "images").exists()


def test_damaged_parts_and_what_leads_out_are_refused(server: Ranged, tmp_path: Path) -> None:
    fill(server)
    item, silent = Download(f"{server.url}/images.zip", "images"), lambda *_: None
    remote = probe(item.url)
    assert remote == Remote(len(server.files["/images.zip"]), True)
    server.damaged = True
    with pytest.raises(UsageError, match=r"images.zip: is no zip archive"):
        fetch_members(item, tmp_path, silent, remote, ["n1.jpg"])
    server.damaged = False
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("../n1.jpg", b"x")
        archive.writestr("pad", random.Random(0).randbytes(10_000))
    server.files["/images.zip"] = out.getvalue()
    with pytest.raises(UsageError, match="leads out of"):
        fetch_members(item, tmp_path / "data", silent, probe(item.url), ["n1.jpg"])
    assert not (tmp_path / "n1.jpg").exists()


def test_sizes_in_words() -> None:
    assert [in_words(n) for n in (None, 12, 1500, 252_872_794, 6_645_013_297)] == [
        "size unknown", "12 bytes", "1.5 kB", "253 MB", "6.65 GB"]  # fmt: skip
