"""`run --batch-size 1,2,4,8`: one run per size, in one folder, and the table over the sizes."""

import contextlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from fastvlm_bench.analysis import floors
from fastvlm_bench.analysis.batch_sizes import size_rows
from fastvlm_bench.analysis.batches import batch_size
from fastvlm_bench.analysis.verdict import judge, require_valid
from fastvlm_bench.config import RunConfig
from fastvlm_bench.errors import FAILED_SAMPLES, BenchError, UsageError
from fastvlm_bench.measuring.before_loading import check
from fastvlm_bench.measuring.benchmark import run_benchmark
from fastvlm_bench.measuring.ranks import check_several, several
from fastvlm_bench.records.record import RUN_FILE, Run, read_meta, read_run
from fastvlm_bench.records.run_folders import new_folder_name
from fastvlm_bench.records.storage import BOTH_PRINTED, STANDARD_OUTPUT, check_target_file
from fastvlm_bench.report.batch_table import print_sizes, sizes_csv, sizes_json
from fastvlm_bench.report.export import save


def parse_sizes(text: str) -> tuple[int, ...]:
    """Read "8" or "1,2,4,8". UsageError unless they are different whole numbers of at least 1."""
    parts = [part.strip() for part in text.split(",")]
    sizes = [int(part) for part in parts if part.isascii() and part.isdigit() and len(part) < 6]
    if len(sizes) != len(parts) or min(sizes, default=0) < 1 or len(set(sizes)) != len(sizes):
        raise UsageError(
            f"--batch-size is '{text}'; it must be whole numbers of at least 1, each once, as in 8 or 1,2,4,8"
        )
    return tuple(sizes)


def run_sizes(
    config: RunConfig, sizes: Sequence[int], *, resume: Path | None, csv: Path | None, predictions: Path | None,
    as_json: bool, quiet: bool = False, answers: bool = False, after: Sequence[Callable[[Run], None]] = (),
) -> int:  # fmt: skip
    """Run `config` at each batch size and print the table. Returns the exit code.

    The runs lie side by side in one folder below `config.out`. resume: that folder, to go on with: finished runs are
    kept, an unfinished one goes on, and sizes without a run are measured. An interruption or an error ends the sweep,
    and what was measured is kept. Failed samples do not end it. after: as in `run_benchmark`, of each run.
    """
    if several():
        check_several(config, **{"a list of batch sizes": True})
    if predictions is not None:
        raise UsageError("--predictions-out needs one batch size; answers are the same at every size")
    if csv is not None:
        check_target_file(csv, "--csv")
    if csv == STANDARD_OUTPUT and as_json:
        raise UsageError(BOTH_PRINTED)
    check(replace(config, batch_size=max(sizes)))
    if resume is not None and not resume.is_dir():
        raise UsageError(f"--resume {resume} is not a folder; give the one that holds the sweep's runs")
    if resume is not None and (resume / RUN_FILE).exists():
        raise UsageError(f"--resume {resume} is a single run; with several batch sizes give the folder that holds them")
    suites = "+".join(Path(suite).stem for suite in config.suites)
    name = new_folder_name(config.model, suites, "batches")
    folder = resume or Path(config.out) / name
    there = {int(read_meta(path.parent)["config"].get("batch_size") or 1): path.parent
             for path in sorted(folder.glob(f"*/{RUN_FILE}"))}  # fmt: skip
    code, failed, failure = 0, False, None
    for size in sizes:
        own = replace(config, batch_size=size, out=str(folder))
        before = there.get(size)
        if before is not None and read_meta(before)["status"] == "success":
            _check_same(before, own)
            continue
        if not quiet:
            print(f"batch size {size}", file=sys.stderr)
        try:
            # What is required is asked of all sizes together, at the end.
            every = replace(own, require_valid=False, min_decode_speedup=None, min_alpha=None, max_quality_drop=None)
            code = run_benchmark(every, resume=before, csv=None, as_json=as_json, show=False, quiet=quiet,
                                 answers=answers, after=after)  # fmt: skip
        except BenchError as error:
            failure = error
        failed |= code == FAILED_SAMPLES  # go on: the other sizes may fit into memory
        if failure or code not in (0, FAILED_SAMPLES):
            break
    with contextlib.suppress(OSError):
        folder.rmdir()  # if nothing was measured
    runs = [run for run in _runs(folder) if batch_size(run) in sizes]
    if runs:
        rows = size_rows(sorted(runs, key=batch_size))
        if as_json:
            print(sizes_json(rows), end="")
        elif csv != STANDARD_OUTPUT:
            print_sizes(rows)
            print(f"\nrecords: {folder}")
        if csv is not None:
            save(csv, sizes_csv(rows))
    if runs and (failure or code not in (0, FAILED_SAMPLES)):
        print(f"fastvlm-bench: go on with the other sizes with --resume {folder}", file=sys.stderr)
    if failure is not None:
        raise failure
    if code in (0, FAILED_SAMPLES):  # of a sweep that ended early nothing is required: its own code says so
        if config.require_valid:
            require_valid([(run, judge(run)) for run in runs])
        floors.require(runs, config.floors, sweep=folder)
    return code or (FAILED_SAMPLES if failed else 0)


def _check_same(folder: Path, config: RunConfig) -> None:
    if read_meta(folder).get("config_sha256") != config.sha256():
        raise UsageError(f"{folder} was made with another configuration; resume with the same one, or start anew")


def _runs(folder: Path) -> list[Run]:
    """The runs in `folder` that have measured something."""
    found = [read_run(path.parent) for path in sorted(folder.glob(f"*/{RUN_FILE}"))]
    return [run for run in found if run.lines and "dtype" in run.meta["model"]]
