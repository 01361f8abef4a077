"""Runs of one configuration at several batch sizes, as rows that show where speculation stops being faster."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fastvlm_bench.analysis.arms import Arm, arms
from fastvlm_bench.analysis.batches import batch_size, waits
from fastvlm_bench.analysis.comparison import identity
from fastvlm_bench.analysis.speedup import adjusted, word
from fastvlm_bench.analysis.statistics import Estimate, middle
from fastvlm_bench.analysis.summary import Row, summarise
from fastvlm_bench.errors import IncompatibleRuns, UsageError
from fastvlm_bench.records.record import Run, read_run
from fastvlm_bench.records.run_folders import run_folders


@dataclass(frozen=True)
class SizeRow:
    """One suite x method x batch size. Speed-ups are against the reference *at the same batch size*.

    requests_per_s, tokens_per_s: samples, and their tokens, divided by the seconds of all batches, prefill included.
    wait_first_s, wait_last_s: seconds until every row of a batch has its first token, and until all rows are done;
    medians over the batches. batches: their number; each is one observation of the speed-up. verdict: FASTER, SLOWER,
    SAME or AMBIGUOUS, of the end-to-end speed-up, adjusted over all rows. status: VALID or INVALID, of the whole run.
    """

    run_id: str
    model: str
    suite: str
    method: str
    batch_size: int
    threads: int | None
    samples_ok: int
    samples_failed: int
    batches: int
    requests_per_s: float | None
    tokens_per_s: float | None
    decode_tokens_per_s: float | None
    decode_speedup_geomean: float | None
    decode_speedup_geomean_low: float | None
    decode_speedup_geomean_high: float | None
    e2e_speedup_geomean: float | None
    e2e_speedup_geomean_low: float | None
    e2e_speedup_geomean_high: float | None
    verdict: str
    identical: int | None
    samples_paired: int
    alpha: float | None
    tau: float | None
    wait_first_s: float | None
    wait_last_s: float | None
    peak_bytes: int | None
    status: str


def find_runs(folders: Sequence[Path]) -> list[Run]:
    """Read the runs in these folders. Each is a run folder, or holds run folders. UsageError if there is no run."""
    return [read_run(folder) for folder in run_folders(folders)[0]]


def size_rows(runs: Sequence[Run]) -> list[SizeRow]:
    """The rows of these runs, sorted by suite, method and batch size.

    IncompatibleRuns if the runs differ in more than batch size and threads. UsageError if two have one batch size.
    """
    first = _identity(runs[0])
    for run in runs[1:]:
        other = _identity(run)
        differing = [name for name in first if other.get(name) != first[name]]
        if differing:
            raise IncompatibleRuns(
                f"{runs[0].run_id} and {run.run_id} differ in {', '.join(differing)}; a table over batch sizes needs "
                "runs of the same samples on the same machine"
            )
    sizes = [batch_size(run) for run in runs]
    if twice := sorted({size for size in sizes if sizes.count(size) > 1}):
        raise UsageError(f"several runs have batch size {twice[0]}; name one a size")
    found = [(run, row, arm) for run in runs for row, arm in zip(summarise(run), arms(run), strict=True)]
    estimates = [row.speedup.e2e_speedup_geomean for _, row, _ in found]
    asked = [own if row.settings.compared else None for own, (_, row, _) in zip(estimates, found, strict=True)]
    words = [word(estimate, *ps) for estimate, ps in zip(estimates, adjusted(asked), strict=True)]
    rows = [_size_row(run, row, arm, said) for (run, row, arm), said in zip(found, words, strict=True)]
    order = {name: place for place, name in enumerate(dict.fromkeys((row.suite, row.method) for row in rows))}
    return sorted(rows, key=lambda row: (order[row.suite, row.method], row.batch_size))


def _identity(run: Run) -> dict[str, object]:
    return {key: value for key, value in identity(run).items() if key not in ("batch size", "threads")}


def _size_row(run: Run, row: Row, arm: Arm, said: str) -> SizeRow:
    seen, times, speedup, memory = waits(arm), row.times, row.speedup, row.memory
    decode, e2e = _parts(speedup.decode_speedup_geomean), _parts(speedup.e2e_speedup_geomean)
    return SizeRow(
        run_id=run.run_id, model=row.model, suite=row.suite, method=row.method, batch_size=row.settings.batch_size,
        threads=row.settings.threads, samples_ok=row.counts.samples_ok, samples_failed=row.counts.samples_failed,
        batches=len(seen), requests_per_s=times.requests_per_s, tokens_per_s=times.e2e_tokens_per_s,
        decode_tokens_per_s=times.decode_tokens_per_s,
        decode_speedup_geomean=decode[0], decode_speedup_geomean_low=decode[1], decode_speedup_geomean_high=decode[2],
        e2e_speedup_geomean=e2e[0], e2e_speedup_geomean_low=e2e[1], e2e_speedup_geomean_high=e2e[2],
        verdict="" if row.method == row.reference else said,
        identical=row.sameness.identical, samples_paired=row.counts.samples_paired,
        alpha=row.acceptance.alpha, tau=row.acceptance.tau,
        wait_first_s=middle([first for first, _ in seen]), wait_last_s=middle([last for _, last in seen]),
        peak_bytes=memory.peak_allocated_bytes or memory.peak_rss_bytes,
        status=str((run.meta.get("verdict") or {}).get("status") or run.meta["status"]),
    )  # fmt: skip


def _parts(estimate: Estimate | None) -> tuple[float | None, float | None, float | None]:
    return (None, None, None) if estimate is None else (estimate.value, estimate.low, estimate.high)
