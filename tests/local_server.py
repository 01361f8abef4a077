"""A server of HTTP on this machine, for a test that fetches."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest


class Quiet(BaseHTTPRequestHandler):
    """A handler that prints no line for each request."""

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def serving(handler: type[Quiet], monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The server's address while it runs. No proxy stands between."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
