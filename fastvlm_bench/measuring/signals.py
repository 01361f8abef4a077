"""How Ctrl-C and SIGTERM stop a process that measures, and the exit codes after them."""

import contextlib
import math
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

from fastvlm_bench.errors import Terminated
from fastvlm_bench.records.undisturbed import stop_now

INTERRUPTED, TERMINATED = 130, 143
"""Exit codes after SIGINT and SIGTERM, by the convention of shells: 128 + the signal's number."""


GRACE_S = 0.5
"""Signals that follow another so soon are one wish: a service manager and a parent both send one, a hand twice.

A later one ends what the first began: the scoring, the report.
"""
_KINDS = {signal.SIGTERM: Terminated, signal.SIGINT: KeyboardInterrupt}


def code_of(stop: BaseException) -> int:
    """The exit code after the exception that a signal raised."""
    return TERMINATED if isinstance(stop, Terminated) else INTERRUPTED


def catch_signals() -> None:
    """Let SIGTERM raise Terminated, and SIGINT raise KeyboardInterrupt even in a shell's background job (`&`).

    Outside the main thread, where Python allows no handlers, signals stay as they are.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    last_s = [-math.inf]

    def stop(number: int, _: Any) -> None:
        now_s = time.monotonic()
        if now_s - last_s[0] >= GRACE_S:
            last_s[0] = now_s
            stop_now(_KINDS[signal.Signals(number)])

    for number in _KINDS:
        signal.signal(number, stop)


@contextlib.contextmanager
def deaf() -> Iterator[None]:
    """Within it, SIGTERM and SIGINT do nothing: for the few moments in which records are closed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in _KINDS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def own_signals() -> Iterator[None]:
    """Within it, signals may be caught; after it, they are as they were: for a process that goes on, as a notebook."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)
