"""The folder of a training: nothing that a training made is deleted by the command that should go on with it."""

from pathlib import Path

import pytest

from fastvlm_bench.errors import UsageError
from fastvlm_bench.training.folder import (
    ANSWERS,
    BACKBONE,
    BACKBONE_STATE,
    LOG,
    NEW_ANSWERS,
    QUALITY,
    SETTINGS,
    STATE,
    TrainingFolder,
)
from fastvlm_bench.training.settings import TrainSettings

MODEL = f"{BACKBONE}/config.json"
COURSE: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("answers for phase 1", (ANSWERS,)),
    ("phase 1", (LOG,)),
    ("phase 1, saved", (LOG, BACKBONE_STATE)),
    ("phase 1, written", (LOG, BACKBONE_STATE, MODEL)),
    ("phase 1, finished", (LOG, MODEL)),
    ("phase 1, finished without a log", (MODEL,)),
    ("the quality report", (LOG, MODEL, QUALITY)),
    ("the new answers", (LOG, MODEL, QUALITY, NEW_ANSWERS)),
    ("the updates", (LOG, MODEL, QUALITY, NEW_ANSWERS, STATE)),
)
"""What is there when a training is killed, in each window between two files of its course."""


def settings(folder: Path, **changes: object) -> TrainSettings:
    given = {"suites": ("describe",), "finetune_backbone": "full", "exit_layers": ("1",), "device": "cpu", **changes}
    return TrainSettings(out=str(folder), **given)  # type: ignore[arg-type]


def killed(folder: Path, names: tuple[str, ...]) -> dict[str, bytes]:
    """A folder as a killed training leaves it: name -> content of what it had made."""
    opened = TrainingFolder(folder)
    opened.open(settings(folder))
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(name)
    opened.close()
    return {name: (folder / name).read_bytes() for name in (*names, SETTINGS)}


@pytest.mark.parametrize(("window", "names"), COURSE, ids=[window for window, _ in COURSE])
def test_a_kill_in_any_window_loses_nothing(tmp_path: Path, window: str, names: tuple[str, ...]) -> None:
    made = killed(tmp_path, names)
    half = tmp_path / f".{BACKBONE}.1.tmp"
    half.mkdir()
    again = TrainingFolder(tmp_path)
    again.open(settings(tmp_path))
    again.close()
    assert {name: (tmp_path / name).read_bytes() for name in made} == made
    assert not half.exists(), "a half-written model is no model"


@pytest.mark.parametrize(("window", "names"), COURSE, ids=[window for window, _ in COURSE])
def test_other_settings_are_refused_and_restart_begins_anew(
    tmp_path: Path, window: str, names: tuple[str, ...]
) -> None:
    made = killed(tmp_path, names)
    with pytest.raises(UsageError, match="holds a training with other settings .*backbone_updates"):
        TrainingFolder(tmp_path).open(settings(tmp_path, backbone_updates=7))
    assert {name: (tmp_path / name).read_bytes() for name in made} == made
    (tmp_path / SETTINGS).unlink()
    with pytest.raises(UsageError, match=r"holds a training without its settings\.json"):
        TrainingFolder(tmp_path).open(settings(tmp_path))
    folder = TrainingFolder(tmp_path)
    folder.open(settings(tmp_path, backbone_updates=7, restart=True))
    folder.close()
    assert [path.name for path in tmp_path.iterdir()] == [SETTINGS]


def test_settings_alone_are_of_a_training_that_never_began(tmp_path: Path) -> None:
    killed(tmp_path, ())
    folder = TrainingFolder(tmp_path)
    folder.open(settings(tmp_path, backbone_updates=7))
    folder.close()
