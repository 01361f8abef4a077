"""SIGINT and SIGTERM while a draft is trained: they stop it at once or, during updates, after the current one."""

import signal
from typing import Any


class Interrupts:
    """A context manager in which a signal raises KeyboardInterrupt.

    While `held` is set, as during updates, a first signal only sets `asked`; a second one is not held back.
    """

    def __init__(self) -> None:
        self.held, self.asked = False, False

    def __enter__(self) -> "Interrupts":
        self._before = {number: signal.signal(number, self._signalled) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _signalled(self, *_: Any) -> None:
        if self.asked or not self.held:
            raise KeyboardInterrupt
        self.asked = True
