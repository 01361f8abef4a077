"""A hub on this machine that the real client talks to: listings of data sets, files by name, gates, and a log."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import huggingface_hub.constants
import pytest
from local_server import Quiet, serving

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Data sets by id: name -> bytes. gated: ids that need a login. fetched: the files that were asked for.

    broken: the status with which listings are refused, or None. commit: of the files; a listing is always of COMMIT.
    """

    def __init__(self) -> None:
        self.sets: dict[str, dict[str, bytes]] = {}
        self.gated: set[str] = set()
        self.fetched: list[str] = []
        self.asked = 0
        self.broken: int | None = None
        self.commit = COMMIT

    def add(self, name: str, root: Path) -> None:
        self.sets[name] = {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body for a path."""
        self.asked += 1
        parts = unquote(urlsplit(path).path).strip("/").split("/")
        api = parts[:2] == ["api", "datasets"]
        name = "/".join(parts[2:4] if api else parts[1:3])
        if api and self.broken is not None:
            return self.broken, {}, b"{}"
        if name not in self.sets:
            return 401, {"X-Error-Code": "RepoNotFound"}, b"{}"
        if name in self.gated:
            return 403, {"X-Error-Code": "GatedRepo"}, b"{}"
        revision = parts[5] if api and parts[4:5] == ["revision"] else parts[4] if not api else "main"
        if revision not in ("main", COMMIT):
            return 404, {"X-Error-Code": "RevisionNotFound"}, b"{}"
        if api:
            files = [{"rfilename": file} for file in self.sets[name]]
            return (
                200,
                {"Content-Type": "application/json"},
                json.dumps(
                    {
                        "id": name,
                        "sha": COMMIT,
                        "siblings": files,
                        "private": False,
                        "tags": [],
                        "downloads": 0,
                        "likes": 0,
                    }
                ).encode(),
            )
        file = "/".join(parts[5:])
        if file not in self.sets[name]:
            return 404, {"X-Error-Code": "EntryNotFound"}, b"{}"
        content = self.sets[name][file]
        return 200, {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": self.commit}, content


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    state = Hub()

    class Handler(Quiet):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            status, headers, body = state.answer(self.path)
            if self.command == "GET" and "/resolve/" in self.path and status == 200:
                state.fetched.append(self.path.split("/", 6)[-1])
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

    with serving(Handler, monkeypatch) as url:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", url)
        template = url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        yield state
