"""Work in a forked child, which may be killed or interrupted. A new process would import and load all anew."""

import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path


class Child:
    """A forked process that does `work`, which returns its exit code; what it prints goes to two files in `folder`.

    As a context it leaves no process behind, whatever the test does.
    """

    def __init__(self, work: Callable[[], int], folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.files = (folder / "stdout.txt", folder / "stderr.txt")
        self.code: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            _work_and_exit(work, self.files)

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, *_: object) -> None:
        if self.code is None:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def goes_on(self) -> bool:
        """Whether it has not ended yet."""
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None

    def wait(self) -> tuple[int, str, str]:
        """(exit code, negative for a signal; standard output; standard error)."""
        self.code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        stdout, stderr = (path.read_text(encoding="utf-8") for path in self.files)
        return self.code, stdout, stderr


def in_child(work: Callable[[], int]) -> int:
    """Exit code of a forked process that does it, negative for a signal."""
    pid = os.fork()
    if pid == 0:
        code = 70
        with contextlib.suppress(BaseException):
            code = work()
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _work_and_exit(work: Callable[[], int], files: tuple[Path, Path]) -> None:
    """The child's life. It starts with the signals of a new process, and never returns into the test."""
    code = 70
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        sys.stdout, sys.stderr = (path.open("w", encoding="utf-8") for path in files)
        try:
            code = work()
        except SystemExit as stop:
            code = int(stop.code or 0)
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)
