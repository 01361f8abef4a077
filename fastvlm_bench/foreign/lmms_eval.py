"""lmms-eval's samples (`--log_samples`): a JSON line a sample, with texts, at times token counts, never seconds."""

from typing import Any

from fastvlm_bench.foreign import Answer, Contents, Rows
from fastvlm_bench.suites.annotations import Document

TOOL = "lmms-eval (--log_samples)"
LAYOUT = "each line is {doc_id, target, resps: [[TEXT]], filtered_resps: [TEXT], doc_hash, prompt_hash}"


def knows(row: Any) -> bool:
    return isinstance(row, dict) and "doc_id" in row and ("filtered_resps" in row or "resps" in row)


def read(document: Document, rows: Rows) -> Contents:
    answers = []
    for place, row in rows:
        text = row.get("filtered_resps", row.get("resps"))
        while isinstance(text, list) and text:
            text = text[0]
        if not isinstance(text, str):
            raise document.fault(f"{place}.filtered_resps", "holds no text")
        doc = row.get("doc") if isinstance(row.get("doc"), dict) else {}
        answers.append(Answer(document.identity(row, "doc_id", place), (text,), tokens=_tokens(row.get("token_counts")),
                              group=str(doc.get("category") or ""),
                              prompt=str(row.get("prompt_hash") or row.get("doc_hash") or "")))  # fmt: skip
    return Contents(tuple(answers), notes=("lmms-eval records no seconds of a sample: texts are compared, not speed",))


def _tokens(given: Any) -> tuple[int, ...]:
    while isinstance(given, list) and given:
        given = given[0]
    count = given.get("output_tokens") if isinstance(given, dict) else None
    return (count,) if isinstance(count, int) else ()
