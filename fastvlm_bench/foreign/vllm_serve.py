"""Results of vLLM's `bench serve --save-result --save-detailed`: one object with a list for each quantity.

Requests have no ids: the place in the lists is the id, and the prompt's length tells whether two files agree.
"""

import math
from collections.abc import Sequence
from typing import Any

from fastvlm_bench.foreign import Answer, Contents, Rows
from fastvlm_bench.suites.annotations import Document

TOOL = "vLLM (bench serve)"
LAYOUT = "vLLM's layout is {completed, input_lens, output_lens, ttfts, itls, generated_texts, errors}"
DETAILS = ("output_lens", "ttfts", "itls", "generated_texts")


def knows(row: Any) -> bool:
    return isinstance(row, dict) and "request_throughput" in row and "total_output_tokens" in row


def read(document: Document, rows: Rows) -> Contents:
    place, row = rows[-1]
    if lacking := [key for key in DETAILS if not isinstance(row.get(key), list)]:
        problem = f"has no list {', '.join(lacking)}: run vLLM with --save-result --save-detailed, which writes them"
        raise document.fault(place, problem)
    count = len(row["generated_texts"])
    for key in (*DETAILS, "input_lens", "errors"):
        if isinstance(row.get(key), list) and len(row[key]) != count:
            raise document.fault(f"{place}.{key}", f"has {len(row[key])} entries, but generated_texts has {count}")
    answers = tuple(_answer(document, row, index, place) for index in range(count))
    concurrency, notes = row.get("max_concurrency"), []
    if len(rows) > 1:
        notes.append(f"the file holds {len(rows)} runs: the last counts")
    if concurrency != 1:
        many = "no bound on the number of requests" if concurrency is None else f"{concurrency} requests"
        notes.append(f"{many} in flight: its seconds are those of a loaded server, not of one request alone")
    rate = row.get("spec_decode_acceptance_rate")
    return Contents(
        answers, str(row.get("model_id") or ""), _alpha(row.get("spec_decode_per_position_acceptance_rates")),
        None if rate is None else rate / 100, row.get("spec_decode_acceptance_length"), concurrency, tuple(notes),
    )  # fmt: skip


def _answer(document: Document, row: Any, index: int, place: str) -> Answer:
    text, waits, first = row["generated_texts"][index], row["itls"][index], row["ttfts"][index]
    if not isinstance(text, str) or not isinstance(waits, list) or not isinstance(first, int | float):
        raise document.fault(f"{place}, request {index}", "has no text, ttft or itls of the right kind")
    error, lengths = (row.get("errors") or [""] * (index + 1))[index], row.get("input_lens")
    return Answer(str(index), (text,), (first + math.fsum(waits),), (int(row["output_lens"][index]),),
                  prompt=f"{lengths[index]} prompt tokens" if lengths else "",
                  failed=str(error).splitlines()[-1] if error else "")  # fmt: skip


def _alpha(rates: Sequence[float] | None) -> float | None:
    """α from the share of drafts that stood at each position: position i is tested where all before it stood."""
    if not rates:
        return None
    return math.fsum(rates) / (1 + math.fsum(rates[:-1]))
