"""The progress bar with the current estimate, which is preliminary: the report is computed from the records."""

import math
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from fastvlm_bench.measuring.live_grid import GridProgress
from fastvlm_bench.report.answers import print_answer, print_legend
from fastvlm_bench.visible import visible


class Live:
    """Shows one bar per suite. `show` is called after each `Group` that the runner has measured.

    answers: print each answer of a method that drafts, too, token by token. It is outside the clock. swept: the methods
    are many cells, whose estimates stand in a grid below the bar.
    """

    def __init__(self, console: Console, reference: str, answers: bool = False, swept: bool = False) -> None:
        self.reference, self.answers, self._explained = reference, answers, False
        self.progress = (GridProgress if swept else Progress)(
            TextColumn("{task.description}"), BarColumn(bar_width=20), MofNCompleteColumn(), TimeElapsedColumn(),
            TimeRemainingColumn(), TextColumn("{task.fields[estimate]}"), console=console, transient=True,
        )  # fmt: skip
        self._bars: dict[str, Any] = {}
        self._sums: dict[str, dict[str, tuple[float, int]]] = {}  # suite -> method -> sum of log ratios, how many

    def __enter__(self) -> "Live":
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()

    def say(self, text: str) -> None:
        """Print one line above the bars."""
        self.progress.console.print(visible(text), style="dim", highlight=False, markup=False)

    def show(self, group: Any) -> None:
        """Advance the suite's bar and its estimate, the geometric mean of the decode speed-ups of all groups so far.

        The report takes medians over the repeats first, so its numbers may differ.
        """
        if self.answers:
            self._print_answers(group.lines)
        if group.suite not in self._bars:
            self._bars[group.suite] = self.progress.add_task(group.suite, total=group.total, estimate="")
        seconds: dict[str, float] = {}
        for line in group.lines:  # a batch has several lines per method
            seconds[line["method"]] = seconds.get(line["method"], 0.0) + (line["decode_s"] or 0.0)
        base, sums = seconds.pop(self.reference, 0.0), self._sums.setdefault(group.suite, {})
        if base > 0 and all(line["error"] is None for line in group.lines):
            for method, own in seconds.items():
                if own > 0:
                    total, count = sums.get(method, (0.0, 0))
                    sums[method] = total + math.log(base / own), count + 1
        means = {method: total / count for method, (total, count) in sums.items()}
        if isinstance(self.progress, GridProgress):
            self.progress.logs = means
            self.progress.update(self._bars[group.suite], completed=group.done)
            return
        shares = [f"{method} {math.exp(mean):.2f}×" for method, mean in means.items()]
        self.progress.update(self._bars[group.suite], completed=group.done, estimate="  ".join(sorted(shares)))

    def _print_answers(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Each sample of the group, a batch's one after the other: the methods that draft, and those that failed."""
        console = self.progress.console
        if not self._explained:
            print_legend(console)
            self._explained = True
        references = {line["sample_id"]: line for line in lines
                      if line["method"] == self.reference and line["error"] is None}  # fmt: skip
        for line in sorted(lines, key=lambda line: ((line.get("batch") or {}).get("row", 0), line["order"])):
            if line["error"] is not None or any(round_[0] for round_ in line["rounds"]):
                print_answer(console, line, references.get(line["sample_id"]))
                console.print()
