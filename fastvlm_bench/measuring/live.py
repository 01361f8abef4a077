"""The progress bar with the current estimate, which is preliminary: the report is computed from the records."""

import math
from statistics import fmean
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class Live:
    """Shows one bar per suite. `show` is called after each `Group` that the runner has measured."""

    def __init__(self, console: Console, reference: str) -> None:
        self.reference = reference
        self.progress = Progress(
            TextColumn("{task.description}"), BarColumn(bar_width=20), MofNCompleteColumn(), TimeElapsedColumn(),
            TimeRemainingColumn(), TextColumn("{task.fields[estimate]}"), console=console, transient=True,
        )  # fmt: skip
        self._bars: dict[str, Any] = {}
        self._logs: dict[tuple[str, str], list[float]] = {}  # (suite, method) -> log ratios

    def __enter__(self) -> "Live":
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()

    def say(self, text: str) -> None:
        """Print one line above the bars."""
        self.progress.console.print(text, style="dim", highlight=False)

    def show(self, group: Any) -> None:
        """Advance the suite's bar and its estimate, the geometric mean of the decode speed-ups of all groups so far.

        The report takes medians over the repeats first, so its numbers may differ.
        """
        if group.suite not in self._bars:
            self._bars[group.suite] = self.progress.add_task(group.suite, total=group.total, estimate="")
        seconds: dict[str, float] = {}
        for line in group.lines:  # a batch has several lines per method
            seconds[line["method"]] = seconds.get(line["method"], 0.0) + (line["decode_s"] or 0.0)
        base = seconds.pop(self.reference, 0.0)
        if base > 0 and all(line["error"] is None for line in group.lines):
            for method, own in seconds.items():
                if own > 0:
                    self._logs.setdefault((group.suite, method), []).append(math.log(base / own))
        shares = [
            f"{method} {math.exp(fmean(logs)):.2f}×" for (suite, method), logs in self._logs.items()
            if suite == group.suite
        ]  # fmt: skip
        self.progress.update(self._bars[group.suite], completed=group.done, estimate="  ".join(sorted(shares)))
