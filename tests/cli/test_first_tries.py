"""What a stranger tries first: `python -m`, -h, completion, other names of options, the environment of the hub."""

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
import typer
from covering import covering
from rich.console import Console

from fastvlm_bench import __version__
from fastvlm_bench.cli.app import app
from fastvlm_bench.cli.help import page
from fastvlm_bench.config import RunConfig
from fastvlm_bench.errors import UsageError
from fastvlm_bench.models.load import load_target
from fastvlm_bench.models.names import SHORT_DTYPES, TINY, TORCH_DTYPES, with_revision
from fastvlm_bench.records.record import read_run
from fastvlm_bench.training.display import Display
from fastvlm_bench.training.settings import TrainSettings
from fastvlm_bench.training.validation import Validated

pytestmark = pytest.mark.usefixtures("hub_may_be_asked")
Call = Callable[..., Any]
ROOT: Any = typer.main.get_command(app)
NO_NETWORK = """
import socket, sys
def attempt(*where, **_):
    print("network:", where, file=sys.stderr)
    raise OSError("no network here")
socket.socket.connect = socket.getaddrinfo = attempt
from fastvlm_bench.cli.app import main
main()
"""
TOKEN = "hf_NotARealTokenButRecognisable"


@pytest.fixture(autouse=True)
def loud_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    """What --quiet sets for the rest of its process ends with the test."""
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "0")


