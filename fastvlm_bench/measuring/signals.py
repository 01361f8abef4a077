"""How Ctrl-C and SIGTERM stop a process that measures, and the exit codes after them."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

from fastvlm_bench.errors import Terminated

INTERRUPTED, TERMINATED = 130, 143
"""Exit codes after SIGINT and SIGTERM, by the convention of shells: 128 + the signal's number."""


def catch_signals() -> None:
    """Let SIGTERM raise Terminated, and SIGINT raise KeyboardInterrupt even in a shell's background job (`&`).

    Outside the main thread, where Python allows no handlers, signals stay as they are.
    """
    if threading.current_thread() is not threading.main_thread():
        return

    def terminate(*_: Any) -> None:
        raise Terminated

    signal.signal(signal.SIGTERM, terminate)
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as a shell's `&` sets it
        signal.signal(signal.SIGINT, signal.default_int_handler)


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
