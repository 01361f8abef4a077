"""Files that a user names: plain ones are replaced as a whole, everything else is written through."""

import json
import os
import stat
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from covering import covering
from typer.testing import CliRunner

from fastvlm_bench.cli.app import app
from fastvlm_bench.errors import WriteFailed
from fastvlm_bench.records.storage import write_atomically, write_output

pytestmark = pytest.mark.usefixtures("quick_bounds")

COMMANDS = {
    "export": ("export", "{run}", "--out", "{out}"), "latex": ("export", "{run}", "-f", "latex", "-o", "{out}"),
    "audit": ("audit", "{audit}", "-f", "csv", "--out", "{out}"), "show": ("show", "{run}", "--svg", "{out}.svg"),
    "html": ("report", "{run}", "--html", "{out}"),
    "sheet": ("suites", "sheet", "vqav2", "--limit", "1", "--out", "{out}"),
    "batches": ("batches", "{run}", "-f", "csv", "-o", "{out}"),
}  # fmt: skip


@pytest.fixture
def places(fake: SimpleNamespace, tmp_path: Path) -> dict[str, str]:
    for name in ("one", "two"):
        rows = [{"question_id": f"q{number}", "topic": "a", "model_id": "m", "tstamp": 1e9 + number,
                 "choices": [{"index": 0, "turns": ["a b c"], "idxs": [2], "new_tokens": [3], "wall_time": [0.5]}]}
                for number in range(5)]  # fmt: skip
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"run": str(fake.write(suites=[fake.suite(n=4)]).folder), "audit": str(tmp_path / "one.jsonl"),
            "second": str(tmp_path / "two.jsonl")}  # fmt: skip


def words(command: str, places: dict[str, str], out: Path) -> list[str]:
    more = [places["second"]] if command == "audit" else []
    return [word.format(**places, out=out) for word in COMMANDS[command]] + more


def target(command: str, path: Path) -> Path:
    """The file that the command writes when it is given `path`."""
    return Path(f"{path}{COMMANDS[command][-1].partition('{out}')[2]}")


@pytest.mark.parametrize("command", covering(COMMANDS, lambda command: command != "html"))
def test_a_pipe_is_written_through_and_stays_one(command: str, places: dict[str, str], tmp_path: Path) -> None:
    path = target(command, tmp_path / "pipe")
    os.mkfifo(path)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(path.read_bytes()), daemon=True)
    reader.start()
    result = CliRunner().invoke(app, words(command, places, tmp_path / "pipe"), catch_exceptions=False)
    reader.join(20)
    assert result.exit_code == 0, result.output
    assert stat.S_ISFIFO(path.stat().st_mode) and got and got[0]


