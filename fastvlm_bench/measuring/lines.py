"""The lines that one generation leaves in samples.jsonl: one for each of its rows, measured or failed."""

from collections.abc import Mapping, Sequence
from typing import Any

from fastvlm_bench.machine.failures import failed
from fastvlm_bench.measuring.pieces import Decode, rejected_pieces, token_chars
from fastvlm_bench.records.trace import Generation, Trace

Line = dict[str, Any]


def measured(
    keys: Sequence[Line], trace: Trace, decode: Decode, memory: Mapping[str, Any],
    read_s: Sequence[Mapping[str, float]], batch: int | None,
) -> list[Line]:  # fmt: skip
    """The lines of a generation that succeeded.

    keys: for each row its suite, sample, method, repeat and order. decode: gives the text of token ids.
    read_s: for each row the seconds of reading the image and of the processor. batch: the number of the batch within
    its suite; None where samples are decoded singly.
    """
    lines = []
    for row, (key, done) in enumerate(zip(keys, trace.rows, strict=True)):
        text = decode(done.token_ids)
        line = {
            **key, "token_ids": done.token_ids, "text": text, "stop": done.stop,
            "ttft_s": done.ttft_s, "vision_s": done.vision_s, "prefill_s": done.prefill_s,
            "decode_s": done.decode_s, "rounds": _rounds(done), "memory": memory, "scores": {}, "error": None,
            **read_s[row], **({"phases": trace.phases} if trace.phases else {}),
            "token_chars": token_chars(decode, done.token_ids, text), **_rejected(done, decode),
            **_levels(done),
        }  # fmt: skip
        lines.append(line | _of_batch(batch, len(keys), row, trace.ttft_s, trace.decode_s))
    return lines


def void(keys: Sequence[Line], failure: str, batch: int | None) -> list[Line]:
    """The lines of a generation that failed: they hold no measurements."""
    return [failed(key, failure) | _of_batch(batch, len(keys), row, None, None) for row, key in enumerate(keys)]


def _rounds(done: Generation) -> list[list[float]]:
    return [[r.drafted, r.tested, r.accepted, r.emitted, r.draft_s, r.verify_s] for r in done.rounds]


def _rejected(done: Generation, decode: Decode) -> Line:
    """What was drafted and did not stand, round by round; nothing for a method that drafts nothing."""
    if not any(r.drafted for r in done.rounds):
        return {}
    return {"rejected_ids": [list(r.rejected) for r in done.rounds],
            "rejected_pieces": rejected_pieces(decode, done.token_ids, done.rounds)}  # fmt: skip


def _levels(done: Generation) -> Line:
    """What each level of a hierarchy checked, round by round; nothing for any other method."""
    if not any(r.levels for r in done.rounds):
        return {}
    return {"levels": [[list(level) for level in r.levels] for r in done.rounds]}


def _of_batch(number: int | None, size: int, row: int, ttft_s: float | None, decode_s: float | None) -> Line:
    """A line's place in its batch, with the seconds of the whole batch; nothing for a sample that is alone."""
    if number is None:
        return {}
    return {"batch": {"id": number, "size": size, "row": row, "ttft_s": ttft_s, "decode_s": decode_s}}
