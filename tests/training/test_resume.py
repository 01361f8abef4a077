"""Killed at any point and started again, a training ends with the very bytes of one that never was."""

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from forked import in_child

from fastvlm_bench.analysis.prediction import PassCosts
from fastvlm_bench.errors import BenchError, UsageError
from fastvlm_bench.training import answers, backbone, costs, fit, outcome, trainer, updates
from fastvlm_bench.training.folder import TrainingFolder
from fastvlm_bench.training.settings import TrainSettings

COSTS = PassCosts(1.0, 0.05, [0.9 + 0.01 * k for k in range(11)])
"""Fixed, because costs are timings and differ. Everything else that a training learns must be the same to the bit."""


@pytest.fixture
def given(checkpoint: Path, pictures: tuple[Path, Path]) -> dict[str, Any]:
    return dict(
        model=str(checkpoint), images=str(pictures[0]), prompts=str(pictures[1]), exit_layers=("1",),
        heads=("mlp", "eagle:unroll=2"), samples=5, held_out=1, max_new_tokens=6, updates=3, refine_updates=2, batch=2,
        micro=2, validate_every=2, device="cpu",
    )  # fmt: skip


@pytest.fixture(autouse=True)
def priced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(costs, "measure_costs", lambda *_: COSTS)
    monkeypatch.setattr(updates, "SAVE_EVERY_S", -1.0)
    monkeypatch.setattr(backbone, "SAVE_EVERY_S", -1.0)
    monkeypatch.setattr(outcome, "draw_curve", lambda *_: None)  # test_outcome.py has the pictures


def weights(out: Path) -> dict[str, bytes]:
    return {str(p.relative_to(out)): p.read_bytes() for p in sorted(out.rglob("head.safetensors"))}


def curve(out: Path) -> list[Any]:
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "elapsed_s"} for line in lines]


def opened_once(settings: TrainSettings) -> None:
    folder = TrainingFolder(Path(settings.out))
    folder.open(settings)
    folder.close()


def killed_at(event: int, settings: TrainSettings) -> int:
    """Train in a child that is killed at its `event`-th step: before, while or after it writes something."""
    count = itertools.count(1)

    def tick() -> None:
        if next(count) == event:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(owner: Any, name: str) -> None:
        own = getattr(owner, name)

        def ticking(*args: Any, **kwargs: Any) -> Any:
            tick()
            made = own(*args, **kwargs)
            tick()
            return made

        setattr(owner, name, ticking)

    def torn(state: Any, path: Path) -> None:
        path.write_bytes(b"half a state")
        tick()
        save(state, path)
        tick()

    def work() -> int:
        for owner, name in ((answers.AnswerFile, "add"), (trainer.HeadTrainer, "update"), (TrainingFolder, "log"),
                            (fit, "save_drafts"), (TrainingFolder, "open")):  # fmt: skip
            around(owner, name)
        torch.save = torn
        return fit.train(settings)

    save = torch.save
    return in_child(work)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("whole") / "draft"


def uninterrupted(out: Path, given: dict[str, Any]) -> Path:
    if not weights(out):
        assert fit.train(TrainSettings(**given, out=str(out))) == 0
    return out


def test_a_finished_training_leaves(given: dict[str, Any], whole: Path) -> None:
    uninterrupted(whole, given)
    assert list(weights(whole)) == ["eagle-exit1/head.safetensors", "mlp-exit1/head.safetensors"]
    assert [line["done"] for line in curve(whole)] == [2, 3, 4, 5]
    made, lines = weights(whole), curve(whole)
    handler = signal.getsignal(signal.SIGINT)
    assert fit.train(TrainSettings(**given, out=str(whole))) == 0, "nothing is left to do"
    assert weights(whole) == made and curve(whole) == lines and signal.getsignal(signal.SIGINT) is handler


@pytest.mark.slow
def test_a_training_repeats(given: dict[str, Any], whole: Path, tmp_path: Path) -> None:
    uninterrupted(whole, given)
    again = tmp_path / "again"
    assert fit.train(TrainSettings(**given, out=str(again))) == 0
    assert weights(again) == weights(whole) and curve(again) == curve(whole)


EVENTS = 60
"""More events than a training has: once one is not killed any more, all before it were killed at every place."""


