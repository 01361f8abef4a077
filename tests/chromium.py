"""A real browser for tests: the distribution's Chromium, headless, driven over a pipe in its DevTools protocol."""

import contextlib
import fcntl
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
WAIT_S = 30.0


def browser() -> str:
    """The browser's program; the test is skipped where there is none."""
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    return found


class Page:
    """One page. errors: what its console and its scripts complained of. requests: every address that it asked for."""

    def __init__(self, down: int, up: int) -> None:
        self._down, self._up, self._number, self._left = down, up, 0, b""
        self.session: str | None = None
        self.errors: list[str] = []
        self.requests: list[str] = []
        self._loaded = False

    def send(self, method: str, **params: Any) -> Any:
        """Call a method of the protocol and return its result."""
        self._number += 1
        wanted = self._number
        message: dict[str, Any] = {"id": wanted, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self._down, json.dumps(message).encode() + b"\0")
        while True:
            told = self._next()
            if told.get("id") == wanted:
                assert "error" not in told, told
                return told["result"]

    def _next(self) -> dict[str, Any]:
        until = time.monotonic() + WAIT_S
        while b"\0" not in self._left:
            ready, _, _ = select.select([self._up], [], [], max(0.0, until - time.monotonic()))
            assert ready, "the browser does not answer"
            self._left += os.read(self._up, 1 << 20)
        raw, _, self._left = self._left.partition(b"\0")
        told: dict[str, Any] = json.loads(raw)
        method, params = told.get("method"), told.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.errors.append(str(params["exceptionDetails"]))
        if method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.errors.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")
        if method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.errors.append(str(params["args"]))
        if method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"][:200])
        self._loaded |= method == "Page.loadEventFired"
        return told

    def show(self, path: Path, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        """Open a file from disk and wait until it is loaded."""
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme",
                                                           "value": "dark" if dark else "light"}])  # fmt: skip
        self._loaded = False
        self.send("Page.navigate", url=path.absolute().as_uri())
        while not self._loaded:
            self._next()

    def run(self, code: str) -> Any:
        """The value of an expression, evaluated in the page."""
        found = self.send("Runtime.evaluate", expression=code, returnByValue=True, userGesture=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def press(self, key: str) -> None:
        for kind in ("keyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, key=key, text=key if len(key) == 1 else "")


@contextlib.contextmanager
def chromium() -> Iterator[Page]:
    """A page of a browser of its own, with an empty profile, which is ended with the block."""
    program, ends = browser(), [*os.pipe(), *os.pipe()]
    high = [fcntl.fcntl(end, fcntl.F_DUPFD, 20) for end in ends]
    for end in ends:
        os.close(end)
    from_us, to_browser, to_us, from_browser = high[0], high[1], high[2], high[3]

    def place() -> None:
        os.dup2(from_us, 3)
        os.dup2(from_browser, 4)

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        child = subprocess.Popen(
            [program, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
             "--disable-background-networking", "--remote-debugging-pipe", f"--user-data-dir={profile}"],
            pass_fds=(3, 4), preexec_fn=place, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            page = Page(to_browser, to_us)
            target = page.send("Target.createTarget", url="about:blank")["targetId"]
            page.session = page.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            for domain in ("Page", "Runtime", "Log", "Network"):
                page.send(f"{domain}.enable")
            yield page
        finally:
            child.terminate()
            child.wait()
            for end in high:
                os.close(end)
