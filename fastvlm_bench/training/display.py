"""What a training shows while it runs: bars, a line for each finding, and a live table of what each draft is worth."""

from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from fastvlm_bench.training.validation import Validated
from fastvlm_bench.visible import visible

POSITIONS = (1, 2, 4, 8)


class Display:
    """A context manager. A terminal shows a table, redrawn in place; elsewhere a validation prints a line per draft.

    quiet: nothing at all, as in a process that does not lead. brief: only what has come of it, and the last table.
    stderr: beside a command that prints its result.
    """

    def __init__(self, *, quiet: bool = False, brief: bool = False, stderr: bool = False) -> None:
        self.console, self.quiet, self.brief = Console(stderr=stderr, quiet=quiet), quiet, brief
        self.progress = Progress(
            TextColumn("{task.description:13}"), BarColumn(bar_width=24), MofNCompleteColumn(), TimeElapsedColumn(),
            TimeRemainingColumn(), console=self.console,
        )  # fmt: skip
        self.shown: Table | None = None
        self.live = Live(self._all(), console=self.console, refresh_per_second=4, transient=False)

    @property
    def renewed(self) -> bool:
        """Whether what is shown is renewed in place."""
        return self.console.is_terminal and not self.brief

    def __enter__(self) -> "Display":
        if self.renewed:
            self.live.start()
        return self

    def __exit__(self, *_: Any) -> None:
        if self.renewed:
            self.live.update(self._all(), refresh=True)
            self.live.stop()

    def say(self, text: str) -> None:
        """One line of what goes on, above the bars."""
        if not self.brief:
            self.conclude(text)

    def conclude(self, text: str) -> None:
        """One line of what has come of it; where nothing else is said, the last table comes first."""
        if self.brief and self.shown is not None:
            self.console.print(self.shown)
            self.shown = None
        self.console.print(visible(text), markup=False, highlight=False, soft_wrap=True)

    def bar(self, label: str, total: int) -> Callable[[int], None]:
        """Add a bar. The returned function moves it: call it with how much is done."""
        task = self.progress.add_task(label, total=total)
        quarter = 0

        def update(done: int) -> None:
            """Move the bar. Without a terminal, print a line at each quarter; updates have the lines of validations."""
            nonlocal quarter
            self.progress.update(task, completed=done)
            if not self.console.is_terminal and label != "updates" and total and 4 * done // total > quarter:
                quarter = 4 * done // total
                self.say(f"{label}: {min(done, total)} of {total}")

        return update

    def stages(self, label: str, total: int) -> Callable[[str], None]:
        """Add a bar of things of unlike length. The returned function is called where one begins, with what it is.

        Without a terminal each is a line. The bar is full when `total` others have begun, with the one after them.
        """
        task = self.progress.add_task(label, total=total)
        begun = 0

        def begin(what: str) -> None:
            nonlocal begun
            told = escape(visible(f"{label}: {what}"))
            self.progress.update(task, completed=min(begun, total), description=told)
            begun += 1
            if not self.console.is_terminal and begun <= total:
                self.say(f"{label}, {begun} of {total}: {what}")

        return begin

    def table(
        self, done: int, losses: Mapping[str, float], found: Mapping[str, Validated], best: Mapping[str, int]
    ) -> None:
        """Show the validation after `done` updates. losses, found, best: by recipe; best: the update that is kept."""
        self.shown = table(f"held out, after update {done}", losses, found, best)
        if self.renewed:
            self.live.update(self._all())
            return
        for name, own in found.items():
            self.say(f"update {done:>4}  {name}: loss {losses[name]:.3f}, α {own.alpha:.3f}, τ {own.tau:.2f}, "
                     f"predicted {own.speedup:.2f}x (γ {own.gamma}, stop below {own.stop_below:g})")  # fmt: skip

    def _all(self) -> Group:
        return Group(*([self.shown] if self.shown else []), self.progress)


def table(title: str, losses: Mapping[str, float], found: Mapping[str, Validated], best: Mapping[str, int]) -> Table:
    """One row for each draft. α[i] is the chance that the i-th token of a draft stands if those before it did."""
    out = Table(title=title, title_justify="left", box=None, pad_edge=False)
    out.add_column("draft", overflow="fold")
    for head in ("loss", "α", *(f"α[{place}]" for place in POSITIONS), "τ", "predicted", "γ", "stop", "best at"):
        out.add_column(head, justify="right", no_wrap=True)
    for name, own in found.items():
        places = [f"{own.by_position[p - 1]:.2f}" if p <= len(own.by_position) else "" for p in POSITIONS]
        out.add_row(
            name, f"{losses.get(name, float('nan')):.3f}", f"{own.alpha:.3f}", *places, f"{own.tau:.2f}",
            f"{own.speedup:.2f}x", str(own.gamma), f"{own.stop_below:g}", str(best.get(name, "")),
        )  # fmt: skip
    return out
