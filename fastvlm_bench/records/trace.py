"""What a decoding method reports: counts and seconds, never rates. Standard library only."""

from collections.abc import Sequence
from dataclasses import dataclass, field

STOPS = ("eos", "length", "criteria")
"""What ends an output: its EOS, the limit, or another criterion, such as a stop string of the checkpoint."""


@dataclass(slots=True)
class Round:
    """One drafting of up to γ tokens and one verification.

    `tested` is `accepted` plus one if a draft was rejected: drafts after a rejection were never tested.
    `emitted` counts the tokens that reached the output, the correction or bonus token included, after truncation
    at EOS or at the token limit. `draft_s` and `verify_s` are seconds inside the model's forward passes only; the rest
    of the wall time is the loop's own overhead. In standard decoding each token is a round with nothing drafted:
    `Round(0, 0, 0, 1, 0.0, verify_s)`.

    `rejected`: where a draft was rejected, this one and those drafted after it, which were never tested. What the
    target says instead is in the output. Of a tree they are one path: from where the walk ended, each node's first
    child, which is its likeliest. `levels`: in a hierarchy, for each exit but the lowest what it checked, as drafted,
    tested, accepted; `drafted` is then what the last of them left to the target.
    """

    drafted: int
    tested: int
    accepted: int
    emitted: int
    draft_s: float
    verify_s: float
    rejected: Sequence[int] = ()
    levels: Sequence[Sequence[int]] = ()


@dataclass(slots=True)
class Generation:
    """The trace of one sequence. `len(token_ids) == 1 + sum(r.emitted for r in rounds)`.

    token_ids: new tokens only, up to and including EOS. stop: one of STOPS.
    ttft_s: seconds from the start of the request until the first token is chosen and known on the host,
    `vision_s + prefill_s`. vision_s: image encoding, None where it cannot be told apart; it is then part of prefill_s.
    prefill_s includes the prefill of the imitation head. decode_s: from there until the last token is known on the
    host. In a batch, these seconds are shares: see `Trace`.
    """

    token_ids: list[int]
    stop: str
    ttft_s: float
    vision_s: float | None
    prefill_s: float
    decode_s: float
    rounds: list[Round] = field(default_factory=list)


@dataclass(slots=True)
class Trace:
    """What a method reports of one call: a `Generation` a sequence, in the order of the input, and seconds of all.

    rows: one `Generation` per sequence, in the order of the input. Its seconds are shares: each moment is divided
    equally among the rows that are being decoded then, so that the sums over the rows are the batch's seconds. A share
    is not a latency: every row waits the whole `ttft_s` of the batch for its first token. phases: the seconds that
    `--phases` tells, vision_s .. other_s. cache_bytes: the target's KV cache at the end. Both are None where they were
    not asked for.
    """

    rows: list[Generation]
    ttft_s: float
    vision_s: float | None
    decode_s: float
    phases: dict[str, float | None] | None = None
    cache_bytes: int | None = None
