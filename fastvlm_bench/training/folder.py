"""The folder of a training: its lock, its settings, its state, which is always replaced as a whole, and its log.

With several processes only the leader writes; all of them read.
"""

import contextlib
import json
import os
import pickle
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from fastvlm_bench.drafts.manifest import first_line
from fastvlm_bench.errors import BenchError, UsageError, WriteFailed
from fastvlm_bench.records.storage import LOCK_FILE, lock_folder, now, remove_temporaries, write_atomically
from fastvlm_bench.training import parallel
from fastvlm_bench.training.settings import TrainSettings

STATE, BACKBONE_STATE, SETTINGS, LOG, QUALITY = "state.pt", "backbone.pt", "settings.json", "log.jsonl", "quality.json"
BACKBONE = "backbone"
"""The subfolder of the model that phase 1 made."""
ANSWERS, NEW_ANSWERS = "answers.jsonl", "answers-backbone.jsonl"
MADE = (STATE, BACKBONE_STATE, LOG, QUALITY, ANSWERS, NEW_ANSWERS, "curve.csv", "curve.png")


class TrainingFolder:
    """The folder in which a training keeps what it needs to go on after it was stopped."""

    def __init__(self, path: Path) -> None:
        self.path, self._lock = path, -1

    def open(self, settings: TrainSettings) -> None:
        """Lock the folder. Then begin it anew, or check that the training in it has the same settings.

        UsageError where the settings differ, where another process is writing it, or where it cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = lock_folder(self.path)
            remove_temporaries(self.path)
        except OSError as error:
            raise UsageError(f"cannot write to {self.path}: {error.strerror}; choose another --out") from None
        try:
            self._prepare(settings)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Unlock the folder. It may be closed twice, or without having been opened."""
        if self._lock >= 0:
            (self.path / LOCK_FILE).unlink(missing_ok=True)
            os.close(self._lock)
            self._lock = -1

    def _prepare(self, settings: TrainSettings) -> None:
        # Anything that a training makes may be all that is there: a finished phase 1 has removed its own state.
        # Settings without any of these are left over from a training that was refused before it began.
        begun = any((self.path / name).exists() for name in (*MADE, BACKBONE))
        if begun and not settings.restart:
            if not (self.path / SETTINGS).is_file():
                raise UsageError(f"{self.path} holds a training without its {SETTINGS}; restore that, choose another "
                                 "--out, or start it over with --restart")  # fmt: skip
            self._compare(settings)
            return
        for name in MADE:
            (self.path / name).unlink(missing_ok=True)
        shutil.rmtree(self.path / BACKBONE, ignore_errors=True)
        text = json.dumps({"learns": settings.learns(), "started_at": now()}, indent=1)
        write_atomically(self.path / SETTINGS, text.encode())

    def _compare(self, settings: TrainSettings) -> None:
        stored = json.loads((self.path / SETTINGS).read_text(encoding="utf-8"))["learns"]
        ours = json.loads(json.dumps(settings.learns()))
        for key, value in ours.items():
            if stored.get(key) != value:
                raise UsageError(
                    f"{self.path} holds a training with other settings ({key} {stored.get(key)!r} there, {value!r} "
                    "now); choose another --out, or start it over with --restart"
                )

    def load(self, name: str, device: torch.device | str = "cpu") -> dict[str, Any]:
        """The state that was saved under that name; {} if there is none. BenchError if it cannot be read."""
        path = self.path / name
        if not path.is_file():
            return {}
        try:
            return dict(torch.load(path, weights_only=True, map_location=device))
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
            raise BenchError(f"{path} cannot be read ({first_line(error)}); start over with --restart") from None

    def save(self, name: str, state: Mapping[str, Any]) -> None:
        """Replace the state of that name as a whole. WriteFailed where the disk is full or refuses it."""
        if not parallel.leads():
            return
        path = self.path / name
        temporary = path.with_name(f".{name}.{os.getpid()}.tmp")
        try:
            torch.save(state, temporary)
            os.replace(temporary, path)
        except (OSError, RuntimeError) as error:  # a full disk is a RuntimeError to torch
            temporary.unlink(missing_ok=True)
            raise WriteFailed(f"cannot write {path}: {first_line(error)}; free space or make it writable") from error

    def log(self, line: Mapping[str, Any]) -> None:
        if parallel.leads():
            with (self.path / LOG).open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")

    def trim_log(self, done: int) -> None:
        """Drop what was logged after the last saved update, `done`: those updates will be made and logged again."""
        path = self.path / LOG
        if parallel.leads() and path.is_file():
            kept = []
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                with contextlib.suppress(ValueError):  # a torn last line
                    kept += [line] if json.loads(line).get("done", 0) <= done else []
            write_atomically(path, "".join(line + "\n" for line in kept).encode())
