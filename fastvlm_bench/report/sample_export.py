"""Every line of samples.jsonl as a line of CSV, with the score of its text."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from fastvlm_bench import metrics
from fastvlm_bench.analysis.arms import Arm, arms, scored
from fastvlm_bench.analysis.quality import score
from fastvlm_bench.analysis.round_sums import sum_rounds
from fastvlm_bench.analysis.verdict import judge
from fastvlm_bench.records.compact import uncollected
from fastvlm_bench.records.record import Run
from fastvlm_bench.report.csv_text import csv_lines
from fastvlm_bench.visible import waited

SAMPLE_COLUMNS = (
    "run_id", "status", "model", "suite", "split", "sample_id", "image_id", "method", "repeat", "invocation", "order",
    "seed", "dialog", "turn", "prompt_tokens",
    "stop", "tokens", "text", "token_ids", "identical", "losslessness",
    "losslessness_gap", "ttft_s", "vision_s", "prefill_s", "decode_s", "e2e_s", "rounds", "drafted",
    "tested", "accepted", "emitted", "draft_s", "verify_s", "peak_rss_bytes", "peak_allocated_bytes",
    "peak_reserved_bytes", "device_used_bytes", "image_s", "processor_s", "phase_vision_s", "phase_prefill_s",
    "phase_draft_s", "phase_verify_s", "phase_other_s", "batch_id", "batch_size", "batch_row", "batch_ttft_s",
    "batch_decode_s", "flags", "error",
)  # fmt: skip
"""The columns of `samples_csv`, followed by `score_<metric>` of each metric."""


def sample_columns() -> list[str]:
    """`SAMPLE_COLUMNS`, then the score of each metric."""
    return [*SAMPLE_COLUMNS, *(f"score_{metric}" for metric in metrics.names())]


def samples_csv(run: Run, excel_safe: bool = False) -> str:
    """One line a suite x sample x method x repeat, with the score of each text. excel_safe: as in `to_csv`."""
    return "".join(sample_lines([run], excel_safe))


def sample_lines(runs: Iterable[Run], excel_safe: bool = False) -> Iterator[str]:
    """The lines of this table, of several runs one after the other, with one header."""
    header = sample_columns()
    rows = (map(values.get, header) for run in runs for values in sample_values(run))
    return csv_lines(header, rows, excel_safe)


def sample_values(run: Run) -> Iterable[dict[str, Any]]:
    """Each line of a run by column; a column that is missing was not measured."""
    known = {(suite["name"], sample["sample_id"]): (suite, sample)
             for suite in run.meta["suites"] for sample in suite["samples"]}  # fmt: skip
    reference = {(x["suite"], x["sample_id"], x["repeat"]): x["token_ids"]
                 for x in run.lines if x["method"] == run.meta["reference"]}  # fmt: skip
    with uncollected():
        own_arms = arms(run)
        scores, status = scores_by_line(run, own_arms), judge(run, own=own_arms).status
        del own_arms
    for line in waited(run.lines, len(run.lines), "writing samples"):
        suite, sample = known[line["suite"], line["sample_id"]]
        base, ids, done = reference.get((line["suite"], line["sample_id"], line["repeat"])), line["token_ids"], {}
        if line["error"] is None:
            done = {
                "tokens": len(ids), "token_ids": " ".join(map(str, ids)), "e2e_s": line["ttft_s"] + line["decode_s"],
                "identical": None if base is None else ids == base, **vars(sum_rounds([line])),
            }  # fmt: skip
        yield {
            **line, "rounds": None, "token_ids": None,
            "losslessness": (line.get("losslessness") or {}).get("outcome"),
            "losslessness_gap": (line.get("losslessness") or {}).get("gap"),
            **{f"batch_{key}": value for key, value in (line.get("batch") or {}).items()},
            **{f"phase_{name}": value for name, value in (line.get("phases") or {}).items()},
            **(line.get("memory") or {}), **done,
            **{name: own[line["seq"]] for name, own in scores.items() if line["seq"] in own},
            "run_id": run.run_id, "status": status, "model": run.meta["model"]["id"], "split": suite["split"],
            "image_id": sample["image_id"],
        }  # fmt: skip


def scores_by_line(run: Run, all_arms: Sequence[Arm] | None = None) -> dict[str, dict[int, float]]:
    """{score_<metric>: {seq: value}}: each repeat of an arm is scored as a corpus of its own.

    all_arms: those of `arms`, if they are there already.
    """
    scores: dict[str, dict[int, float]] = {}
    for arm in arms(run) if all_arms is None else all_arms:
        for repeat in sorted({line["repeat"] for line in arm.lines()}):
            own = [(line, sample.references) for sample in arm.measured.values() for line in sample.lines
                   if line["repeat"] == repeat]  # fmt: skip
            for metric in arm.suite["metrics"]:
                try:
                    result = score(metric, arm.suite, [scored(line) for line, _ in own], [refs for _, refs in own])
                except Exception:  # the warning ScoringFailed tells it; the other columns are right
                    result = None
                if result is None:
                    continue
                for (line, _), value in zip(own, result.per_sample, strict=True):
                    scores.setdefault(f"score_{metric}", {})[line["seq"]] = float(value)
    return scores
