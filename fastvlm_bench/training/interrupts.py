"""SIGINT and SIGTERM while a draft is trained: at once, or, within the updates, after the one that is being made."""

import signal
from typing import Any


class Interrupts:
    """A context. `held` while the updates run: a signal is then noted in `asked`, and a second one does not wait."""

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