@pytest.mark.slow
@pytest.mark.parametrize("events", [(7, 19, 3), None])  # None: one kill at every sixth event
def test_killed_anywhere(given: dict[str, Any], whole: Path, tmp_path: Path, events: Any) -> None:
    uninterrupted(whole, given)
    if events is not None:  # one training, killed again and again
        settings = TrainSettings(**given, out=str(tmp_path / "draft"))
        assert [killed_at(event, settings) for event in (*events, 10**6)] == [-signal.SIGKILL] * len(events) + [0]
        assert weights(tmp_path / "draft") == weights(whole) and curve(tmp_path / "draft") == curve(whole)
        assert not list((tmp_path / "draft").glob(".*")), "a lock or a temporary file is left"
        return
    for event in range(2, EVENTS, 6):
        settings = TrainSettings(**given, out=str(tmp_path / str(event)))
        if (code := killed_at(event, settings)) == 0:
            break
        assert code == -signal.SIGKILL
        assert in_child(lambda settings=settings: fit.train(settings)) == 0, f"event {event}"  # type: ignore[misc]
        assert weights(tmp_path / str(event)) == weights(whole), f"event {event}"
        assert not list((tmp_path / str(event)).glob(".*")), f"event {event} left a lock or a temporary file"
        assert curve(tmp_path / str(event)) == curve(whole), f"event {event}"
    else:
        raise AssertionError("there are more events")
    assert event > 30


