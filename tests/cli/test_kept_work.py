"""What was measured is kept and said: signals in quick succession or while scoring, full disks, removed folders."""

import importlib
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from covering import covering

from fastvlm_bench.config import RunConfig
from fastvlm_bench.errors import UsageError, WriteFailed
from fastvlm_bench.measuring import benchmark
from fastvlm_bench.measuring.signals import GRACE_S, catch_signals, deaf, own_signals
from fastvlm_bench.records.record import RunWriter, read_meta, read_run
from fastvlm_bench.records.undisturbed import undisturbed

CONFIG = {"suites": ("vqav2",), "limit": 4, "threads": 1}
Step = Callable[[RunWriter, int], object]


@pytest.fixture(autouse=True)
def signals_as_before() -> Iterator[None]:
    with own_signals():
        yield


def measuring(at: Step) -> Callable[..., None]:
    """Stands for `measure_suites`: writes a group of lines for each sample, and calls `at` before each."""

    def measure(config: RunConfig, suites: Any, writer: RunWriter, *_: Any) -> None:
        methods = [{"label": label, "name": label, "spec": label, "lossless": True, "options": {}, "draft": None,
                    "extra_bytes": 0} for label in ("standard", "fastvlm")]  # fmt: skip
        model = {"id": "tiny", "dtype": "float32", "device": "cpu", "attention": "sdpa", "weights_sha256": "0" * 64}
        writer.update(model=model, methods=methods)
        for place, sample in enumerate(writer.meta["suites"][0]["samples"]):
            if ("vqav2", sample["sample_id"], 0) in writer.completed:
                continue
            at(writer, place)
            for order, method in enumerate(methods):
                writer.append({
                    "suite": "vqav2", "sample_id": sample["sample_id"], "method": method["label"], "repeat": 0,
                    "order": order, "token_ids": [5, 6, 2], "text": "red", "stop": "eos", "ttft_s": 0.1,
                    "vision_s": None, "prefill_s": 0.1, "decode_s": 0.2, "rounds": [[0, 0, 0, 1, 0.0, 0.05]] * 2,
                    "memory": {}, "scores": {}, "error": None,
                })  # fmt: skip

    return measure


def run(
    monkeypatch: pytest.MonkeyPatch, out: Path, at: Step = lambda *_: None, resume: Path | None = None
) -> tuple[int, Path]:
    monkeypatch.setattr(benchmark, "measure_suites", measuring(at))
    code = benchmark.run_benchmark(
        RunConfig(**CONFIG, out=str(out)), resume=resume, csv=None, as_json=False, quiet=True, command=["x"]
    )
    return code, resume or next(out.iterdir())


def send(number: int, place: int = 2) -> Step:
    return lambda _, now: os.kill(os.getpid(), number) if now == place else None


SIGNALS = [(signal.SIGINT, 130), (signal.SIGTERM, 143)]
TIMES = [(*told, times) for told in SIGNALS for times in (1, 2, 5)]
PLACES = [(*told, place) for place in ("ending.judge", "ending.run_markdown", "benchmark.show_results")
          for told in SIGNALS]  # fmt: skip


@pytest.mark.parametrize(("number", "code", "times"), covering(TIMES, [TIMES[1], TIMES[3]]))
def test_signals_in_quick_succession_are_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any, number: int, code: int, times: int
) -> None:
    def at(writer: RunWriter, place: int) -> None:
        if place == 2:
            try:
                os.kill(os.getpid(), number)
            finally:
                for _ in range(times - 1):  # while the first is on its way out
                    os.kill(os.getpid(), number)

    told, folder = run(monkeypatch, tmp_path, at)
    assert told == code
    assert f"interrupted; 2 samples are kept; go on with --resume {folder}" in capsys.readouterr().err
    assert read_run(folder).meta["status"] == "interrupted" and len(read_run(folder).lines) == 4
    assert run(monkeypatch, tmp_path, resume=folder)[0] == 0 and len(read_run(folder).lines) == 8


@pytest.mark.parametrize(("number", "code"), covering(SIGNALS, SIGNALS[:1]))
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", ["record.seal", "record.write_lines", "sealing.Digest.add"])
def test_a_signal_while_a_line_is_written_waits_for_its_end(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, step: str, when: str, number: int, code: int
) -> None:
    """Else the file has a line that is not in the seal, and the run counts as altered."""
    place, _, name = f"fastvlm_bench.records.{step}".rpartition(".")
    owner = RunWriter.__init__.__globals__["Digest"] if name == "add" else importlib.import_module(place)
    real, calls = getattr(owner, name), list[int]()

    def step_with_signal(*args: Any) -> Any:
        calls.append(len(calls))
        if when == "before" and len(calls) == 5:
            os.kill(os.getpid(), number)
        found = real(*args)
        if when == "after" and len(calls) == 5:
            os.kill(os.getpid(), number)
        return found

    with monkeypatch.context() as during:
        during.setattr(owner, name, step_with_signal)
        told, folder = run(during, tmp_path)
    found = read_run(folder)
    assert told == code and found.meta["status"] == "interrupted"
    assert len(found.lines) == (4 if step == "record.seal" else 5)
    assert run(monkeypatch, tmp_path, resume=folder)[0] == 0
    assert len({(line["sample_id"], line["method"]) for line in read_run(folder).lines}) == 8


