"""What a new run folder is called, and which ones a user means who names some, as a shell's `results/*/` does."""

import secrets
import time
from collections.abc import Sequence
from pathlib import Path

from fastvlm_bench.errors import UsageError
from fastvlm_bench.records.record import RUN_FILE, list_runs
from fastvlm_bench.visible import visible


def new_folder_name(model: str, *parts: str) -> str:
    """TIME-MODEL-PART-…-XXXX, unlike any other. What a terminal would obey in the model's name is written out: the
    folder's name is printed, and stands in every export."""
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    return "-".join([stamp, visible(Path(model).name), *parts, secrets.token_hex(2)])


def run_folders(named: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """The run folders that are named or lie in a named folder, and the named folders without any run.

    A run folder stands for itself as often as it is named. What is found in a folder comes once, in the order of the
    names. Of several named folders, some may have no run, as those of pictures beside runs. UsageError for a folder
    that is not there, and where none has a run.
    """
    found: list[Path] = []
    empty: list[Path] = []
    for folder in named:
        if not folder.is_dir():
            raise UsageError(f"{folder} is not a folder; name run folders, or folders that hold them")
        own = [folder] if (folder / RUN_FILE).exists() else sorted(list_runs(folder))
        found += [path for path in own if path == folder or path not in found]
        empty += [] if own else [folder]
    if not found:
        raise UsageError(f"no run in {', '.join(map(str, empty))}: neither it nor the folders below have a {RUN_FILE}; "
                         "name run folders, or folders that hold them")  # fmt: skip
    return found, empty
