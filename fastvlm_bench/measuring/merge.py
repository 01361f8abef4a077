"""`merge`: one run of the folders that the jobs of `run --shard i/N` left."""

import sys
from collections.abc import Sequence
from pathlib import Path

from fastvlm_bench.config import NOT_MEASURED, RunConfig
from fastvlm_bench.measuring.ending import end_run
from fastvlm_bench.option_checks import check_writable
from fastvlm_bench.records.merging import Shards, merge_frequencies, merged_lines, merged_meta, read_shards
from fastvlm_bench.records.record import Run, RunWriter
from fastvlm_bench.records.run_folders import new_folder_name
from fastvlm_bench.suites.shares import Share, interleaved


def merge(folders: Sequence[Path], out: Path, allow_missing: bool = False) -> Run:
    """Write the run of all shards into a folder below `out`, judged as any run. UsageError as in `read_shards`."""
    check_writable(out)
    shards = read_shards(folders, NOT_MEASURED, allow_missing)
    first = shards.runs[0]
    config = RunConfig.from_dict({**first.meta["config"], "shard": None})
    samples = {
        suite["name"]: interleaved(
            [(Share(int(run.meta["shard"]["number"]) - 1, shards.of), run.meta["suites"][place]["samples"])
             for run in shards.runs], config.batch_size)
        for place, suite in enumerate(first.meta["suites"])
    }  # fmt: skip
    fields = merged_meta(shards, samples)
    run_id = new_folder_name(config.model, "+".join(samples), "merged")
    with RunWriter.create(out / run_id, {
        **fields, "run_id": run_id, "status": "started", "command": ["fastvlm-bench", *sys.argv[1:]],
        "config_sha256": config.sha256(), "completed_at": None, "totals": {}, "verdict": None, "error": None,
    }) as writer:  # fmt: skip
        writer.append_all(merged_lines(shards))
        merge_frequencies(shards, fields["suites"], writer.folder)
        return end_run(writer, *_outcome(shards), {})


def _outcome(shards: Shards) -> tuple[str, str | None]:
    """`status` and `error` of the merged run: the worst of its shards'."""
    for status in ("error", "interrupted", "started"):
        if found := [run for run in shards.unfinished if run.meta["status"] == status]:
            number = found[0].meta["shard"]["number"]
            return (
                ("error", f"shard {number}: {found[0].meta['error']}") if status == "error" else ("interrupted", None)
            )
    return "success", None
