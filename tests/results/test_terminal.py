"""Whatever the terminal is, the numbers and the exit code are the same: pipes, no colour, 40 columns, odd locales."""

import io
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from forked import Child
from rich.console import Console

from fastvlm_bench.cli.app import app
from fastvlm_bench.measuring.live import Live

ROOT = Path(__file__).parents[2]
ESCAPE = re.compile(r"\x1b\[")


@pytest.fixture
def folder(fake: SimpleNamespace) -> Path:
    return Path(fake.write(suites=[fake.suite(n=30)]).folder)


CLEARED = ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LC_ALL")


def report(folder: Path, *arguments: str, **variables: str) -> tuple[str, str]:
    """Standard output and error of `report` in a process of its own, decoded as UTF-8."""
    environment = {k: v for k, v in os.environ.items() if k not in CLEARED}
    environment |= {"PYTHONPATH": str(ROOT), **variables}
    command = [sys.executable, "-m", "fastvlm_bench.cli.app", *(arguments or ("report", "--details", str(folder)))]
    done = subprocess.run(command, capture_output=True, cwd=ROOT, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode("utf-8"), done.stderr.decode("utf-8")


def forked(folder: Path, **variables: str) -> str:
    """Standard output of `report`, which is no terminal, where nothing depends on how the interpreter starts."""

    def work() -> int:
        for name in CLEARED:
            os.environ.pop(name, None)
        os.environ |= variables
        return int(app(["report", "--details", str(folder)]))

    with Child(work, folder.parent / "said") as child:
        code, stdout, stderr = child.wait()
    assert code == 0, stderr
    return stdout


def test_a_pipe_gets_no_escape_codes(folder: Path) -> None:
    out = forked(folder)
    assert not ESCAPE.search(out) and "decode" in out


def test_no_color_wins_over_a_forced_terminal(folder: Path) -> None:
    coloured = forked(folder, FORCE_COLOR="1", TERM="xterm-256color")
    assert re.search(r"\x1b\[[0-9;]*3[0-9]", coloured), "else the next assertion would prove nothing"
    plain = forked(folder, FORCE_COLOR="1", NO_COLOR="1", TERM="xterm-256color")
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]", plain)  # bold stays; colours do not


def test_forty_columns_lose_nothing(folder: Path) -> None:
    out, wide = forked(folder, COLUMNS="40"), forked(folder, COLUMNS="200")
    assert max(map(len, out.splitlines())) <= 40
    numbers = re.compile(r"\d+\.\d+")
    assert set(numbers.findall(wide)) <= set(numbers.findall(out))


def test_an_ascii_terminal_gets_ascii(folder: Path) -> None:
    out, err = report(folder, PYTHONIOENCODING="ascii", LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert out.isascii() and err == "" and "tau" in out


@pytest.mark.slow
def test_an_ascii_terminal_gets_every_page(folder: Path) -> None:
    report(folder, "doctor", PYTHONIOENCODING="ascii", LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    report(folder, "methods", PYTHONIOENCODING="ascii", LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")


@pytest.mark.slow  # test_an_ascii_terminal_gets_ascii has a locale, too
def test_numbers_keep_their_point_under_a_comma_locale(folder: Path) -> None:
    """`locale` is never asked: the numbers are those of the C locale, whatever LC_ALL says and whether it exists."""
    plain = forked(folder)
    assert report(folder, LC_ALL="de_DE.UTF-8", LC_NUMERIC="de_DE.UTF-8")[0] == plain
    code = (
        "import locale, sys\nfrom fastvlm_bench.report.numbers import number, milliseconds\n"
        "locale.localeconv = lambda: {'decimal_point': ',', 'thousands_sep': '.', 'grouping': [3, 0]}\n"
        "print(number(1234.5), milliseconds(0.0015))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout == "1234.50 1.50\n"


@pytest.mark.parametrize("arguments", [
    ("report",), *(pytest.param(arguments, marks=pytest.mark.slow)
                   for arguments in (("report", "--details"), ("show",), ("export", "--format", "samples-csv"))),
])  # fmt: skip
def test_a_closed_pipe_is_no_error(folder: Path, arguments: tuple[str, ...]) -> None:
    """As in `fastvlm-bench report | head -1`: the reader leaves before everything is written."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "fastvlm_bench.cli.app", arguments[0], str(folder), *arguments[1:]]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, cwd=ROOT, check=False,
                          env={**os.environ, "PYTHONPATH": str(ROOT)})  # fmt: skip
    os.close(writer)
    assert b"Traceback" not in done.stderr and b"Exception ignored" not in done.stderr, done.stderr
    assert done.returncode == 0


def test_the_bar_shows_the_geometric_mean_so_far() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=120)

    def group(done: int, standard: float, fastvlm: float, error: str | None = None) -> SimpleNamespace:
        lines = [{"method": "standard", "decode_s": standard, "error": None},
                 {"method": "fastvlm", "decode_s": fastvlm, "error": error}]  # fmt: skip
        return SimpleNamespace(suite="describe", done=done, total=4, lines=lines)

    with Live(console, "standard") as live:
        live.show(group(1, 4.0, 1.0))
        live.show(group(2, 1.0, 1.0))
        live.show(group(3, 9.0, 0.0, "oom"))
        (task,) = live.progress.tasks
        assert (task.completed, task.total, task.fields["estimate"]) == (3, 4, "fastvlm 2.00×")
