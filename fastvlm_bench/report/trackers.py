"""`--report-to wandb|mlflow`: a run's numbers go to where people keep results, as one tracked run.

Both get the settings, every number of every suite and method as SUITE/METHOD/COLUMN, and the tables. Where and whether
anything is sent is the library's own affair: WANDB_MODE=offline writes below ./wandb, MLFLOW_TRACKING_URI names a
server, and without it MLflow writes below ./mlruns.
"""

import importlib.util
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

from fastvlm_bench.analysis.summary import Row
from fastvlm_bench.analysis.verdict import judge, judged_rows
from fastvlm_bench.errors import UsageError, WriteFailed, did_you_mean
from fastvlm_bench.records.record import Run
from fastvlm_bench.records.storage import finite, flatten
from fastvlm_bench.report.columns import columns, row_dict
from fastvlm_bench.report.csv_text import cell_text
from fastvlm_bench.report.export import rows_csv, run_json, run_markdown
from fastvlm_bench.report.sample_export import sample_columns, sample_values, samples_csv

PROJECT = "fastvlm-bench"
"""The project in Weights & Biases, or the experiment in MLflow, unless WANDB_PROJECT or MLFLOW_EXPERIMENT_NAME says."""
LONGEST = 6000
"""Characters of a parameter that MLflow keeps."""


def check_trackers(names: Sequence[str]) -> None:
    """UsageError for an unknown tracker, or for one whose library is missing: asked before anything is measured."""
    for name in names:
        if name not in TRACKERS:
            raise UsageError(f"unknown --report-to '{name}'{did_you_mean(name, TRACKERS)}; use {' or '.join(TRACKERS)}")
        if importlib.util.find_spec(name) is None:
            raise UsageError(f"--report-to {name} needs its library: pip install 'fastvlm-bench[{name}]'")


def report_to(name: str, run: Run, rows: Sequence[Row] | None = None) -> None:
    """Send a run to a tracker. WriteFailed, in one line, for whatever goes wrong there: the records are kept anyhow."""
    check_trackers([name])
    try:
        TRACKERS[name](run, judged_rows(run)[0] if rows is None else rows)
    except Exception as error:  # whatever a library, its server or the network raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise WriteFailed(f"--report-to {name}: {reason}; the records are kept: try again with fastvlm-bench report "
                          f"{run.folder} --report-to {name}") from error  # fmt: skip


def senders(names: Sequence[str]) -> list[Callable[[Run], None]]:
    """For `run`: each sends a finished run. A failure is told and changes nothing: the run itself is what counts."""

    def sender(name: str) -> Callable[[Run], None]:
        def send(run: Run) -> None:
            try:
                report_to(name, run)
            except WriteFailed as error:
                print(f"fastvlm-bench: {error}", file=sys.stderr)

        return send

    return [sender(name) for name in names]


def numbers(rows: Sequence[Row]) -> dict[str, float]:
    """Every number as SUITE/METHOD/COLUMN, in letters, digits and what both trackers take; truth values are 0 and 1."""
    found: dict[str, float] = {}
    names: dict[str, tuple[str, str]] = {}
    for row in rows:
        stem = "/".join(re.sub(r"[^\w. -]+", "-", part) for part in (row.suite, row.method))
        while names.setdefault(stem, (row.suite, row.method)) != (row.suite, row.method):
            stem += "_"  # another method's label has become the same
        values = row_dict(row)
        for column in columns():
            if column.kind in (int, float, bool) and values[column.name] is not None:
                found[f"{stem}/{column.name}"] = float(values[column.name])
    return found


def settings(run: Run, rows: Sequence[Row]) -> dict[str, Any]:
    """What was asked for and on what machine, as run.json has it, and the verdict of these records."""
    meta = run.meta
    known = {"config": meta["config"], "model": meta["model"], "environment": meta.get("environment") or {},
             "methods": [method["label"] for method in meta["methods"]], "reference": meta["reference"],
             "verdict": judge(run, rows).status}  # fmt: skip
    return dict(finite(known))


def _wandb(run: Run, rows: Sequence[Row]) -> None:
    import wandb

    own = [column.name for column in columns()]
    told = [name for name in sample_columns() if name != "token_ids"]
    tracked = wandb.init(project=os.environ.get("WANDB_PROJECT") or PROJECT, name=run.run_id,
                         config=settings(run, rows), job_type="benchmark",
                         settings=wandb.Settings(console="off"))  # fmt: skip
    try:
        tracked.summary.update(numbers(rows))
        tracked.log({
            "rows": wandb.Table(columns=own, data=[[_cell(row_dict(row)[name]) for name in own] for row in rows]),
            "samples": wandb.Table(columns=told, data=[[_cell(values.get(name)) for name in told]
                                                       for values in sample_values(run)]),
        })  # fmt: skip
    except BaseException:
        tracked.finish(exit_code=1)
        raise
    tracked.finish()


def _cell(value: Any) -> Any:
    return value if value is None or isinstance(value, bool | int | float) else cell_text(value)


def _mlflow(run: Run, rows: Sequence[Row]) -> None:
    # Files are the one store that needs neither a server nor a database's driver. MLflow wants that to be asked for.
    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    import mlflow

    if not os.environ.get("MLFLOW_TRACKING_URI"):
        mlflow.set_tracking_uri("file:mlruns")
    mlflow.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME") or PROJECT)
    with mlflow.start_run(run_name=run.run_id):
        parameters = {re.sub(r"[^\w./ -]+", "-", name): str(value)[:LONGEST]
                      for name, value in flatten(settings(run, rows)).items()}  # fmt: skip
        mlflow.log_params(parameters)
        mlflow.log_metrics(numbers(rows))
        for name, text in (("rows.csv", rows_csv(rows)), ("samples.csv", samples_csv(run)),
                           ("run.json", run_json(run, rows)), ("summary.md", run_markdown(run, rows))):  # fmt: skip
            mlflow.log_text(text, name)


TRACKERS: dict[str, Callable[[Run, Sequence[Row]], None]] = {"wandb": _wandb, "mlflow": _mlflow}
