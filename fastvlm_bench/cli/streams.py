"""Standard output and error that may close, or be closed, without ending a measurement.

`… | head` closes the output, `2> >(head -1)` the progress, `2>&-` leaves no error stream at all, and a disk may be full.
None of them is a reason to lose what is being measured, or a file that was asked for.
"""

import contextlib
import errno
import os
import sys
from collections.abc import Iterable
from typing import Any

CLOSED = (errno.EPIPE, errno.EBADF)


class Patient:
    """A text stream that is silent from its first failure on. failure: that failure, or None.

    Its descriptor then leads to the null device, so that neither buffers nor other libraries meet the failure again.
    """

    def __init__(self, stream: Any, whole: "Patient | None" = None) -> None:
        self.stream = stream
        self.failure: OSError | None = None
        self._whole = whole or self

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    @property
    def buffer(self) -> "Patient":
        """The same for bytes."""
        return Patient(self.stream.buffer, self)

    def write(self, text: str | bytes) -> int:
        """Write as the stream does."""
        self._try(self.stream.write, text)
        return len(text)

    def writelines(self, lines: Iterable[str | bytes]) -> None:
        """Write as the stream does."""
        self._try(self.stream.writelines, lines)

    def flush(self) -> None:
        """Flush as the stream does."""
        self._try(self.stream.flush)

    def _try(self, function: Any, *arguments: Any) -> None:
        try:
            function(*arguments)
        except OSError as error:
            self._whole.failure = self._whole.failure or error
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.stream.fileno())
            os.close(null)
            with contextlib.suppress(OSError):  # what its buffer holds
                self.stream.flush()

    @property
    def refused(self) -> OSError | None:
        """A failure that is none of the reader's: the disk is full, or broken."""
        return None if self.failure is None or self.failure.errno in CLOSED else self.failure


def open_missing() -> None:
    """Give descriptors 0 to 2 the null device where they are closed; else the next file that is opened gets them.

    What a library writes to descriptor 2 would then lie in the midst of the records.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for name, number in (("stdout", 1), ("stderr", 2)):
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w", encoding="utf-8", errors="backslashreplace", closefd=False))  # noqa: SIM115


def make_patient() -> Patient:
    """Let both streams outlive their readers, from here on. Returns standard output's."""
    open_missing()
    output = Patient(sys.stdout)
    sys.stdout, sys.stderr = output, Patient(sys.stderr)
    return output
