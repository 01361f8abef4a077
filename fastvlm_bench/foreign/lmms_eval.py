"""lmms-eval's samples (`--log_samples`): a JSON line a sample, with texts, at times token counts, never seconds."""

from typing import Any

from fastvlm_bench.foreign import Answer, Contents, Rows, number
from fastvlm_bench.suites.annotations import Document

TOOL = "lmms-eval (--log_samples)"
LAYOUT = "each line is {doc_id, target, resps: [[TEXT]], filtered_resps: [TEXT], doc_hash, prompt_hash}"

TELLING = ("prompt_hash", "doc_hash", "target")
"""What tells a prompt, what a row of the data set, and its reference; one is never compared with another."""


def knows(row: Any) -> bool:
    return isinstance(row, dict) and "doc_id" in row and ("filtered_resps" in row or "resps" in row)


def read(document: Document, rows: Rows) -> Contents:
    answers, filtered = [], 0
    for place, row in rows:
        sample_id = document.identity(row, "doc_id", place)
        text = _text(row.get("resps"))
        if text is None:
            text, filtered = _text(row.get("filtered_resps")), filtered + 1
        if text is None:
            raise document.fault(f"{place}.resps", "holds no text")
        doc = row.get("doc") if isinstance(row.get("doc"), dict) else {}
        prompt = {kind: str(row[kind]) for kind in TELLING if row.get(kind)}
        answers.append(Answer(sample_id, (text,), tokens=_tokens(document, row.get("token_counts"), place),
                              group=str(doc.get("category") or ""), prompt=prompt))  # fmt: skip
    notes = ["lmms-eval records no seconds of a sample: texts are compared, not speed"]
    if filtered:
        notes.append(f"{filtered} samples have no text in resps: filtered_resps is compared there, which the task's "
                     "filter may have cut, so that unlike answers can look the same")  # fmt: skip
    return Contents(tuple(answers), placed=True, notes=tuple(notes))


def _first(given: Any) -> Any:
    """What stands first in lists of lists."""
    while isinstance(given, list) and given:
        given = given[0]
    return given


def _text(given: Any) -> str | None:
    text = _first(given)
    return text if isinstance(text, str) else None


def _tokens(document: Document, given: Any, place: str) -> tuple[int, ...]:
    counts = _first(given)
    count = counts.get("output_tokens") if isinstance(counts, dict) else None
    if count is None:
        return ()
    return (int(number(document, count, f"{place}.token_counts.output_tokens", whole=True)),)
