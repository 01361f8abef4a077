"""Processes as torchrun starts them measure one run: the tokens of one process, one folder, and nothing is lost."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from several import free_port, launched
from targets import random_llava

from fastvlm_bench.cli.app import app
from fastvlm_bench.embedded.parts import build_processor, save
from fastvlm_bench.records.rank_files import RankWriter
from fastvlm_bench.records.record import Run, read_run

SAMPLES = 7
ROOT = Path(__file__).parents[2]
Measured = tuple[list[tuple[int, str, str]], Run]


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The arguments of a run of a small random target."""
    folder = tmp_path_factory.mktemp("ranks") / "model"
    model, tokenizer = random_llava(3)
    with torch.no_grad():  # it never writes the image's placeholder
        model.get_output_embeddings().weight[model.config.image_token_index] = 0
    save(model, build_processor(tokenizer), folder)
    return ["run", "--model", str(folder), "--suite", "vqav2", "--suite", "coco-caption", "--limit", str(SAMPLES), "-m",
            "layerskip:exit_layer=1,gamma=3", "--max-new-tokens", "5", "--warmup", "0", "--threads", "1", "--device",
            "cpu"]  # fmt: skip


def measured(
    arguments: list[str], world: int, out: Path, prepare: Callable[[int], None] = lambda rank: None
) -> Measured:
    """What the processes said, and the one run folder in `out`."""

    def work(rank: int) -> int:
        prepare(rank)
        return int(app([*arguments, "--out", str(out)]))

    said = launched(work, world, out.with_name(f"{out.name}-said"))
    folders = list(out.iterdir())
    assert len(folders) == 1, said
    return said, read_run(folders[0])


def tokens(run: Run) -> dict[tuple[Any, ...], Any]:
    return {(line["suite"], line["sample_id"], line["method"], line["repeat"]): (line["token_ids"], line["text"])
            for line in run.lines}  # fmt: skip


def ranks_of(run: Run) -> dict[tuple[Any, ...], set[int]]:
    """Group -> the ranks that measured its lines."""
    found: dict[tuple[Any, ...], set[int]] = {}
    for line in run.lines:
        found.setdefault((line["suite"], line["sample_id"], line["repeat"]), set()).add(line["rank"])
    return found


@pytest.fixture(scope="module")
def one(given: list[str], tmp_path_factory: pytest.TempPathFactory) -> Run:
    said, run = measured(given, 1, tmp_path_factory.mktemp("one") / "out")
    assert said[0][0] == 0, said
    return run


@pytest.mark.slow
def test_two_processes_are_one(given: list[str], one: Run, tmp_path: Path) -> None:
    said, run = measured(given, 2, tmp_path / "out")
    assert [code for code, _, _ in said] == [0, 0], said
    assert "VALID" in said[0][1] and said[1][1:] == ("", ""), "only the leader prints"
    assert tokens(run) == tokens(one) and len(run.lines) == len(one.lines) == 4 * SAMPLES
    groups = ranks_of(run)
    assert all(len(ranks) == 1 for ranks in groups.values()), "a sample's methods are timed in one process"
    for suite in ("vqav2", "coco-caption"):
        own = [min(ranks) for key, ranks in groups.items() if key[0] == suite]
        assert own == [0, 1, 0, 1, 0, 1, 0], "shares are balanced, and lie as one process would have measured"
    assert run.meta["status"] == "success" and run.sealed and not list(run.folder.glob("samples.rank*"))
    assert [each["rank"] for each in run.meta["ranks"]] == [0, 1] and len(run.meta["outside"]) == 2
    assert [suite["samples"] for suite in run.meta["suites"]] == [suite["samples"] for suite in one.meta["suites"]]


@pytest.mark.slow
def test_two_processes_with_recorded_passes_are_one_with_eager_ones(given: list[str], one: Run, tmp_path: Path) -> None:
    """Each process records its own passes, and the samples are divided as ever."""
    said, run = measured([*given, "--engine", "graphs"], 2, tmp_path / "out")
    assert [code for code, _, _ in said] == [0, 0], said
    assert tokens(run) == tokens(one)
    assert {min(ranks) for ranks in ranks_of(run).values()} == {0, 1}
    assert run.meta["engine"]["passes"] > 0 and run.meta["engine"]["eager"] == []
    assert run.meta["config"]["engine"] == "graphs"
    assert not any(notice["name"] == "EagerEngine" for notice in run.meta["warnings"])


def dies_after(lines: int, ranks: tuple[int, ...], number: int = signal.SIGKILL) -> Callable[[int], None]:
    """These ranks get a signal when they have measured so many lines."""

    def prepare(rank: int) -> None:
        real = RankWriter.append

        def append(self: RankWriter, line: Any) -> None:
            real(self, line)
            if self._seq == lines:
                os.kill(os.getpid(), number)

        if rank in ranks:
            RankWriter.append = append  # type: ignore[method-assign]

    return prepare


