"""A run's scores and speed-ups as `.eval_results` YAML, which a model's repository on the Hub shows."""

from collections.abc import Sequence

from fastvlm_bench import metrics
from fastvlm_bench.analysis.summary import Row
from fastvlm_bench.errors import UsageError, did_you_mean
from fastvlm_bench.records.record import Run

SPEEDUPS = ("decode_speedup_geomean", "e2e_speedup_geomean")


def eval_results(run: Run, rows: Sequence[Row], dataset: str | None, method: str | None = None) -> str:
    """The YAML: an entry for each metric of each suite, and for each speed-up, of one method.

    dataset: the Hub's id of the benchmark's data set, ID or ID@REVISION. method: a label of the run; None is the first
    beside the reference, since a model has one value for each task. Scores are on the scale of the tables. The task is
    SUITE_METRIC or SUITE_SPEEDUP. UsageError without a data set, and for an unknown method.
    """
    import yaml
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    if not dataset or dataset.count("/") != 1:
        raise UsageError("eval-results needs --dataset OWNER/NAME, the Hub's id of the benchmark's data set"
                         + (f", not '{dataset}'" if dataset else ""))  # fmt: skip
    known = [one["label"] for one in run.meta["methods"]]
    method = method or next((label for label in known if label != run.meta["reference"]), known[0])
    if method not in known:
        raise UsageError(f"the run has no method '{method}'{did_you_mean(method, known)}; it has {', '.join(known)}")
    name, _, revision = dataset.partition("@")
    entries = []
    for row in rows:
        if row.method != method:
            continue
        scores = {quality.metric: quality.value * metrics.kind_of(quality.metric).scale for quality in row.quality
                  if quality.value is not None}  # fmt: skip
        speeds = {kind: estimate.value for kind in SPEEDUPS if (estimate := getattr(row.speedup, kind)) is not None}
        entries += [
            EvalResultEntry(dataset_id=name, dataset_revision=revision or None, task_id=f"{row.suite}_{task}",
                            value=float(f"{value:.6g}"), date=run.meta.get("completed_at"), notes=_notes(run, row))
            for task, value in {**scores, **speeds}.items()
        ]  # fmt: skip
    return str(yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False, allow_unicode=True, width=1000))


def _notes(run: Run, row: Row) -> str:
    own = row.settings
    status = row.status or (run.meta.get("verdict") or {}).get("status") or "not judged"
    return (f"{row.method} against {row.reference}, {row.suite} {own.suite_version} split {own.split} ({own.source}), "
            f"n={row.counts.samples_ok}, {own.dtype} on {own.hardware or own.device}, fastvlm-bench {own.tool or '?'}, "
            f"run {run.run_id}, {status}")  # fmt: skip
