"""How a process that measures is stopped from outside: Ctrl-C and SIGTERM, and their exit codes."""

import signal
from typing import Any

from fastvlm_bench.errors import Terminated

INTERRUPTED, TERMINATED = 130, 143
"""Exit codes after SIGINT and SIGTERM, as a shell gives them."""


def catch_signals() -> None:
    """SIGTERM raises Terminated, and SIGINT works under a shell's `&`, too."""

    def terminate(*_: Any) -> None:
        raise Terminated

    signal.signal(signal.SIGTERM, terminate)
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # a shell's `&` ignores it: Ctrl-C must work all the same
        signal.signal(signal.SIGINT, signal.default_int_handler)
