"""Prints the table of `results/gpu.sh`: python results/gpu_table.py FOLDER

Of each target, engine and method: tokens a second while decoding, memory by the allocator and by the driver (NVML),
joules a token, the share of kernels in passes that verify, and tokens a second times the seconds that the roofline
gives one token of standard decoding. That is 1 where the weights are read as fast as the memory can, once a token; a
method that drafts may exceed it.
"""

import json
import sys
from pathlib import Path
from typing import Any

from fastvlm_bench.analysis.summary import summarise
from fastvlm_bench.records.record import read_run

ENGINES = ("eager", "graphs", "compiled")
HEADERS = ("target", "engine", "method", "tokens/s", "decode speed-up", "same", "allocator MiB", "NVML MiB", "J/token",
           "kernels", "of the roofline")  # fmt: skip


def lines(folder: Path) -> list[tuple[str, ...]]:
    """The cells of each method of each run below the folder; runs that are not there are left out."""
    found = []
    for target in ("embedded", "random"):
        priced = folder / f"{target}.predict.json"
        seconds = json.loads(priced.read_text())["passes"]["standard"]["seconds"] if priced.is_file() else None
        for engine in ENGINES:
            for place in sorted((folder / f"{target}-{engine}").glob("*/run.json")):
                run = read_run(place.parent)
                memory = {part["method"]: part for part in run.meta.get("memory") or []}
                for row in summarise(run):
                    speed, per_s = row.speedup.decode_speedup_geomean, row.times.decode_tokens_per_s
                    found.append((
                        target, engine, row.method, _number(per_s, 1), _number(speed and speed.value, 2),
                        f"{row.sameness.identical}/{row.counts.samples_paired}" if row.counts.samples_paired else "",
                        _mebibytes(row.memory.peak_allocated_bytes),
                        _mebibytes(memory.get(row.method, {}).get("device_used_bytes")),
                        _number(row.energy.joules_per_token, 3), _number(row.phases.kernels_verify, 2),
                        _number(per_s * seconds if per_s and seconds else None, 3),
                    ))  # fmt: skip
    return found


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _mebibytes(value: Any) -> str:
    return "" if value is None else f"{value / 2**20:.0f}"


if __name__ == "__main__":
    if len(sys.argv) != 2 or not Path(sys.argv[1]).is_dir():
        sys.exit(__doc__)
    for cells in (HEADERS, ("---",) * len(HEADERS), *lines(Path(sys.argv[1]))):
        print(f"| {' | '.join(cells)} |")
