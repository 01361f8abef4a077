"""Which run folders a user means who names run folders, folders of them, or both, as a shell's `results/*/` does."""

from collections.abc import Sequence
from pathlib import Path

from fastvlm_bench.errors import UsageError
from fastvlm_bench.records.record import RUN_FILE, list_runs


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
