"""Ends a run: judges what was recorded, and writes the final run.json and summary.md."""

from collections.abc import Mapping
from typing import Any

from fastvlm_bench.analysis.verdict import judge
from fastvlm_bench.records import document_frequencies
from fastvlm_bench.records.compact import uncollected
from fastvlm_bench.records.document_frequencies import Documents
from fastvlm_bench.records.record import Run, RunWriter, read_run
from fastvlm_bench.report.export import run_markdown, save

SUMMARY = "summary.md"


def end_run(writer: RunWriter, outcome: str, error: str | None, documents: Mapping[str, Documents]) -> Run:
    """Judge, write and close. Returns the run as read from its files. BenchError, WriteFailed.

    outcome, error: `status` and `error` of run.json. documents: of each suite of which only a part is measured, all
    images, by which CIDEr-D weighs words.
    """
    writer.restore()
    run = read_run(writer.folder)
    if run.lines and documents:
        document_frequencies.write(run.folder, documents, {name: written_texts(run, name) for name in documents})
        run = read_run(writer.folder)
    fields: dict[str, Any] = {"error": error}
    if run.lines:
        with uncollected():
            verdict = judge(run, status=outcome)
        failed = sum(line["error"] is not None for line in run.lines)
        fields |= {
            "verdict": verdict.as_dict(), "warnings": [notice.as_dict() for notice in verdict.warnings],
            "totals": {
                "lines": len(run.lines), "failed": failed,
                "new_tokens": sum(len(line["token_ids"] or []) for line in run.lines),
            },
        }  # fmt: skip
    writer.finish(outcome, **fields)
    run = read_run(writer.folder)
    if run.lines:
        save(run.folder / SUMMARY, run_markdown(run))
    return run


def written_texts(run: Run, name: str) -> list[str]:
    """All texts of one suite in a run: references and outputs."""
    suite = next(suite for suite in run.meta["suites"] if suite["name"] == name)
    references = [text for sample in suite["samples"] for text in sample["references"]]
    return references + [line["text"] for line in run.lines if line["suite"] == name and line["text"] is not None]
