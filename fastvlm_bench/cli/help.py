"""What `--help` looks like: panels of short lines that fit 80 columns. Plain text, since loading a renderer takes longer
than reading.

An option shows its short name, its first long name and what it takes; other names follow its description as "also …".
"""

import os
import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from fastvlm_bench.errors import BenchError
from fastvlm_bench.visible import visible

HELP = ("-h", "--help")
NARROWEST, WIDEST = 40, 120
LEFT = 26
"""Columns for an option's names and what it takes; a longer one has its description start on the next line."""
PLAIN = str.maketrans("╭╮╰╯─│…", "++++-|.")
_TILDE = re.compile(r"(?:^|(?<==))~[^/=,:\s]*(?=/|$)")
Row = tuple[str, str]


class Command(TyperCommand):
    """A command whose help is in panels, and whose paths may begin with `~` wherever they stand."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        formatter.write(page(self, ctx))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Options as they were given, with `~` as the home folder: a shell leaves it alone in --out=~/x."""
        rest = list(super().parse_args(ctx, args))
        ctx.params.update({name: at_home(value) for name, value in ctx.params.items()})
        return rest


class Group(TyperGroup):
    """A group whose help is in panels. A BenchError below it ends in its one line and its exit code."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        formatter.write(page(self, ctx))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """`… --help` is answered before anything is parsed: the parser loads more than the help needs."""
        alone = not args and self.no_args_is_help
        if (alone or args[-1:] in ([name] for name in HELP)) and not ctx.resilient_parsing:
            command, context = self._named(ctx, args[:-1])
            if command is not None:
                typer.echo(command.get_help(context))
                raise typer.Exit(2 if alone else 0)
        return list(super().parse_args(ctx, args))

    def _named(self, ctx: Any, words: Iterable[str]) -> tuple[Any, Any]:
        """The command that the words lead to and its context; None if they are not names of commands alone."""
        command: Any = self
        for word in words:
            command = getattr(command, "commands", {}).get(word)
            if command is None:
                break
            ctx = command.context_class(command, info_name=word, parent=ctx)
        return command, ctx

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BenchError as error:
            typer.echo(f"fastvlm-bench: {visible(str(error))}", err=True)
            raise typer.Exit(error.exit_code) from None


def at_home(value: Any) -> Any:
    """An option's value with the home folder in place of a `~/` or `~USER/` that begins it or follows a "="."""
    if isinstance(value, list | tuple):
        return type(value)(map(at_home, value))
    if not isinstance(value, str | Path):
        return value
    return type(value)(_TILDE.sub(lambda found: os.path.expanduser(found[0]), str(value)))


def page(command: Any, ctx: Any) -> str:
    """The help of a command or group as text, as wide as the terminal within limits."""
    width = min(max(shutil.get_terminal_size().columns, NARROWEST), WIDEST)
    commands: dict[str, list[Row]] = {}
    for name, sub in getattr(command, "commands", {}).items():
        commands.setdefault(sub.rich_help_panel or "Commands", []).append((name, _first_paragraph(sub.help)))
    options: dict[str, list[Row]] = {}
    for param in command.params:
        if not getattr(param, "hidden", False):
            options.setdefault(_panel_of(param), []).append(_row(param))
    options.setdefault("Options", []).append((f"{HELP[0]}, {HELP[1]}", "Show this message and leave."))
    lines = ["", *_wrapped(command.get_usage(ctx), width - 1), ""]
    for paragraph in (command.help or "").split("\n\n"):
        lines += [*_wrapped(paragraph, width - 1), ""]
    for panels in (commands, options):
        names = [name for rows in panels.values() for name, _ in rows if len(name) <= LEFT]
        left = max(map(len, names), default=LEFT)
        for title, rows in panels.items():
            lines += _panel(title, rows, left, width)
    return _printable("\n".join(lines) + "\n")


def _panel(title: str, rows: list[Row], left: int, width: int) -> Iterator[str]:
    """The lines of a frame around the rows: names in `left` columns, descriptions beside them."""
    inner = width - 4
    yield _dim(f"╭─ {title} " + "─" * (width - len(title) - 5) + "╮")
    for name, text in rows:
        lines = textwrap.wrap(text, inner - left - 2, break_long_words=False, break_on_hyphens=False) or [""]
        if len(name) > left:
            lines.insert(0, "")
        for number, line in enumerate(lines):
            head = name if number == 0 else ""
            body = f"{head:<{left}}" + (f"  {line}" if line else "")
            yield _dim("│ ") + _bold(head) + body[len(head) :] + " " * (inner - len(body)) + _dim(" │")
    yield _dim("╰" + "─" * (width - 2) + "╯")


def _row(param: Any) -> Row:
    """What is said of one option or argument."""
    if param.param_type_name == "argument":
        dots = "…" if param.nargs == -1 else ""
        return (param.metavar or param.name.upper()) + dots, param.help or ""
    long = [name for name in param.opts if name.startswith("--")]
    short = next((name for name in param.opts if not name.startswith("--")), "")
    if param.is_flag and param.default is True:  # what one would type is its opposite
        long[0] = long[0].replace("--", "--[no-]", 1)
    takes = "" if param.is_flag else f" {param.metavar or 'VALUE'}"
    also = [f"also {', '.join(long[1:])}"] if long[1:] else []
    if param.required:
        also.append("required")
    elif not param.is_flag and isinstance(param.default, (str, int, float, Path)):
        also.append(f"default: {param.default}")
    text = (param.help or "") + (f" [{'; '.join(also)}]" if also else "")
    return f"{short + ',' if short else '':<3} {long[0]}{takes}", text


def _panel_of(param: Any) -> str:
    own = getattr(param, "rich_help_panel", None)
    return own or ("Arguments" if param.param_type_name == "argument" else "Options")


def _first_paragraph(text: str | None) -> str:
    return " ".join((text or "").split("\n\n")[0].split())


def _wrapped(text: str, width: int) -> list[str]:
    words = " ".join(text.split())
    return textwrap.wrap(words, width, initial_indent=" ", subsequent_indent=" ", break_on_hyphens=False)


def _printable(text: str) -> str:
    """The text, in ASCII where the output has no characters for frames."""
    encoding = sys.stdout.encoding or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        text = text.translate(PLAIN).encode(encoding, "replace").decode(encoding)
    return text


def _bold(text: str) -> str:
    return typer.style(text, fg=typer.colors.CYAN, bold=True) if text and "NO_COLOR" not in os.environ else text


def _dim(text: str) -> str:
    return text if "NO_COLOR" in os.environ else typer.style(text, dim=True)
