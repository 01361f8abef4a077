"""How Ctrl-C and SIGTERM stop a process that measures, and the exit codes after them."""

import signal
from typing import Any

from fastvlm_bench.errors import Terminated

INTERRUPTED, TERMINATED = 130, 143
"""Exit codes after SIGINT and SIGTERM, by the convention of shells: 128 + the signal's number."""


def catch_signals() -> None:
    """Let SIGTERM raise Terminated, and SIGINT raise KeyboardInterrupt even in a shell's background job (`&`)."""

    def terminate(*_: Any) -> None:
        raise Terminated

    signal.signal(signal.SIGTERM, terminate)
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as a shell's `&` sets it
        signal.signal(signal.SIGINT, signal.default_int_handler)
