"""Streams that close or refuse what is written: nothing that is measured or asked for as a file is lost."""

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from forked import in_child

from fastvlm_bench.cli import app as application
from fastvlm_bench.cli.streams import Patient, make_patient
from fastvlm_bench.records.record import read_run

pytestmark = pytest.mark.usefixtures("quick_bounds")

BRIEF = ("run", "--suite", "vqav2", "--limit", "2", "--warmup", "0", "--threads", "1", "-m", "standard")


def reader_gone() -> int:
    """A descriptor whose reader has left."""
    reader, writer = os.pipe()
    os.close(reader)
    return writer


def full_disk() -> int:
    return os.open("/dev/full", os.O_WRONLY)


def calling(arguments: tuple[str, ...], streams: dict[int, int | None], told: Path) -> int:
    """Exit code of the console script with descriptors 1 and 2 as given (None: closed), the others in `told`."""

    def child() -> int:
        for number in (1, 2):
            target = streams.get(number, -1)
            if target is None:
                os.close(number)
            else:
                os.dup2(os.open(told, os.O_WRONLY | os.O_CREAT | os.O_APPEND) if target == -1 else target, number)
        for name, number in (("stdout", 1), ("stderr", 2)):  # as a new interpreter has them
            closed = streams.get(number, -1) is None
            setattr(sys, name, None if closed else open(number, "w", encoding="utf-8", closefd=False))  # noqa: SIM115
        sys.argv = ["fastvlm-bench", *arguments]
        try:
            application.main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()  # as the interpreter does when it ends: an error here would be its exit code
        return code

    return in_child(child)


@pytest.mark.slow
@pytest.mark.parametrize("streams", [
    pytest.param({2: reader_gone}, id="the progress has no reader"), pytest.param({2: None}, id="no error stream"),
    pytest.param({1: reader_gone}, id="the output has no reader"), pytest.param({1: None, 2: None}, id="no stream"),
    pytest.param({2: full_disk}, id="the progress is on a full disk"),
])  # fmt: skip
def test_a_run_is_measured_whole_and_its_files_are_written(
    tmp_path: Path, streams: dict[int, Callable[[], int] | None]
) -> None:
    given = {number: make() if make else None for number, make in streams.items()}
    asked = (*BRIEF, "--out", str(tmp_path / "out"), "--csv", str(tmp_path / "table.csv"))
    assert calling(asked, given, tmp_path / "told") == 0
    (record,) = (tmp_path / "out").glob("*/run.json")
    run = read_run(record.parent)
    assert run.meta["status"] == "success" and len(run.lines) == 2
    assert (tmp_path / "table.csv").is_file() and (tmp_path / "table-samples.csv").is_file()
    assert b"Traceback" not in (tmp_path / "told").read_bytes() if (tmp_path / "told").exists() else True


@pytest.mark.parametrize("arguments", [
    ("report",), pytest.param(("report", "--details"), marks=pytest.mark.slow), ("export",),
    *(pytest.param((command,), marks=pytest.mark.slow) for command in ("suites", "methods")),
])  # fmt: skip
def test_a_full_disk_under_the_output_is_told(
    fake: SimpleNamespace, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    folder = fake.write(suites=[fake.suite(n=4)]).folder
    words = (arguments[0], str(folder), *arguments[1:]) if arguments[0] in ("report", "export") else arguments
    assert calling(words, {1: full_disk()}, tmp_path / "told") == 3
    told = (tmp_path / "told").read_text(encoding="utf-8")
    assert "cannot write the standard output: No space left on device" in told and "Traceback" not in told


def test_what_an_output_without_reader_gets_is_dropped_and_a_full_disk_is_remembered(tmp_path: Path) -> None:
    for descriptor, refused in ((reader_gone(), None), (full_disk(), errno.ENOSPC)):
        with open(descriptor, "w", encoding="utf-8") as raw:
            stream = Patient(raw)
            assert stream.write("x" * 100_000) == 100_000
            stream.writelines(["a", "b"])
            stream.buffer.write(b"bytes")
            stream.flush()
            assert (stream.refused and stream.refused.errno) == refused


def test_a_closed_error_stream_is_not_given_to_the_next_file() -> None:
    """The next file that is opened gets the lowest free number, and what a library prints would lie in it."""

    def child() -> int:
        os.close(2)
        sys.stderr = None  # type: ignore[assignment]
        make_patient()
        with open(os.devnull, "rb") as file:
            taken = file.fileno()
        print("told", file=sys.stderr)
        return 0 if taken > 2 else 1

    assert in_child(child) == 0
