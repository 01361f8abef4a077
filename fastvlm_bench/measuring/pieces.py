"""The text of each token of an answer, so that a record can be shown token by token without the tokenizer.

A character may be spread over several tokens (byte-level BPE, byte fallback). It belongs to the token that completes
it, and the tokens before add nothing. A space that ends a token likewise belongs to the next one. Nothing here runs on
the clock.
"""

import os.path
from collections.abc import Callable, Sequence

from fastvlm_bench.records.trace import Round

BROKEN = "\N{REPLACEMENT CHARACTER}"
CONTEXT = 8
"""How many tokens before a rejected draft are decoded with it, so that it is spaced as it would be in the text."""

Decode = Callable[[list[int]], str]
"""From token ids to text, without special tokens and outer spaces: `Target.decode`."""


def token_chars(decode: Decode, token_ids: Sequence[int], text: str) -> list[int]:
    """For each token how many characters of `text`, which is that of all tokens, it completes. They add up to all.

    Only the last tokens are decoded with the next one, so the cost grows with the tokens and not with their square.
    Where the parts do not make the text (a tokenizer that changes earlier text), each beginning is decoded in full.
    """
    ids = list(token_ids)
    parts = _streamed(decode, ids)
    if "".join(parts) == text:
        return [len(part) for part in parts]
    ends, known = list[int](), 0
    for count in range(1, len(ids) + 1):
        said = text if count == len(ids) else decode(ids[:count]).rstrip(BROKEN)
        known = max(known, len(os.path.commonprefix([said, text])))
        ends.append(known)
    return [end - before for end, before in zip(ends, [0, *ends], strict=False)]


def _streamed(decode: Decode, ids: list[int]) -> list[str]:
    """What each token adds, told from the tokens since the last but one that completed something."""
    parts, start, read = list[str](), 0, 0
    for count in range(1, len(ids) + 1):
        before, now = decode(ids[start:read]), decode(ids[start:count])
        if len(now) > len(before) and (not now.endswith(BROKEN) or count == len(ids)):
            parts.append(now[len(before) :])
            start, read = read, count
        else:
            parts.append("")
    return parts


def rejected_pieces(decode: Decode, token_ids: Sequence[int], rounds: Sequence[Round]) -> list[list[str]]:
    """For each round the text of each of its rejected drafts, as it would follow the output and the drafts before it.

    A special token has none. The last draft of a round gets what is left, U+FFFD for a character that it begins.
    """
    pieces, place = list[list[str]](), 1
    for done in rounds:
        stood = place + done.accepted
        pieces.append(_continued(decode, list(token_ids[max(0, stood - CONTEXT) : stood]), list(done.rejected)))
        place += done.emitted
    return pieces


def _continued(decode: Decode, before: list[int], drafts: list[int]) -> list[str]:
    if not drafts:
        return []
    whole = decode([*before, *drafts])
    said = decode(before).rstrip(BROKEN)
    if not whole.startswith(said):  # they change what stands before: they are shown as if nothing did
        before, whole = [], decode(drafts)
    counts = token_chars(decode, [*before, *drafts], whole)[len(before) :]
    places = [len(whole) - sum(counts[index:]) for index in range(len(counts) + 1)]
    return [whole[start:end] for start, end in zip(places, places[1:], strict=False)]
