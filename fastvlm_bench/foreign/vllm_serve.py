"""Results of vLLM's `bench serve --save-result --save-detailed`: one object with a list for each quantity.

Requests have no ids: the place in the lists is the id, and the prompt's length tells whether two files agree.
"""

import math
from typing import Any

from fastvlm_bench.foreign import LARGEST, Answer, Contents, Rows, number
from fastvlm_bench.suites.annotations import Document

TOOL = "vLLM (bench serve)"
LAYOUT = "vLLM's layout is {completed, input_lens, output_lens, ttfts, itls, generated_texts, errors}"
DETAILS = ("output_lens", "ttfts", "itls", "generated_texts")


def knows(row: Any) -> bool:
    return isinstance(row, dict) and "request_throughput" in row and "total_output_tokens" in row


def read(document: Document, rows: Rows) -> Contents:
    place, row = rows[-1]
    if not isinstance(row, dict):
        raise document.fault(place, "is no object")
    if lacking := [key for key in DETAILS if not isinstance(row.get(key), list)]:
        problem = f"has no list {', '.join(lacking)}: run vLLM with --save-result --save-detailed, which writes them"
        raise document.fault(place, problem)
    count = len(row["generated_texts"])
    for key in (*DETAILS, "input_lens", "errors"):
        if row.get(key) is not None and len(document.get(row, key, list, place)) != count:
            raise document.fault(f"{place}.{key}", f"has {len(row[key])} entries, but generated_texts has {count}")
    answers = tuple(_answer(document, row, index, place) for index in range(count))
    concurrency, notes = _told(document, row, "max_concurrency", place, whole=True), []
    bound = None if concurrency is None else int(concurrency)
    if len(rows) > 1:
        notes.append(f"the file holds {len(rows)} runs: the last counts")
    if bound != 1:
        many = "no bound on the number of requests" if bound is None else f"{bound} requests"
        notes.append(f"{many} in flight: its seconds are those of a loaded server, not of one request alone")
    rate = _told(document, row, "spec_decode_acceptance_rate", place, most=100)
    return Contents(
        answers, str(row.get("model_id") or ""), _alpha(document, row, place), None if rate is None else rate / 100,
        _told(document, row, "spec_decode_acceptance_length", place), bound, placed=True, notes=tuple(notes),
    )  # fmt: skip


def _told(
    document: Document, row: Any, key: str, place: str, whole: bool = False, most: float = LARGEST
) -> float | None:
    """The number at `key`; None where it is absent or null."""
    return None if row.get(key) is None else number(document, row[key], f"{place}.{key}", whole, most)


def _answer(document: Document, row: Any, index: int, place: str) -> Answer:
    def at(key: str, value: Any, whole: bool = False) -> float:
        return number(document, value, f"{place}.{key}[{index}]", whole)

    text, waits = row["generated_texts"][index], row["itls"][index]
    if not isinstance(text, str) or not isinstance(waits, list):
        raise document.fault(f"{place}, request {index}", "has no text or itls of the right kind")
    seconds = math.fsum([at("ttfts", row["ttfts"][index]), *(at("itls", wait) for wait in waits)])
    errors, lengths = row.get("errors"), row.get("input_lens")
    error = str(errors[index] or "").split() if errors else []
    prompt = {"prompt tokens": str(int(at("input_lens", lengths[index], whole=True)))} if lengths else {}
    return Answer(str(index), (text,), (seconds,), (int(at("output_lens", row["output_lens"][index], whole=True)),),
                  prompt=prompt, failed=" ".join(error))  # fmt: skip


def _alpha(document: Document, row: Any, place: str) -> float | None:
    """α from the share of drafts that stood at each position: position i is tested where all before it stood."""
    key = "spec_decode_per_position_acceptance_rates"
    if not row.get(key):
        return None
    given = document.get(row, key, list, place)
    rates = [number(document, rate, f"{place}.{key}[{index}]", most=1) for index, rate in enumerate(given)]
    return math.fsum(rates) / (1 + math.fsum(rates[:-1]))