def test_a_line_that_cannot_be_written_is_told_before_a_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    catch_signals()
    with pytest.raises(WriteFailed), undisturbed():
        os.kill(os.getpid(), signal.SIGINT)
        raise WriteFailed("the disk is full")
    with undisturbed():
        pass  # the program is on its way out already


def test_a_later_signal_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = [100.0]
    monkeypatch.setattr("fastvlm_bench.measuring.signals.time.monotonic", lambda: now_s[0])
    catch_signals()
    for passed_s, raised in ((0.0, True), (GRACE_S / 2, False), (GRACE_S, True)):
        now_s[0] += passed_s
        if raised:
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
        else:
            os.kill(os.getpid(), signal.SIGINT)
    with deaf():
        os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize(("number", "code", "place"), covering(PLACES, [PLACES[0], PLACES[3], PLACES[4]]))
def test_a_signal_while_it_scores_or_reports(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any, number: int, code: int, place: str
) -> None:
    with monkeypatch.context() as during:
        during.setattr(f"fastvlm_bench.measuring.{place}", lambda *_, **__: os.kill(os.getpid(), number))
        told, folder = run(during, tmp_path)
    said = capsys.readouterr().err
    assert told == code and f"go on with --resume {folder}" in said and "Traceback" not in said
    assert read_meta(folder)["status"] == ("interrupted" if place == "ending.judge" else "success")
    assert len(read_run(folder).lines) == 8
    assert run(monkeypatch, tmp_path, resume=folder)[0] == 0
    assert read_meta(folder)["status"] == "success" and (folder / "summary.md").exists()


def test_a_finished_run_that_is_resumed_is_not_opened_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any
) -> None:
    _, folder = run(monkeypatch, tmp_path)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    monkeypatch.setattr(RunWriter, "resume", None)
    code, _ = run(monkeypatch, tmp_path, send(signal.SIGINT, 0), resume=folder)
    assert code == 0 and "is finished: nothing is left to measure" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize("lasting", [False, True])
def test_a_full_disk_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any, lasting: bool
) -> None:
    """The disk is full at the third sample; lasting: run.json cannot be written afterwards, either."""

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as during:

        def at(writer: RunWriter, place: int) -> None:
            if place == 2:
                during.setattr(os, "fsync", full)

        real = RunWriter.append

        def append(self: RunWriter, line: Any) -> None:
            try:
                real(self, line)
            finally:
                if not lasting and os.fsync is full:
                    during.undo()

        during.setattr(RunWriter, "append", append)
        with pytest.raises(WriteFailed, match=r"samples\.jsonl: No space left on device; 4 lines are kept"):
            run(during, tmp_path, at)
    folder = next(tmp_path.iterdir())
    assert f"stopped; 2 samples are kept; go on with --resume {folder}" in capsys.readouterr().err
    assert run(monkeypatch, tmp_path, resume=folder)[0] == 0 and len(read_run(folder).lines) == 8


def remove_folder(folder: Path) -> None:
    shutil.rmtree(folder)


def remove_samples(folder: Path) -> None:
    (folder / "samples.jsonl").unlink()


def move_folder(folder: Path) -> None:
    folder.rename(folder.parent / "moved")


@pytest.mark.parametrize("lose", [remove_folder, remove_samples, move_folder])
@pytest.mark.parametrize("place", [0, 2, 3])
def test_what_is_removed_while_it_is_measured_is_made_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any, lose: Callable[[Path], None], place: int
) -> None:
    at: Step = lambda writer, now: lose(writer.folder) if now == place else None  # noqa: E731
    out = tmp_path / "out"
    code, _ = run(monkeypatch, out, at)
    folder = next(path for path in out.iterdir() if path.name != "moved")
    assert code == 0 and f"was removed while it was measured; it is there again, with its {2 * place} lines" in (
        capsys.readouterr().err
    )
    assert len(read_run(folder).lines) == 8 and read_meta(folder)["status"] == "success"
    assert not (folder / ".lock").exists()


def test_where_it_cannot_be_made_again_it_stops_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def at(writer: RunWriter, place: int) -> None:
        if place == 2:
            shutil.rmtree(writer.folder)
            writer.folder.write_text("in the way")
        assert place < 3, "it must not go on"

    with pytest.raises(WriteFailed, match=r"was removed while it was measured, and cannot be made again: .*; 4 lines"):
        run(monkeypatch, tmp_path, at)


def test_a_removed_lock_lets_nobody_write_beside_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def at(writer: RunWriter, place: int) -> None:
        if place == 2:
            (writer.folder / ".lock").unlink()
            with pytest.raises(UsageError, match="is being written by another process"):
                RunWriter.resume(writer.folder, writer.meta["config_sha256"])

    code, folder = run(monkeypatch, tmp_path, at)
    assert code == 0 and len(read_run(folder).lines) == 8
