"""Which passes are worth a recording, in a method whose passes come and go: it skips other layers again and again.

Recordings are made outside the clock. So they must be few, and each must serve for more than a moment, or the clock
would leave out what such a method costs anyone who uses it.
"""

from collections import Counter
from collections.abc import Hashable

WORTH = 8
"""A kind is recorded once a generation runs it for so many times: a recording takes about as long as these passes."""
MOST = 32
"""So many kinds are recorded of a method in all."""
JUDGED = 512
"""After so many passes it is seen whether at least half of them were repetitions."""


class Passing:
    """The passes of one method that may not come again. recorded: how many kinds of them were.

    hopeless: how many of `JUDGED` passes repeated a recording, where that was less than half; None so far.
    """

    def __init__(self) -> None:
        self.recorded = 0
        self.hopeless: float | None = None
        self._runs: Counter[Hashable] = Counter()
        self._passes = self._repeated = 0

    def begin(self) -> None:
        """A generation begins. Counted anew, the same generation makes the same recordings, however often it is run."""
        self._runs.clear()

    def worth(self, kind: Hashable) -> bool:
        """Told of a pass that has no recording yet, says whether to make one."""
        self._judge(False)
        self._runs[kind] += 1
        if self.recorded >= MOST or self._runs[kind] < WORTH:
            return False
        self.recorded += 1
        return True

    def repeated(self) -> None:
        """Told of a pass that repeats a recording."""
        self._judge(True)

    @property
    def share(self) -> float:
        """How many of the passes since the last judgement repeated a recording."""
        return self._repeated / max(self._passes, 1)

    def _judge(self, repeated: bool) -> None:
        if self._passes >= JUDGED:
            self._passes = self._repeated = 0
        self._passes += 1
        self._repeated += repeated
        if self._passes >= JUDGED and self.hopeless is None and self.share < 0.5:
            self.hopeless = self.share
