"""Asks the hub about a model before it is downloaded, and keeps `transformers` quiet while it loads."""

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import transformers
from huggingface_hub import HfApi, constants, is_offline_mode, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

from fastvlm_bench.errors import UsageError
from fastvlm_bench.models.names import local_folder, split_revision

HUB_TIMEOUT_S = 5.0
OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
"""The environment variables that the hub's client reads."""


def hub_answers(name: str, revision: str | None = None) -> bool:
    """Whether the hub can be asked for this model; if not, loading uses the cache alone.

    It is asked with a short time-out, because loading itself would retry each file for minutes. UsageError where the
    hub answers that there is no such model or revision, or that the model is gated. With HF_HUB_OFFLINE=1 nothing is
    asked.
    """
    if is_offline_mode():
        return False
    try:
        HfApi().model_info(name, revision=revision, timeout=HUB_TIMEOUT_S)
    except GatedRepoError:
        raise UsageError(
            f"model '{name}' is gated: accept its terms on the hub, then log in with `hf auth login`"
        ) from None
    except RevisionNotFoundError:
        raise UsageError(f"model '{name}' has no revision '{revision}': name a branch, a tag or a commit") from None
    except RepositoryNotFoundError:
        raise UsageError(
            f"the hub has no public model '{name}': check the id, or log in with `hf auth login`"
        ) from None
    except Exception:  # each way of being offline has an exception of its own
        return False
    return True


def offline_by(option: bool) -> str | None:
    """What forbids asking the hub, as the user wrote it; None if nothing does."""
    if option:
        return "--offline"
    return next((name for name in OFFLINE if os.environ.get(name)), None) if is_offline_mode() else None


def cached_commit(name: str, revision: str | None) -> str | None:
    """The commit to which the revision of a model in the hub's cache on this machine (HF_HOME) belongs; None if it is
    not there."""
    path = try_to_load_from_cache(name, "config.json", revision=revision)
    return Path(path).parent.name if isinstance(path, str) else None


def checkpoint_folder(name: str, commit: str | None = None) -> Path:
    """The folder with the files of a target that has been loaded. commit: of the hub, if it came from there."""
    if (folder := local_folder(name)) is not None:
        return folder
    return Path(snapshot_download(split_revision(name)[0], revision=commit, local_files_only=True))


@contextlib.contextmanager
def asks_nothing(offline: bool) -> Iterator[None]:
    """Makes `offline` what HF_HUB_OFFLINE=1 is: within, the hub's client refuses every request."""
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or offline
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


class Once(logging.Filter):
    """Lets each warning of transformers through once: `generate` would repeat some for every answer."""

    def __init__(self) -> None:
        super().__init__()
        self._told: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno != logging.WARNING:
            return True
        told = record.getMessage()
        new = told not in self._told
        self._told.add(told)
        return new


def once_each() -> None:
    """From here on transformers says each warning once a process."""
    for handler in logging.getLogger("transformers").handlers:
        if not any(isinstance(own, Once) for own in handler.filters):
            handler.addFilter(Once())


@contextlib.contextmanager
def quiet(downloads: bool) -> Iterator[None]:
    """Within the block transformers prints errors only, and progress bars only where something may be downloaded.

    Without torchvision it would print many lines: one for each image processor that falls back to Pillow.
    """
    level, bars = transformers.logging.get_verbosity(), transformers.logging.is_progress_bar_enabled()
    transformers.logging.set_verbosity_error()
    if not downloads:
        transformers.logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(level)
        if bars:
            transformers.logging.enable_progress_bar()
