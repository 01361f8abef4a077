"""Checks that the numbers within one line of a record agree, for any method. The runner checks each line it makes."""

import math
from collections.abc import Collection, Mapping
from typing import Any

from fastvlm_bench.records.trace import STOPS

MEASURED = ("token_ids", "text", "stop", "ttft_s", "vision_s", "prefill_s", "decode_s")
"""Fields that are null in the line of a failed sample."""
SLACK, SLACK_S = 1.05, 1e-3
"""The parts may exceed the whole by 5 % and 1 ms, because device events and the wall clock disagree that much."""


def check_line(
    line: Mapping[str, Any], max_new_tokens: int | None = None, eos: Collection[int] = ()
) -> list[str]:  # fmt: skip
    """What is wrong with a line of samples.jsonl, one phrase per problem; [] if nothing is.

    Counts are checked as `trace.Round` defines them, and parts of a time against the whole. Three checks are those of
    MLPerf's TEST06: the number of tokens counted is that of the output, the first token is among them, and EOS occurs
    at most once (as the last token, where `stop` is "eos"). max_new_tokens: None if it is not known. eos: the ids that
    end an output, () if they are not known.
    """
    if line["error"] is not None:
        kept = [name for name in MEASURED if line.get(name) is not None]
        return [f"a failed sample carries {', '.join(kept)}"] if kept or line["rounds"] else []
    return [*_tokens(line, max_new_tokens), *_ends(line, eos), *_rounds(line["rounds"]), *_seconds(line),
            *_pieces(line)]  # fmt: skip


def _ends(line: Mapping[str, Any], eos: Collection[int]) -> list[str]:
    if not eos or not line["token_ids"]:
        return []
    *before, last = line["token_ids"]
    problems = [f"EOS (token {token}) at {place}, before the end" for place, token in enumerate(before) if token in eos]
    if (last in eos) != (line["stop"] == "eos"):
        problems.append(f"stop is {line['stop']!r}, but the last token is {last}")
    return problems


def _tokens(line: Mapping[str, Any], max_new_tokens: int | None) -> list[str]:
    ids, problems = line["token_ids"], []
    emitted = sum([round_[3] for round_ in line["rounds"]])
    if not ids:
        return ["no token at all: prefill always gives one"]
    if len(ids) != 1 + emitted:
        problems.append(f"{len(ids)} tokens, but 1 + emitted = {1 + emitted}")
    if line["stop"] not in STOPS:
        problems.append(f"stop is {line['stop']!r}, not {' or '.join(STOPS)}")
    if line["stop"] == "eos" and ids.count(ids[-1]) > 1:
        problems.append(f"EOS (token {ids[-1]}) appears {ids.count(ids[-1])} times")
    if max_new_tokens is not None and len(ids) > max_new_tokens:
        problems.append(f"{len(ids)} tokens, more than the limit of {max_new_tokens}")
    return problems


def _rounds(rounds: list[list[Any]]) -> list[str]:
    problems = []
    for index, (drafted, tested, accepted, emitted, draft_s, verify_s) in enumerate(rounds):
        if 0 <= accepted <= tested <= drafted and tested - 1 <= accepted == emitted - 1 \
                and type(draft_s) is float and type(verify_s) is float and draft_s >= 0 <= verify_s:  # fmt: skip
            continue  # as nearly all are: of a million lines the checks one by one take long
        last = index == len(rounds) - 1
        if not 0 <= accepted <= tested <= drafted:
            problems.append(f"round {index}: not 0 <= accepted {accepted} <= tested {tested} <= drafted {drafted}")
        if tested > accepted + 1:
            problems.append(f"round {index}: tested {tested} goes on after a rejection (accepted {accepted})")
        if not 1 <= emitted <= accepted + 1 or (emitted <= accepted and not last):
            problems.append(f"round {index}: emitted {emitted} of accepted {accepted} + 1")
        if not all(isinstance(s, int | float) and s >= 0 for s in (draft_s, verify_s)):
            problems.append(f"round {index}: seconds {draft_s} and {verify_s} are not both >= 0")
    return problems


def _pieces(line: Mapping[str, Any]) -> list[str]:
    """What a line says of single tokens fits its text and rounds. Older records say nothing of them."""
    problems, chars, ids = [], line.get("token_chars"), line.get("rejected_ids")
    if chars is not None and (len(chars) != len(line["token_ids"]) or sum(chars) != len(line["text"])):
        problems.append(f"token_chars has {len(chars)} tokens and {sum(chars)} characters, not "
                        f"{len(line['token_ids'])} and {len(line['text'])}")  # fmt: skip
    if ids is None:
        return problems
    counts, texts = [len(each) for each in ids], [len(each) for each in line["rejected_pieces"]]
    if len(counts) != len(line["rounds"]) or texts != counts:
        return [*problems, f"rejected_ids {counts} and rejected_pieces {texts} of {len(line['rounds'])} rounds"]
    for index, (count, (drafted, tested, accepted, *_)) in enumerate(zip(counts, line["rounds"], strict=True)):
        if count > drafted - accepted or (count and tested == accepted):
            problems.append(f"round {index}: {count} rejected ids of drafted {drafted}, tested {tested}, accepted "
                            f"{accepted}")  # fmt: skip
    return problems


def _seconds(line: Mapping[str, Any]) -> list[str]:
    problems = []
    for name in ("ttft_s", "prefill_s", "decode_s"):
        if not isinstance(line[name], int | float) or not math.isfinite(line[name]) or line[name] < 0:
            problems.append(f"{name} is {line[name]!r}, not a time")
    if problems:
        return problems
    inside = math.fsum([r[4] + r[5] for r in line["rounds"]])
    if inside > line["decode_s"] * SLACK + SLACK_S:
        problems.append(f"rounds take {inside:.6g} s, more than decode_s {line['decode_s']:.6g}")
    parts = line["prefill_s"] + (line["vision_s"] or 0.0)
    if parts > line["ttft_s"] * SLACK + SLACK_S:
        problems.append(f"vision_s + prefill_s = {parts:.6g} s, more than ttft_s {line['ttft_s']:.6g}")
    return problems