@pytest.mark.slow
def test_a_lost_process_is_told_and_its_samples_are_measured_again(given: list[str], one: Run, tmp_path: Path) -> None:
    said, run = measured(given, 2, tmp_path / "out", dies_after(3, (1,)))
    assert said[1][0] == -signal.SIGKILL and said[0][0] == 1
    assert "a process of this run is gone" in said[0][2] and "rank 1: 5 of 6 samples are missing" in said[0][2]
    assert run.meta["status"] == "error" and {line["rank"] for line in run.lines} == {0, 1}
    arguments = [*given, "--resume", str(run.folder)]
    for world in (2, 1):  # what is missing is shared anew, then nothing is left for one process alone
        again, whole = measured(arguments, world, tmp_path / "out")
        assert [code for code, _, _ in again] == [0] * world, again
        assert tokens(whole) == tokens(one) and whole.meta["status"] == "success"
    seconds = [line["ttft_s"] for line in whole.lines]
    assert all(line["ttft_s"] in seconds for line in run.lines if line["rank"] == 0), "what was kept was not repeated"


@pytest.mark.slow
def test_what_killed_processes_had_measured_is_kept(given: list[str], one: Run, tmp_path: Path) -> None:
    said, run = measured(given, 2, tmp_path / "out", dies_after(4, (0, 1)))
    assert [code for code, _, _ in said] == [-signal.SIGKILL] * 2 and run.lines == []
    again, whole = measured([*given, "--resume", str(run.folder)], 1, tmp_path / "out")
    assert again[0][0] == 0 and "8 lines that processes of this run had left are kept" in again[0][2], again
    assert tokens(whole) == tokens(one) and sum("rank" in line for line in whole.lines) == 8


@pytest.mark.slow
def test_an_interrupted_run_keeps_the_lines_of_all_and_tells_what_is_missing(given: list[str], tmp_path: Path) -> None:
    """As torchrun does when one process has failed: it sends SIGTERM to the others."""
    said, run = measured(given, 2, tmp_path / "out", dies_after(4, (0, 1), signal.SIGTERM))
    assert said[0][0] == 128 + signal.SIGTERM and "interrupted; 4 samples are kept" in said[0][2], said
    assert "rank 0: 6 of 8 samples are missing" in said[0][2] and "rank 1: 4 of 6 samples are missing" in said[0][2]
    assert run.meta["status"] == "interrupted" and len(run.lines) == 8 and {x["rank"] for x in run.lines} == {0, 1}
    assert not list(run.folder.glob("samples.rank*"))


@pytest.mark.slow
def test_what_the_leader_or_another_refuses_ends_all(given: list[str], tmp_path: Path) -> None:
    def fails(rank: int) -> int:
        return int(app([*given, "--out", str(tmp_path / "out"), *(["--attn", "eager"] if rank else [])]))

    said = launched(fails, 2, tmp_path / "said")
    assert said[0][0] == 2 and "rank 1 is not as rank 0 (model.attention: sdpa -> eager)" in said[0][2], said
    assert said[1] == (0, "", "") and not list((tmp_path / "out").iterdir())
    said = launched(lambda rank: int(app([*given, "--exit-layer", "9", "-m", "layerskip"])), 2, tmp_path / "said")
    assert said[0][0] == 2 and said[1][1:] == ("", ""), said


DIES = '''"""Standard decoding, of which the rank that DIES names is killed at its third answer."""

import os
import signal

from fastvlm_bench.decoding.standard import Standard
from fastvlm_bench.method_spec import MethodKind

METHOD = MethodKind("dies", lossless=True)


class Dies(Standard):
    answers = 0

    def begin(self, session):
        Dies.answers += 1
        if Dies.answers == 3 and os.environ["RANK"] == os.environ.get("DIES"):
            os.kill(os.getpid(), signal.SIGKILL)
        super().begin(session)
'''


@pytest.mark.slow
def test_torchrun_itself_starts_them_and_what_a_killed_one_lacks_is_resumed(
    given: list[str], one: Run, tmp_path: Path
) -> None:
    """As it is typed: torchrun starts new processes, and ends the others when one was killed."""
    (tmp_path / "dies.py").write_text(DIES)
    out = tmp_path / "out"

    def torchrun(*more: str, **environment: str) -> subprocess.CompletedProcess[str]:
        own = [*given, "-m", str(tmp_path / "dies.py"), "--out", str(out), *more]
        launch = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(free_port())]
        known = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
        return subprocess.run([sys.executable, *launch, "-m", "fastvlm_bench", *own], capture_output=True, text=True,
                              env={**os.environ, **known, **environment})  # fmt: skip

    lost = torchrun(DIES="1")
    (folder,) = out.iterdir()
    run = read_run(folder)
    assert lost.returncode and 0 < len(run.lines) < 6 * SAMPLES, lost.stderr
    assert run.meta["status"] != "success" and "samples are missing" in lost.stderr
    whole = torchrun("--resume", str(folder))
    assert whole.returncode == 0 and "VALID" in whole.stdout, whole.stderr
    again = read_run(folder)
    own = {key: value for key, value in tokens(again).items() if not key[2].endswith("dies.py")}
    assert own == tokens(one) and len(again.lines) == 6 * SAMPLES and again.sealed
    assert {line["rank"] for line in again.lines} == {0, 1} and not list(folder.glob("samples.rank*"))
    assert list(out.iterdir()) == [folder]


@pytest.mark.parametrize(
    "options", [("--budget", "5"), ("--until-width", "0.1"), ("--refine",), ("--energy", "5"), ("--invocations", "2")]
)
def test_what_one_process_must_do_is_refused(
    refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]
) -> None:
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", "1")):
        monkeypatch.setenv(name, value)
    told = "is for one process, and 2 were started; leave it out, or leave torchrun out"
    assert refused("run", *options).endswith(f"{options[0]} {told}")
    assert refused("run", "--batch-size", "1,2").endswith(f"a list of batch sizes {told}")