@pytest.mark.parametrize("command", covering(COMMANDS, lambda command: command != "html"))
def test_a_link_stays_one_and_the_file_behind_it_is_replaced(
    command: str, places: dict[str, str], tmp_path: Path
) -> None:
    path, behind = target(command, tmp_path / "link"), tmp_path / "behind"
    behind.write_bytes(b"old")
    path.symlink_to(behind)
    result = CliRunner().invoke(app, words(command, places, tmp_path / "link"), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert path.is_symlink() and behind.read_bytes() not in (b"old", b"")


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("place", ["a folder", "below no folder"])
def test_a_path_that_cannot_be_a_file(command: str, place: str, places: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "none" / "file" if place == "below no folder" else tmp_path / "folder"
    if place == "a folder":
        target(command, path).mkdir()
    result = CliRunner().invoke(app, words(command, places, path))
    assert result.exit_code == 2 and result.stderr.count("\n") == 1, result.output
    assert str(path) in result.stderr and "folder" in result.stderr


WRITING = [name for name, given in COMMANDS.items() if given[-1] == "{out}"]


@pytest.mark.parametrize("command", covering(WRITING, lambda command: command != "html"))
def test_a_disk_that_refuses(command: str, places: dict[str, str]) -> None:
    result = CliRunner().invoke(app, words(command, places, Path("/dev/full")))
    assert result.exit_code == 3 and "cannot write /dev/full: No space left on device" in result.stderr
    assert stat.S_ISCHR(Path("/dev/full").stat().st_mode)


@pytest.mark.parametrize(
    "command", covering(["export", "latex", "audit", "batches", "html"], lambda name: name != "html")
)
def test_a_dash_is_the_standard_output(command: str, places: dict[str, str], tmp_path: Path) -> None:
    printed = CliRunner().invoke(app, words(command, places, Path("-")), catch_exceptions=False)
    written = CliRunner().invoke(app, words(command, places, tmp_path / "file"), catch_exceptions=False)
    assert (printed.exit_code, written.exit_code) == (0, 0)
    assert printed.stdout == (tmp_path / "file").read_text(encoding="utf-8") and not Path("-").exists()


def run_with_csv(csv: str, tmp_path: Path, *more: str) -> Any:
    asked = ["run", "--suite", "vqav2", "--limit", "1", "--warmup", "0", "--threads", "1", "-q", "-m", "standard",
             "--engine", "eager"]  # fmt: skip
    return CliRunner().invoke(app, [*asked, "--out", str(tmp_path / "out"), "--csv", csv, *more])


def test_the_table_of_a_run_may_go_to_the_standard_output_or_to_a_device(tmp_path: Path) -> None:
    printed = run_with_csv("-", tmp_path)
    assert (
        printed.exit_code == 0 and printed.stdout.startswith("run_id,status,model,") and printed.stdout.count("\n") == 2
    )
    assert run_with_csv("/dev/null", tmp_path).exit_code == 0
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode) and not Path("/dev/null-samples.csv").exists()
    both = run_with_csv("-", tmp_path, "--json")
    assert both.exit_code == 2 and "both go to the standard output" in both.stderr
    named = run_with_csv(str(tmp_path / "x.csv"), tmp_path, "--predictions-out", "/dev/null")
    assert named.exit_code == 2 and "several files" in named.stderr


@pytest.mark.parametrize("form", ["--out=~/{name}", "--out", "-o"])
def test_the_home_folder_is_known_wherever_a_path_stands(
    form: str, places: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    given = [form.format(name="x.csv")] if "{name}" in form else [form, "~/x.csv"]
    result = CliRunner().invoke(app, ["export", places["run"], *given], catch_exceptions=False)
    assert result.exit_code == 0 and (tmp_path / "x.csv").is_file()
    (tmp_path / "draft").mkdir()
    asked = ["run", "--limit", "1", "-m", "fastvlm:draft=~/draft", "--model", "~/none"]
    refused = CliRunner().invoke(app, [*asked, "--out=~/out"])
    assert refused.exit_code == 2 and "~" not in refused.stderr and not Path("~").exists()


def test_a_link_under_the_temporary_name_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "own").write_bytes(b"kept")
    (tmp_path / f".x.{os.getpid()}.tmp").symlink_to(tmp_path / "own")
    write_atomically(tmp_path / "x", b"new")
    assert ((tmp_path / "x").read_bytes(), (tmp_path / "own").read_bytes()) == (b"new", b"kept")
    assert not (tmp_path / "x").is_symlink()


def test_a_device_gets_all_bytes_or_the_error(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append((tmp_path / "pipe").read_bytes()), daemon=True)
    reader.start()
    write_output(tmp_path / "pipe", bytes(300_000))
    reader.join(20)
    assert got == [bytes(300_000)]
    with pytest.raises(WriteFailed, match="No space left"):
        write_output(Path("/dev/full"), b"x")


@pytest.mark.parametrize("words", [
    ["run", "-m", "standard", "--out"], ["train", "--suite", "describe", "--out"], ["sweep", "--out"],
    ["tune", "--out"],
    ["skip-search", "--suite", "describe", "--out"], ["ablate", "--suite", "describe", "--out"],
    ["merge", "{run}", "{run}", "--out"], ["suites", "prepare", "vqav2", "--data"], ["report", "{run}", "--plots"],
], ids=lambda words: words[0])  # fmt: skip
def test_a_dash_is_no_folder(
    words: list[str], places: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.iterdir())
    result = CliRunner().invoke(app, [*(word.format(**places) for word in words), "-"])
    assert result.exit_code == 2, result.output
    assert "'-' is the standard output, and a folder is written" in result.stderr
    assert set(tmp_path.iterdir()) == before and "Traceback" not in result.output


@pytest.mark.parametrize("name", ["picture.csv", "none/picture.png"])
def test_a_picture_of_memory_is_looked_at_before_anything_is_printed(
    name: str, places: dict[str, str], tmp_path: Path
) -> None:
    result = CliRunner().invoke(app, ["report", places["run"], "--memory-picture", str(tmp_path / name)])
    assert result.exit_code == 2 and not result.stdout and f"--memory-picture {tmp_path / name}" in result.stderr
