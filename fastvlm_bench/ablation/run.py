"""`ablate`: many recipes trained together on the same texts, then timed together on the same samples, in one table."""

from collections.abc import Sequence
from pathlib import Path

from fastvlm_bench.ablation.table import ablation_csv, ablation_markdown, ablation_rows
from fastvlm_bench.config import RunConfig
from fastvlm_bench.errors import FAILED_SAMPLES, UsageError
from fastvlm_bench.measuring.benchmark import run_benchmark
from fastvlm_bench.option_checks import check_writable
from fastvlm_bench.records.record import list_runs, read_run
from fastvlm_bench.report.export import save
from fastvlm_bench.training.fit import train
from fastvlm_bench.training.settings import TrainSettings


def ablate(settings: TrainSettings, run: RunConfig, also: Sequence[Path], *, quiet: bool = False) -> int:
    """Train `settings.heads` into OUT/drafts, run them all on `run`'s suites, write OUT/ablation.md and .csv.

    After an interruption, the same call goes on where training or measuring was stopped. also: run folders whose rows
    are added to the table, for example those of a fine-tuned backbone. Returns the exit code.
    """
    out = Path(run.out)
    check_writable(out)
    code = train(settings, quiet=quiet)
    if code:
        return code
    found = [folder for folder in list_runs(out) if read_run(folder).meta["config_sha256"] == run.sha256()]
    unfinished = [folder for folder in found if read_run(folder).meta["status"] != "success"]
    if not found or unfinished:
        code = run_benchmark(run, resume=unfinished[0] if unfinished else None, csv=None, as_json=False, quiet=quiet)
        if code not in (0, FAILED_SAMPLES):
            return code
        found = [folder for folder in list_runs(out) if read_run(folder).meta["config_sha256"] == run.sha256()]
    if not found:
        raise UsageError(f"no run of this ablation under {out}; choose another --out")
    rows = ablation_rows([read_run(found[0]), *(read_run(folder) for folder in also)])
    save(out / "ablation.md", ablation_markdown(rows))
    save(out / "ablation.csv", ablation_csv(rows))
    print(ablation_markdown(rows))
    print(f"records: {found[0]}; table: {out / 'ablation.md'}, {out / 'ablation.csv'}")
    return code
