"""Moments in which Ctrl-C and SIGTERM wait: what is written to a file, and what is known of it, must not part ways."""

from collections.abc import Iterator
from contextlib import contextmanager


class _Waiting:
    depth = 0
    stop: type[BaseException] | None = None


@contextmanager
def undisturbed() -> Iterator[None]:
    """Within it, a signal waits; it stops the program at the end, unless an error does so before."""
    _Waiting.depth += 1
    stop: type[BaseException] | None = None
    try:
        yield
    finally:
        _Waiting.depth -= 1
        if not _Waiting.depth:
            stop, _Waiting.stop = _Waiting.stop, None
    if stop is not None:
        raise stop


def stop_now(stop: type[BaseException]) -> None:
    """What a handler of signals calls: raise `stop`, or let it wait for the end of what is `undisturbed`."""
    if not _Waiting.depth:
        raise stop
    _Waiting.stop = stop
