"""What a training says while it works after its last update: each part by name, in its place, as it begins."""

import io
import re

import pytest
from rich.console import Console
from rich.live import Live
from rich.markup import escape

from fastvlm_bench.training.display import Display
from fastvlm_bench.visible import visible

PARTS = ("costs of the passes of mlp", "all drafts on 8 held-out texts", "writing [b]mlp", "writing the curve")


def display(terminal: bool) -> tuple[Display, io.StringIO]:
    shown, out = Display(), io.StringIO()
    shown.console = Console(file=out, force_terminal=terminal, width=120)
    shown.progress.live.console = shown.console
    shown.live = Live(shown._all(), console=shown.console, auto_refresh=False)
    return shown, out


def test_each_part_is_a_line_where_nothing_is_redrawn() -> None:
    shown, out = display(terminal=False)
    begin = shown.stages("finishing", len(PARTS))
    for number, part in enumerate(PARTS, 1):
        begin(part)
        assert out.getvalue().splitlines()[-1] == f"finishing, {number} of {len(PARTS)}: {part}"
    begin("done")
    assert len(out.getvalue().splitlines()) == len(PARTS), "the end is no part"


def test_the_bar_names_what_is_done_now_and_is_full_at_the_end() -> None:
    shown, out = display(terminal=True)
    begin = shown.stages("finishing", len(PARTS))
    for number, part in enumerate(PARTS):
        begin(part)
        (task,) = shown.progress.tasks
        assert (task.completed, task.total) == (number, len(PARTS)) and escape(part) in task.description
    begin("done")
    assert shown.progress.tasks[0].finished and not out.getvalue()


@pytest.mark.parametrize("text", ["writing [b]mlp", "writing [/]", "\x1b[31mred"])
def test_names_are_no_markup(text: str) -> None:
    shown, out = display(terminal=True)
    shown.stages("finishing", 2)(text)
    shown.console.print(shown.progress)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue())
    assert visible(text) in plain
