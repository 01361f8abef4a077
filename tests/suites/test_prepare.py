"""`suites prepare` against a server on this machine: resuming, checksums, unpacking, and what goes wrong."""

import hashlib
import io
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
from fastvlm_bench.suites.prepare import fetch, planned

CONTENT = bytes(range(256)) * 40


class Server:
    """Files by path; what was asked for; and after how many bytes the next answer breaks off."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[tuple[str, str | None]] = []
        self.cut: int | None = None
        self.url = ""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    state = Server()

    class Handler(Quiet):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            state.asked.append((self.path, wanted))
            if self.path not in state.files:
                self.send_error(404)
                return
            whole = state.files[self.path]
            mark = f'"{hashlib.md5(whole).hexdigest()}"'
            start = int(wanted[6:-1]) if wanted and self.headers.get("If-Range") == mark else 0
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(whole) - start))
            self.send_header("ETag", mark)
            self.end_headers()
            self.wfile.write(whole[start:] if state.cut is None else whole[start : state.cut])
            state.cut = None

    with serving(Handler, monkeypatch) as state.url:
        yield state


def silent(*_: Any) -> None:
    pass


def packed(**files: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in files.items():
            archive.writestr(name.replace("__", "/"), content)
    return out.getvalue()


def test_a_file(server: Server, tmp_path: Path) -> None:
    server.files["/a.json"] = CONTENT
    seen: list[tuple[str, int, int | None]] = []
    item = Download(f"{server.url}/a.json", "annotations/a.json", sha256=hashlib.sha256(CONTENT).hexdigest())
    fetch(item, tmp_path, lambda *step: seen.append(step))
    assert (tmp_path / "annotations" / "a.json").read_bytes() == CONTENT
    assert [path.name for path in (tmp_path / "annotations").iterdir()] == ["a.json"]
    assert seen[0] == ("a.json", 0, len(CONTENT)) and seen[-1] == ("a.json", len(CONTENT), len(CONTENT))


def test_it_goes_on_where_it_stopped(server: Server, tmp_path: Path) -> None:
    server.files["/a.json"], server.cut = CONTENT, 4000
    item = Download(f"{server.url}/a.json", "a.json", md5=hashlib.md5(CONTENT).hexdigest())
    with pytest.raises(UsageError, match="what came is kept"):
        fetch(item, tmp_path, silent)
    assert not (tmp_path / "a.json").exists() and (tmp_path / "a.json.part").stat().st_size == 4000
    fetch(item, tmp_path, silent)
    assert server.asked == [("/a.json", None), ("/a.json", "bytes=4000-")]
    assert (tmp_path / "a.json").read_bytes() == CONTENT


def test_a_file_that_changed_meanwhile_is_fetched_anew(server: Server, tmp_path: Path) -> None:
    server.files["/a.json"], server.cut = CONTENT, 4000
    item = Download(f"{server.url}/a.json", "a.json")
    with pytest.raises(UsageError):
        fetch(item, tmp_path, silent)
    server.files["/a.json"] = CONTENT[::-1]
    fetch(item, tmp_path, silent)
    assert (tmp_path / "a.json").read_bytes() == CONTENT[::-1]


def test_a_wrong_checksum(server: Server, tmp_path: Path) -> None:
    server.files["/a.json"] = CONTENT
    with pytest.raises(UsageError, match="sha256 is .*, not 00; it was removed"):
        fetch(Download(f"{server.url}/a.json", "a.json", sha256="00"), tmp_path, silent)
    assert list(tmp_path.iterdir()) == []


def test_a_zip_is_unpacked_and_removed(server: Server, tmp_path: Path) -> None:
    server.files["/v.zip"] = packed(top__val__1__jpg=b"1", top__val__2__jpg=b"22", top__other=b"3")
    fetch(Download(f"{server.url}/v.zip", "in/val", to="in", strip="top", members="top/val/*"), tmp_path, silent)
    found = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert found == ["in/val/1/jpg", "in/val/2/jpg"]


@pytest.mark.parametrize("name", ["..__evil", "a__..__..__evil"])
def test_a_zip_that_leads_out(server: Server, tmp_path: Path, name: str) -> None:
    server.files["/v.zip"] = packed(**{name: b"x"})
    with pytest.raises(UsageError, match="leads out of"):
        fetch(Download(f"{server.url}/v.zip", "val"), tmp_path / "data", silent)
    assert not (tmp_path / "evil").exists()


def test_what_is_no_zip(server: Server, tmp_path: Path) -> None:
    server.files["/v.zip"] = b"<html>"
    with pytest.raises(UsageError, match="cannot be unpacked"):
        fetch(Download(f"{server.url}/v.zip", "val"), tmp_path, silent)
    assert not (tmp_path / "v.zip").exists()


def test_a_server_that_has_it_not_or_is_not_there(server: Server, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the server says 404"):
        fetch(Download(f"{server.url}/none", "a"), tmp_path, silent)
    with pytest.raises(UsageError, match="give the command again"):
        fetch(Download("http://127.0.0.1:9/none", "a"), tmp_path, silent)


@pytest.fixture
def call() -> Callable[..., Any]:
    return lambda *arguments: CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)


def test_the_command(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Callable[..., Any]) -> None:
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
manual = "the images into images/"
[splits.a]
format = "gqa"
questions = "a.json"
images = "images"
[splits.b]
format = "gqa"
questions = "b.json"
images = "images"
[[downloads]]
url = "{server.url}/a.json"
makes = "a.json"
splits = ["a"]
[[downloads]]
url = "{server.url}/b.json"
makes = "b.json"
splits = ["b"]
"""
    (tmp_path / "suites").mkdir()
    (tmp_path / "suites" / "mine.toml").write_text(text)
    monkeypatch.setenv("FASTVLM_BENCH_SUITES", str(tmp_path / "suites"))
    server.files |= {"/a.json": b"{}", "/b.json": b"{}"}
    data = tmp_path / "data"
    result = call("suites", "prepare", "mine", "--data", data, "--dry-run")
    assert result.exit_code == 0 and "would get" in result.stdout and not data.exists() and not server.asked
    result = call("suites", "prepare", "mine", "--data", data, "--split", "a")
    assert result.exit_code == 0, result.output
    assert [path for path, _ in server.asked] == ["/a.json"] and (data / "a.json").read_bytes() == b"{}"
    assert "by hand: the images into images/" in result.stdout
    assert [item.makes for item in planned("mine", data)] == ["b.json"]
    assert call("suites", "prepare", "mine", "--data", data).exit_code == 0 and planned("mine", data) == []
    server.asked.clear()
    assert call("suites", "prepare", "mine", "--data", data).exit_code == 0 and not server.asked
    result = call("suites", "prepare", "mine", "--data", data, "--split", "c")
    assert result.exit_code == 2 and "unknown split 'c'" in result.stderr
