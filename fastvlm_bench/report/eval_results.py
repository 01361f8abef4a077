"""A run's scores and speed-ups as `.eval_results` YAML, which a model's repository on the Hub shows."""

import re
import sys
from collections.abc import Sequence

from fastvlm_bench import metrics
from fastvlm_bench.analysis.differing import some
from fastvlm_bench.analysis.summary import Row
from fastvlm_bench.analysis.verdict import judge
from fastvlm_bench.errors import UsageError
from fastvlm_bench.records.record import Run
from fastvlm_bench.report.shown import known

DATASET = r"\w[\w.-]*/\w[\w.-]*(@[\w./-]+)?"
"""OWNER/NAME or OWNER/NAME@REVISION."""
SPEEDUPS = ("decode_speedup_geomean", "e2e_speedup_geomean")


def eval_results(run: Run, rows: Sequence[Row], dataset: str | None, method: str | None = None) -> str:
    """The YAML: an entry for each metric of each suite, and for each speed-up, of one method.

    dataset: the Hub's id of the benchmark's data set, ID or ID@REVISION. method: a label of the run; None is the first
    beside the reference, since a model has one value for each task. Scores are on the scale of the tables. The task is
    SUITE_METRIC or SUITE_SPEEDUP. UsageError without a data set, for an unknown method, and where nothing was measured.
    The notes have the verdict on these records as they are now; INVALID is also told on standard error.
    """
    import yaml
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    if not dataset or not re.fullmatch(DATASET, dataset):
        raise UsageError("eval-results needs --dataset OWNER/NAME, the Hub's id of the benchmark's data set"
                         + (f", not '{dataset}'" if dataset else ""))  # fmt: skip
    labels = [one["label"] for one in run.meta["methods"]]
    method = method or next((label for label in labels if label != run.meta["reference"]), labels[0])
    known(method, labels, "method")
    name, _, revision = dataset.partition("@")
    verdict, entries = judge(run, rows), []
    for row in rows:
        if row.method != method:
            continue
        scores = {quality.metric: quality.value * metrics.kind_of(quality.metric).scale for quality in row.quality
                  if quality.value is not None}  # fmt: skip
        speeds = {kind: estimate.value for kind in SPEEDUPS if (estimate := getattr(row.speedup, kind)) is not None}
        entries += [
            EvalResultEntry(dataset_id=name, dataset_revision=revision or None, task_id=f"{row.suite}_{task}",
                            value=float(f"{value:.6g}"), date=run.meta.get("completed_at"),
                            notes=_notes(run, row, verdict.status))
            for task, value in {**scores, **speeds}.items()
        ]  # fmt: skip
    if not entries:
        raise UsageError(f"{run.run_id} has no score and no speed-up of {method}: nothing was measured; choose another "
                         "--method or run")  # fmt: skip
    if verdict.status != "VALID":
        print(f"fastvlm-bench: warning: {run.run_id} is {verdict.status}: {some(verdict.reasons)}; the notes of each "
              "entry say so", file=sys.stderr)  # fmt: skip
    return str(yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False, allow_unicode=True, width=1000))


def _notes(run: Run, row: Row, status: str) -> str:
    own, counts = row.settings, row.counts
    failed = f" ({counts.samples_failed} of {counts.samples} failed)" if counts.samples_failed else ""
    return (f"{row.method} against {row.reference}, {row.suite} {own.suite_version} split {own.split} ({own.source}), "
            f"n={counts.samples_ok}{failed}, {own.dtype} on {own.hardware or own.device}, "
            f"fastvlm-bench {own.tool or '?'}, run {run.run_id}, {status}")  # fmt: skip