def program(*arguments: str | Path, code: str | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
    """`python -m fastvlm_bench ARGUMENTS`, or `code` with them, in a process of its own."""
    start = ["-c", code] if code else ["-m", "fastvlm_bench"]
    return subprocess.run(
        [sys.executable, *start, *map(str, arguments)], capture_output=True, text=True, check=False,
        env={**os.environ, "COLUMNS": "80", **variables},
    )  # fmt: skip


def commands(group: Any = ROOT, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Each group and command with the words that lead to it."""
    yield words, group
    for name, below in getattr(group, "commands", {}).items():
        yield from commands(below, (*words, name))


COMMANDS = dict(commands())
OPTIONS = [(words, param) for words, command in COMMANDS.items() for param in command.params
           if param.param_type_name == "option"]  # fmt: skip


# ------------------------------------------------------------------------------------------ program and help


def test_the_module_is_the_program() -> None:
    assert program("--version").stdout == f"fastvlm-bench {__version__}\n"
    helped = program("run", "-h")
    assert helped.returncode == 0 and "Usage: fastvlm-bench run [OPTIONS]" in helped.stdout
    wrong = program("run", "--suite", "nothing")
    assert wrong.returncode == 2 and wrong.stderr.startswith("fastvlm-bench: unknown suite 'nothing'")


def test_version(call: Call) -> None:
    assert call("--version").stdout == f"fastvlm-bench {__version__}\n"


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_help_of_each_command(call: Call, words: tuple[str, ...]) -> None:
    short, long = call(*words, "-h"), call(*words, "--help")
    assert short.exit_code == long.exit_code == 0 and short.stdout == long.stdout
    assert short.stdout.splitlines()[1].strip().startswith("Usage: ")
    parsed = call(*words, *(() if not words or words == ("suites",) else ("--nothing",)), "-h")  # not the short way
    assert parsed.exit_code == 0 or "--nothing" in parsed.stderr


def test_help_after_other_options_is_the_same(call: Call) -> None:
    assert call("run", "--limit", "3", "-h").stdout == call("run", "-h").stdout


def test_without_a_command_the_help_is_shown(call: Call) -> None:
    assert call().stdout == call("-h").stdout and call().exit_code == 2


@pytest.mark.parametrize("columns", [40, 80, 120])
@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_help_fits_and_breaks_no_word(monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], columns: int) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("NO_COLOR", "1")
    command = COMMANDS[words]
    text = page(command, typer.Context(command, info_name="fastvlm-bench"))
    frames = [line for line in text.splitlines() if line[:1] in "╭│╰" and line]
    assert frames and {len(line) for line in frames} == {columns} or columns == 40
    assert max(map(len, text.splitlines())) <= columns or columns == 40
    said = set(text.split())
    for param in command.params:
        assert set((param.help or "").split()) <= said, param.name
        for name in param.opts if param.param_type_name == "option" else ():
            assert any(name in word for word in text.replace("[no-]", "").split()), name


def test_panels_of_run(call: Call) -> None:
    lines = call("run", "-h").stdout.splitlines()
    panels = [line.strip("╭╮─ ") for line in lines if line.startswith("╭")]
    assert panels == [
        "What is decoded", "The model and how it is loaded", "How it is decoded", "Measurement", "Output", "Options",
    ]  # fmt: skip


def test_help_without_characters_for_frames() -> None:
    helped = program("run", "-h", PYTHONIOENCODING="ascii")
    assert helped.returncode == 0 and helped.stdout.isascii() and "+- Output -" in helped.stdout


# ------------------------------------------------------------------------------------------ completion

BY_NAME = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}  # so that the shell is named, not found out


def test_completion_is_shown_and_installed(tmp_path: Path) -> None:
    shown = program("--show-completion", "bash", **BY_NAME)
    assert shown.returncode == 0 and "_FASTVLM_BENCH_COMPLETE=complete_bash" in shown.stdout
    done = program("--install-completion", "bash", HOME=str(tmp_path), **BY_NAME)
    assert done.returncode == 0 and "bash completion installed" in done.stdout
    installed = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any("_FASTVLM_BENCH_COMPLETE" in path.read_text() for path in installed)
    helped = program("-h").stdout
    assert "--install-completion" in helped and "--show-completion" in helped


TYPED = [("ab", "ablate"), ("run --num", "--num-speculative-tokens"), ("suites pr", "prepare")]


@pytest.mark.parametrize(("typed", "offered"), covering(TYPED, TYPED[1:2]))
def test_completion_completes(typed: str, offered: str) -> None:
    words = f"fastvlm-bench {typed}"
    found = program(_FASTVLM_BENCH_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD=str(words.count(" ")))
    assert found.stdout.split() == [offered], found.stderr


# ------------------------------------------------------------------------------------------ other names


@pytest.mark.parametrize(
    ("name", "others"),
    [("--out", {"--output", "-o"}), ("--attn", {"--attn-implementation"}), ("--gamma", {"--num-speculative-tokens"}),
     ("--quiet", {"-q"})],
)  # fmt: skip
def test_other_names_stand_wherever_the_name_stands(name: str, others: set[str]) -> None:
    found = [(words, set(param.opts)) for words, param in OPTIONS if name in param.opts]
    assert found and all(others <= names for _, names in found), found


def test_each_command_that_loads_a_model_knows_its_revision() -> None:
    loading = {words for words, param in OPTIONS if param.name == "dtype"}
    assert len(loading) >= 4 and loading == {words for words, param in OPTIONS if param.name == "revision"}


@pytest.mark.parametrize("words", [("run",), ("train",), ("ablate",)])
def test_a_flag_of_a_file_can_be_taken_back(words: tuple[str, ...]) -> None:
    flags = [param for param in COMMANDS[words].params if param.is_flag]
    assert flags and all(param.secondary_opts for param in flags)


@pytest.mark.slow
def test_other_names_in_a_run_of_which_only_results_are_told(call: Call, tmp_path: Path) -> None:
    """The record holds one name for each setting, so that the run is the same as with the other names."""
    result = call(
        "run", "--limit", "1", "--threads", "1", "--warmup", "0", "--max-new-tokens", "4", "--output", tmp_path,
        "--attn-implementation", "eager", "--num-speculative-tokens", "3", "--dtype", "fp32", "-q",
    )  # fmt: skip
    assert result.exit_code == 0 and not result.stderr, result.output
    assert "speed-up" in result.stdout and "records: " in result.stdout
    (folder,) = tmp_path.iterdir()
    meta = read_run(folder).meta
    plain = RunConfig(limit=1, threads=1, warmup=0, max_new_tokens=4, attn="eager", gamma=3, dtype="float32")
    assert meta["config"] == {**plain.to_dict(), "out": str(tmp_path)} and meta["config_sha256"] == plain.sha256()
    assert (meta["model"]["dtype"], meta["model"]["attention"]) == ("float32", "eager")


@pytest.mark.parametrize(("short", "long"), (SHORT_DTYPES | TORCH_DTYPES).items())
def test_short_dtypes_are_the_long_ones(short: str, long: str, tmp_path: Path) -> None:
    assert RunConfig(dtype=short) == RunConfig(dtype=long)
    assert RunConfig(dtype=short).sha256() == RunConfig(dtype=long).sha256()
    trained = [TrainSettings(out=str(tmp_path), suites=("describe",), dtype=name) for name in (short, long)]
    assert trained[0] == trained[1] and trained[0].dtype == long


def test_short_dtypes_load() -> None:
    target = load_target("tiny", device="cpu", dtype="bf16")
    assert next(target.model.parameters()).dtype == torch.bfloat16


def test_short_dtype_of_a_check(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    import fastvlm_bench.checks.preflight as preflight

    seen: list[Any] = []
    monkeypatch.setattr(preflight, "check_model", lambda *_, **options: seen.append(options["dtype"]) or [])
    assert call("models", "--check", "tiny", "--dtype", "half").exit_code == 0 and seen == ["float16"]


# ------------------------------------------------------------------------------------------ quiet


@pytest.mark.slow
def test_quiet_over_batch_sizes(call: Call, tmp_path: Path) -> None:
    few = ("run", "--suite", "describe", "--limit", "2", "--threads", "1", "--warmup", "0", "--max-new-tokens", "4")
    result = call(*few, "-m", "standard", "--batch-size", "1,2", "-o", tmp_path, "--quiet")
    assert result.exit_code == 0 and not result.stderr, result.output
    assert "records: " in result.stdout


def test_quiet_invocations_are_told(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fastvlm_bench.measuring.invocation as invocation

    seen: list[bool] = []

    def invoke(folder: Path, number: int, quiet: bool, answers: bool) -> int:
        seen.append(quiet)
        return 2

    monkeypatch.setattr(invocation, "invoke", invoke)
    for option in ("--quiet", "--no-quiet"):
        call("run", "--limit", "1", "--invocations", "2", "-o", tmp_path, option)
    assert seen == [True, False]


@pytest.mark.parametrize("brief", [False, True])
def test_a_quiet_training_says_what_has_come_of_it(brief: bool) -> None:
    own = Validated(alpha=0.5, tau=2.0, speedup=1.5, gamma=4, stop_below=0.5, by_position=[0.5], by_suite={})
    display = Display(brief=brief)
    display.console = Console(record=True, width=100)
    with display:
        display.say("going on")
        display.bar("answers", 4)(4)
        for done in (1, 2):
            display.table(done, {"mlp": 0.5}, {"mlp": own}, {"mlp": 1})
        display.conclude("saved")
    said = display.console.export_text()
    assert ("going on" in said, "answers: 4 of 4" in said, "update    1" in said) == (not brief,) * 3
    assert "saved" in said and said.count("held out, after update 2") == brief


# ------------------------------------------------------------------------------------------ the hub


def test_revision_beside_the_model() -> None:
    assert (
        with_revision("org/m", "v1") == with_revision("org/m@v1", "v1") == with_revision("org/m@v1", None) == "org/m@v1"
    )
    assert with_revision("tiny", None) == "tiny"


@pytest.mark.parametrize(
    ("model", "revision", "says"),
    [
        ("org/m@v1", "v2", "--revision v2 contradicts --model org/m@v1; give one of the two"),
        ("tiny", "v1", "--revision v1 has no effect: 'tiny' is a model of the tool's own; leave it out"),
        (str(TINY), "v1", "is a folder; leave it out, or give a hub id"),
        ("org/m", "", "--revision is ''; it must be a branch, a tag or a commit of org/m"),
        ("tinny", "v1", "unknown model 'tinny'"),
    ],
)
def test_revisions_that_say_nothing(refused: Callable[..., str], model: str, revision: str, says: str) -> None:
    assert says in refused("run", "--model", model, "--revision", revision)
    assert says in refused("models", "--check", model, "--revision", revision)


@pytest.fixture
def attempts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Any]:
    """What wanted to reach the network in this process, where the hub's cache is empty."""
    seen: list[Any] = []

    def attempt(*where: Any, **_: Any) -> None:
        seen.append(where)
        raise OSError("no network here")

    monkeypatch.setattr(socket, "getaddrinfo", attempt)
    monkeypatch.setattr(socket.socket, "connect", attempt)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return seen


@pytest.mark.parametrize("option", [True, False])
def test_offline_is_what_the_variable_is(
    refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch, attempts: list[Any], option: bool
) -> None:
    """No attempt to reach the network, and a line that says by what: for a model, and for a draft."""
    if not option:
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)  # read when it was imported
    given = ["--offline"] if option else []
    by = "--offline" if option else "HF_HUB_OFFLINE"
    line = refused("models", "--check", "someone/model", *given)
    assert f"model 'someone/model' is not in the cache, and {by} forbids asking the hub: leave that out" in line
    line = refused("run", "--draft", "someone/draft", *given)
    assert f"no draft at someone/draft: there is no such folder, it is not in the cache, and {by} forbids" in line
    assert not attempts and huggingface_hub.constants.HF_HUB_OFFLINE is not option


def test_without_either_the_network_is_tried(refused: Callable[..., str], attempts: list[Any]) -> None:
    assert "check the id, the folder and the network" in refused("models", "--check", "someone/model")
    assert attempts


@pytest.mark.slow
def test_home_of_the_hub_and_its_offline_variable_are_obeyed(tmp_path: Path) -> None:
    """A model of the cache in HF_HOME, at a tag, without the network; the token is nowhere in the record."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    kept = tmp_path / "home" / "hub" / "models--someone--small"
    shutil.copytree(TINY, kept / "snapshots" / commit)
    (kept / "refs").mkdir()
    (kept / "refs" / "v1.0").write_text(commit)
    result = program(
        "run", "--model", "someone/small", "--revision", "v1.0", "-m", "standard", "--limit", "1", "--threads", "1",
        "--warmup", "0", "--max-new-tokens", "4", "-o", tmp_path / "results", "--json", code=NO_NETWORK,
        HF_HOME=str(tmp_path / "home"), HF_HUB_OFFLINE="1", HF_TOKEN=TOKEN,
    )  # fmt: skip
    assert result.returncode == 0 and "network:" not in result.stderr, result.stderr
    (folder,) = (tmp_path / "results").iterdir()
    meta = read_run(folder).meta
    assert meta["config"]["model"] == meta["model"]["id"] == "someone/small@v1.0"
    assert meta["model"]["revision"] == commit
    assert meta["environment"]["variables"]["HF_HUB_OFFLINE"] == "1"
    assert not any(TOKEN.encode() in path.read_bytes() for path in folder.rglob("*") if path.is_file())
    json.loads(result.stdout)


@pytest.mark.slow
def test_token_of_the_hub_is_sent(tmp_path: Path) -> None:
    """To the hub's address, here a server that calls every model gated."""
    sent: list[str | None] = []

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            sent.append(self.headers["Authorization"])
            self.send_response(403)
            self.send_header("X-Error-Code", "GatedRepo")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    result = program("models", "--check", "someone/gated", HF_ENDPOINT=address, HF_TOKEN=TOKEN, HF_HOME=str(tmp_path),
                     HF_HUB_OFFLINE="", NO_PROXY="127.0.0.1")  # fmt: skip
    server.shutdown()
    server.server_close()
    assert result.returncode == 2 and "model 'someone/gated' is gated: accept its terms" in result.stderr
    assert f"Bearer {TOKEN}" in sent


def test_offline_in_the_library(attempts: list[Any]) -> None:
    with pytest.raises(UsageError, match="--offline forbids asking the hub"):
        load_target("someone/model", device="cpu", offline=True)
    assert not attempts
