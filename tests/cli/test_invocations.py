"""`run --invocations`: processes one after the other, killed in one and resumed; and the stop rules on a real run."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from fastvlm_bench.records.record import read_run

pytestmark = pytest.mark.slow
RUN = [
    sys.executable,
    "-m",
    "fastvlm_bench.cli.app",
    "run",
    "--threads",
    "1",
    "--warmup",
    "1",
    "--max-new-tokens",
    "12",
]


def start(out: Path, *options: str) -> "subprocess.Popen[bytes]":
    command = [*RUN, "--out", str(out), *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def only(out: Path) -> Path:
    (folder,) = out.iterdir()
    return folder


def facts(folder: Path) -> list[tuple[Any, ...]]:
    """What must not depend on interruptions, ordered by key."""
    return sorted((line["sample_id"], line["repeat"], line["method"], line["invocation"], tuple(line["token_ids"]))
                  for line in read_run(folder).lines)  # fmt: skip


def test_killed_in_the_second_of_three_and_resumed(tmp_path: Path) -> None:
    whole = start(tmp_path / "whole", "--limit", "5", "--invocations", "3", "--json")
    output, _ = whole.communicate(timeout=180)
    assert whole.returncode == 0
    row = json.loads(output)["rows"][1]
    assert row["invocations"] == 3 and len(row["speedup_by_invocation"]) == 3 and row["repeats"] == 3
    run = read_run(only(tmp_path / "whole"))
    assert len(run.meta["conditions"]) == 3 and {line["invocation"] for line in run.lines} == {0, 1, 2}
    assert all(line["repeat"] == line["invocation"] for line in run.lines)

    options = ("--limit", "5", "--invocations", "3")
    killed = start(tmp_path / "killed", *options)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        found = list((tmp_path / "killed").glob("*/samples.jsonl"))
        if found and found[0].read_text().count('"invocation":1') >= 2:
            break
        time.sleep(0.05)
    killed.send_signal(signal.SIGTERM)
    _, errors = killed.communicate(timeout=60)
    assert killed.returncode == 143 and b"go on with --resume" in errors
    folder = only(tmp_path / "killed")
    assert read_run(folder).meta["status"] == "interrupted"
    before = (folder / "samples.jsonl").read_text()
    again = start(tmp_path / "killed", *options, "--resume", str(folder))
    again.communicate(timeout=180)
    assert again.returncode == 0 and (folder / "samples.jsonl").read_text().startswith(before)
    assert facts(folder) == facts(only(tmp_path / "whole"))


def test_the_budget_ends_a_run_that_says_so(tmp_path: Path) -> None:
    run = start(tmp_path, "--budget", "2")
    output, _ = run.communicate(timeout=120)
    text = " ".join(output.decode().split())
    assert run.returncode == 0 and "ended by --budget 2 (seconds) after" in text
    stopped = read_run(only(tmp_path)).meta["stopped"]["coco-caption"]
    assert stopped["by"] == "budget" and 2 <= stopped["seconds"] < 10