@pytest.mark.slow
def test_other_settings_are_refused_and_restart_starts_over(
    given: dict[str, Any], whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uninterrupted(whole, given)
    out = tmp_path / "draft"
    settings = TrainSettings(**{**given, "seed": 1}, out=str(out))
    opened_once(settings)
    (out / "state.pt").write_bytes(b"of the other training")
    with pytest.raises(
        UsageError, match=r"other settings \(seed 1 there, 0 now\); choose another --out, or .*--restart"
    ):
        fit.train(TrainSettings(**given, out=str(out)))
    assert (out / "state.pt").read_bytes() == b"of the other training"
    elsewhere = TrainSettings(**{**given, "seed": 1}, out=str(out), threads=1)
    opened_once(elsewhere)  # where it runs may change
    assert fit.train(TrainSettings(**given, out=str(out), restart=True)) == 0
    assert weights(out) == weights(whole)


@pytest.mark.slow
def test_a_second_training_in_the_folder_is_refused(given: dict[str, Any], whole: Path, tmp_path: Path) -> None:
    """It names the process that trains there, and leaves what that is writing; a killed one blocks nobody."""
    uninterrupted(whole, given)
    out = tmp_path / "draft"
    settings = TrainSettings(**given, out=str(out))
    read, write = os.pipe()

    def work() -> int:
        update = trainer.HeadTrainer.update

        def waits(self: Any, *args: Any) -> Any:
            (out / f".state.pt.{os.getpid()}.tmp").write_bytes(b"half a state")
            (out / f".backbone.{os.getpid()}.tmp").mkdir(exist_ok=True)
            os.write(write, b".")
            time.sleep(60)
            return update(self, *args)

        trainer.HeadTrainer.update = waits  # type: ignore[method-assign]
        return fit.train(settings)

    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            work()
        os._exit(70)
    try:
        assert os.read(read, 1) == b"."
        half = {path.name for path in out.glob(".*.tmp")}
        for again in (settings, replace(settings, restart=True), replace(settings, seed=7)):
            with pytest.raises(UsageError, match=f"draft is being written by process {pid}; wait for it or stop it"):
                fit.train(again)
        assert {path.name for path in out.glob(".*.tmp")} == half and len(half) == 2
        assert json.loads((out / "settings.json").read_text())["learns"]["seed"] == 0
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert fit.train(settings) == 0
    assert weights(out) == weights(whole) and not list(out.glob(".*"))


def test_state_that_cannot_be_read(given: dict[str, Any], tmp_path: Path) -> None:
    settings = TrainSettings(**given, out=str(tmp_path / "draft"))
    opened_once(settings)
    (tmp_path / "draft" / "state.pt").write_bytes(b"not a state")
    with pytest.raises(Exception, match=r"state.pt cannot be read \(.*\); start over with --restart") as found:
        fit.train(settings)
    assert "\n" not in str(found.value)


def test_interrupted_within_an_update_finishes_it_first(
    given: dict[str, Any], whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    uninterrupted(whole, given)
    out = tmp_path / "draft"
    settings = TrainSettings(**given, out=str(out))
    update = trainer.HeadTrainer.update

    def interrupted(self: Any, *args: Any) -> Any:
        if self.done == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return update(self, *args)

    monkeypatch.setattr(trainer.HeadTrainer, "update", interrupted)
    assert fit.train(settings) == 130
    assert f"interrupted; the same command goes on from what is kept in {out}" in capsys.readouterr().out
    monkeypatch.setattr(trainer.HeadTrainer, "update", update)
    assert torch.load(out / "state.pt", weights_only=True)["trainer"]["done"] == 2
    assert fit.train(settings) == 0
    assert "going on after update 2" in capsys.readouterr().out
    assert weights(out) == weights(whole)


@pytest.mark.slow
def test_early_stop_is_early_after_a_kill_too(given: dict[str, Any], tmp_path: Path) -> None:
    """Killed right after it stopped early, it does not train on."""
    given = {**given, "heads": ("linear",), "lr": 1e-6, "patience": 1, "updates": 12}
    whole, killed = (TrainSettings(**given, out=str(tmp_path / name)) for name in ("whole", "killed"))
    assert fit.train(whole) == 0
    assert curve(tmp_path / "whole")[-1]["done"] == 4, "the second validation was no better"

    def dies(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def work() -> int:
        fit.save_drafts = dies  # type: ignore[assignment]
        return fit.train(killed)

    assert in_child(work) == -signal.SIGKILL
    assert fit.train(killed) == 0
    assert curve(tmp_path / "killed") == curve(tmp_path / "whole")
    assert weights(tmp_path / "killed") == weights(tmp_path / "whole")


@pytest.mark.slow  # test_trainer.py has the loss that names its samples
def test_loss_that_is_not_finite_ends_in_one_line(
    given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "position_losses", lambda r, s, d, a, t: d.float().sum(-1) * float("nan"))
    with pytest.raises(
        BenchError, match=r"is nan at update 1 on samples .*try a smaller --lr; what was trained before"
    ):
        fit.train(TrainSettings(**given, out=str(tmp_path / "draft")))


@pytest.mark.slow
def test_one_text_that_does_not_fit_ends_in_one_line(
    given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(trainer.HeadTrainer, "_backward", never)
    with pytest.raises(BenchError, match="^out of memory with one text at a time; what was made before is kept, so"):
        fit.train(TrainSettings(**given, out=str(tmp_path / "draft")))


DRIVER = """
import sys
from fastvlm_bench.training import costs, updates
from fastvlm_bench.analysis.prediction import PassCosts
costs.measure_costs = lambda *_: PassCosts(1.0, 0.05, [0.9 + 0.01 * k for k in range(11)])
updates.SAVE_EVERY_S = -1.0
from fastvlm_bench.cli.app import main
main()
"""


def command(given: dict[str, Any], out: Path) -> list[str]:
    return [
        sys.executable, "-c", DRIVER, "train", "--model", given["model"], "--images", given["images"], "--prompts",
        given["prompts"], "--exit-layer", "1", "--head", "mlp", "--head", "eagle:unroll=2", "--samples", "5",
        "--held-out", "1", "--max-new-tokens", "6", "--updates", "3", "--refine", "2", "--batch", "2", "--micro", "2",
        "--validate-every", "2", "--device", "cpu", "--threads", "1", "--out", str(out),
    ]  # fmt: skip


@pytest.mark.slow
def test_the_command_killed_and_interrupted(given: dict[str, Any], whole: Path, tmp_path: Path) -> None:
    """A real process: SIGINT while it trains ends with 130 and one line; SIGKILL at some time, and then it goes on."""
    uninterrupted(whole, given)
    out = tmp_path / "draft"

    def run(until: Path, number: int) -> tuple[int, str]:
        process = subprocess.Popen(command(given, out), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 100
        while process.poll() is None and not until.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(number)
        said, errors = process.communicate(timeout=100)
        assert "Traceback" not in errors, errors
        return process.returncode, said

    assert run(out / "answers.jsonl", signal.SIGKILL)[0] == -signal.SIGKILL
    code, said = run(out / "state.pt", signal.SIGINT)
    assert code in (130, 0), "0 where it was faster"
    if code == 130:
        assert said.rstrip().splitlines()[-1].startswith("interrupted; the same command goes on from what is kept in")
    done = subprocess.run(command(given, out), capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert "saved" in done.stdout and weights(out) == weights(whole)
    other = subprocess.run([*command(given, out), "--seed", "9"], capture_output=True, text=True, timeout=100)
    assert other.returncode == 2 and "other settings (seed 0 there, 9 now)" in other.stderr + other.stdout


@pytest.mark.slow
def test_exit_that_was_chosen_is_kept(given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`auto` takes the best predicted speed-up; a training that goes on does not choose again."""
    given = {**given, "exit_layers": ("auto",), "heads": ("linear",), "refine_updates": 0, "updates": 2}
    dear = PassCosts(1.0, 0.5, [1.0] * 11)
    monkeypatch.setattr(costs, "measure_costs", lambda _, __, ___, draft: COSTS if draft.exit_layer == 2 else dear)
    out, asked = tmp_path / "draft", list[int]()
    choose, start = fit.Training._choose_exit, updates.Updates.run

    def counted(self: Any, *args: Any) -> int:
        asked.append(1)
        return choose(self, *args)

    def stops(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(fit.Training, "_choose_exit", counted)
    monkeypatch.setattr(updates.Updates, "run", stops)
    assert fit.train(TrainSettings(**given, out=str(out))) == 130
    monkeypatch.setattr(updates.Updates, "run", start)
    assert fit.train(TrainSettings(**given, out=str(out))) == 0
    assert asked == [1]
    (line, *_) = curve(out)
    speedups = {place: own["speedup"] for place, own in line["exits"].items()}
    assert list(speedups) == ["1", "2"] and line["chosen"] == 2 == int(max(speedups, key=lambda p: speedups[p]))
    assert json.loads((out / "manifest.json").read_text())["exit_layer"] == 2
