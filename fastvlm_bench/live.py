"""The progress bar with the current estimate. What it says is a glimpse; the report is computed from the records."""

from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class Live:
    """Shows one bar a suite; `show` is the runner's watcher."""

    def __init__(self, console: Console, reference: str) -> None:
        self.reference = reference
        self.progress = Progress(
            TextColumn("{task.description}"), BarColumn(bar_width=20), MofNCompleteColumn(), TimeElapsedColumn(),
            TimeRemainingColumn(), TextColumn("{task.fields[estimate]}"), console=console, transient=True,
        )  # fmt: skip
        self._bars: dict[str, Any] = {}
        self._seconds: dict[tuple[str, str], float] = {}

    def __enter__(self) -> "Live":
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()

    def say(self, text: str) -> None:
        """One line above the bars."""
        self.progress.console.print(text, style="dim", highlight=False)

    def show(self, group: Any) -> None:
        """Advance the suite's bar; the estimate is Σ reference decode seconds / Σ method decode seconds so far."""
        if group.suite not in self._bars:
            self._bars[group.suite] = self.progress.add_task(group.suite, total=group.total, estimate="")
        if all(line["error"] is None for line in group.lines):
            for line in group.lines:
                key = (group.suite, line["method"])
                self._seconds[key] = self._seconds.get(key, 0.0) + line["decode_s"]
        base = self._seconds.get((group.suite, self.reference), 0.0)
        shares = [
            f"{method} {base / seconds:.2f}×"
            for (suite, method), seconds in self._seconds.items()
            if suite == group.suite and method != self.reference and seconds > 0
        ]
        self.progress.update(self._bars[group.suite], completed=group.done, estimate="  ".join(sorted(shares)))
