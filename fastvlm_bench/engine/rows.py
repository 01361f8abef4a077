"""The rows of a session, that is its sequences: each row's tokens, why it stopped, and its share of the seconds."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from fastvlm_bench.records.trace import Generation, Round, Trace

Tokens = Sequence[Sequence[int]]
"""For each row a list of token ids."""


@dataclass
class Row:
    """One sequence. place: its row in the input. prompt_length: tokens of its prompt, without padding.

    tokens: what it has emitted. stop: "eos", "length" or "criteria"; "" while it is being decoded.
    """

    place: int
    prompt_length: int
    tokens: list[int] = field(default_factory=list)
    stop: str = ""
    rounds: list[Round] = field(default_factory=list)
    decode_s: float = 0.0

    @property
    def length(self) -> int:
        """How many ids it has, with the prompt but without padding."""
        return self.prompt_length + len(self.tokens)


def settle(rows: Sequence[Row], rounds: Sequence[Round], seconds: float) -> None:
    """Add a round to the rows that took part. They share its `seconds`, and its draft_s and verify_s, equally."""
    share = 1 / len(rows)
    for row, done in zip(rows, rounds, strict=True):
        if share < 1:
            done = replace(done, draft_s=done.draft_s * share, verify_s=done.verify_s * share)
        row.rounds.append(done)
        row.decode_s += seconds * share


def traced(rows: Iterable[Row], began: float, first: float, ended: float) -> Trace:
    """The trace of a generation, with its rows in the order of the input.

    began, first, ended: the clock (s) at the method's start, and when the first and the last token of all rows were
    known on the host. The rows' seconds are scaled so that they add up to ended - first, since the time between rounds
    belongs to them, too.
    """
    ttft_s, decode_s = first - began, ended - first
    rows = sorted(rows, key=lambda row: row.place)
    shared_s, share = sum(row.decode_s for row in rows), ttft_s / len(rows)
    scale = decode_s / shared_s if shared_s > 0 else 1.0
    traces = [
        Generation(row.tokens, row.stop, share, None, share, row.decode_s * scale, row.rounds) for row in rows
    ]  # fmt: skip
    if len(traces) == 1:
        traces[0].decode_s = decode_s  # exactly, without the rounding of the scale
    elif not shared_s:  # every row stopped at its first token, so no round has told the rows' parts
        for trace in traces:
            trace.decode_s = decode_s / len(traces)
    return Trace(traces, ttft_s, None, decode_s)
