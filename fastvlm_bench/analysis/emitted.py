"""An answer token by token, round by round: what the target said itself, what was drafted and stood, what did not.

Everything is told from one line of samples.jsonl, without a tokenizer. Older records lack the text of single tokens
(`Token.text` is then None) and the rejected drafts (`Emitted.complete` is then False).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

PREFILL = "prefill"  # the target's own first token, which the pass over the prompt gives
OWN = "own"  # the target's own: the correction or bonus token of a round, or a round without drafts
ACCEPTED = "accepted"  # drafted, tested, and the target agreed
DRAFTED = "drafted"  # drafted and emitted without a test: a method that never verifies
REJECTED = "rejected"  # drafted, tested, and not emitted: the round's own token is what the target said instead
UNTESTED = "untested"  # drafted after a rejected one, so never tested nor emitted
KINDS = (PREFILL, OWN, ACCEPTED, DRAFTED, REJECTED, UNTESTED)
NOT_EMITTED = frozenset({REJECTED, UNTESTED})


@dataclass(frozen=True)
class Token:
    """kind: one of `KINDS`. text: "" for a special token, or one that begins a character; None if not recorded."""

    kind: str
    token_id: int
    text: str | None


@dataclass(frozen=True)
class Emitted:
    """One round. number: from 1; 0 is the prefill. tokens: accepted drafts, rejected ones, the target's own.

    emitted: tokens of the output in this round. seconds: of this round. decoded, decode_s: tokens and seconds of all
    rounds up to this one, prefill left out. complete: False where a draft was rejected and not recorded.
    """

    number: int
    tokens: tuple[Token, ...]
    emitted: int
    seconds: float
    decoded: int
    decode_s: float
    complete: bool


def emitted_rounds(line: Mapping[str, Any]) -> list[Emitted]:
    """The rounds of a line that did not fail, prefill first.

    A record has the seconds of each round's passes, and those of the whole decoding. What lies between is spread over
    the rounds in proportion, so that they add up to `decode_s`. In a batch all seconds are the row's shares.
    """
    output, rounds = _output(line), line["rounds"]
    rejected = line.get("rejected_ids") or [[]] * len(rounds)
    pieces = line.get("rejected_pieces") or [[]] * len(rounds)
    inside = sum(round_[4] + round_[5] for round_ in rounds)
    found = [Emitted(0, (Token(PREFILL, *next(output)),), 1, line["ttft_s"], 0, 0.0, True)]
    decoded, decode_s = 0, 0.0
    for number, (drafted, tested, accepted, emitted, draft_s, verify_s) in enumerate(rounds, start=1):
        seconds = line["decode_s"] * ((draft_s + verify_s) / inside if inside else 1 / len(rounds))
        decoded, decode_s = decoded + emitted, decode_s + seconds
        stood = DRAFTED if drafted and not tested else ACCEPTED
        count = min(emitted, drafted if stood == DRAFTED else accepted)
        standing = [Token(stood, *next(output)) for _ in range(count)]
        own = [Token(OWN, *next(output)) for _ in range(emitted - count)]
        ids = rejected[number - 1]
        lost = [Token(UNTESTED if place else REJECTED, token_id, piece)
                for place, (token_id, piece) in enumerate(zip(ids, pieces[number - 1], strict=True))]  # fmt: skip
        found.append(Emitted(number, (*standing, *lost, *own), emitted, seconds, decoded, decode_s,
                             bool(ids) or tested == accepted))  # fmt: skip
    return found


def _output(line: Mapping[str, Any]) -> Iterator[tuple[int, str | None]]:
    """(id, text) of each token of the output."""
    chars: Sequence[int] | None = line.get("token_chars")
    place = 0
    for index, token_id in enumerate(line["token_ids"]):
        if chars is None:
            yield token_id, None
            continue
        yield token_id, line["text"][place : place + chars[index]]
        place += chars[index]


def running_speedup(done: Emitted, reference: Mapping[str, Any] | None) -> float | None:
    """The decode speed-up so far: what the reference needs for as many tokens, over what all rounds took.

    reference: the reference's line of the same sample, of which the mean time per token counts. None where either
    decoded nothing.
    """
    tokens = len(reference["token_ids"] or ()) - 1 if reference is not None else 0
    if reference is None or tokens < 1 or not done.decode_s or not reference["decode_s"]:
        return None
    return float(done.decoded * reference["decode_s"] / tokens / done.decode_s)
