"""A device's stream without a device: what `torch.cuda.Event` would tell of it, and what was asked of it in order."""

import sys
from types import SimpleNamespace

import pytest


class FakeStream:
    """`now`: how far the stream is, milliseconds, which a test moves on. `log`: "record", "read" or "wait" per call."""

    def __init__(self) -> None:
        self.now, self.log = 0.0, list[str]()

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """What imports torch from now on gets this stream's events, and nothing else of torch."""
        stream = self

        class Event:
            def __init__(self, enable_timing: bool) -> None:
                assert enable_timing

            def record(self) -> None:
                self.at = stream.now
                stream.log.append("record")

            def elapsed_time(self, other: "Event") -> float:
                stream.log.append("read")
                return other.at - self.at

        accelerator = SimpleNamespace(synchronize=lambda device: stream.log.append("wait"))
        patch.setitem(sys.modules, "torch", SimpleNamespace(cuda=SimpleNamespace(Event=Event), accelerator=accelerator))
