"""Drafts by looking the last tokens up in prompt and output, and copying what followed: the draft that costs nothing.

Prompt lookup decoding (A. Saxena, 2023), which vLLM calls n-gram speculation. No model drafts, so it shows what the
text itself gives away. What stands for an image in the prompt is never drafted.
"""

from collections.abc import Collection, Sequence

from fastvlm_bench.engine.drafting import Drafts
from fastvlm_bench.engine.proposing import Proposing
from fastvlm_bench.engine.session import Session
from fastvlm_bench.machine.clock import Clock
from fastvlm_bench.method_spec import GAMMA, MethodKind, Option

METHOD = MethodKind(
    "drafts what followed the last tokens before, in prompt or output: needs no weights", lossless=True,
    group="baselines",
    options={"gamma": GAMMA, "max_ngram": Option(int, 3, "longest n-gram that is looked up", low=1, high=16)},
)  # fmt: skip


class PromptLookup(Proposing):
    """gamma: γ, most tokens copied per round. max_ngram: longest n-gram that is looked up; shorter ones follow."""

    def __init__(self, *, gamma: int = 10, max_ngram: int = 3, clock: Clock | None = None) -> None:
        super().__init__(gamma=gamma, clock=clock)
        if max_ngram < 1:
            raise ValueError(f"max_ngram must be at least 1, not {max_ngram}")
        self.max_ngram = max_ngram

    def propose(self, session: Session, drafts: Drafts) -> None:
        copies = [
            continuation(text, self.max_ngram, drafts.room(row), session.placeholders)
            for row, text in enumerate(session.texts)
        ]
        for place in range(max(map(len, copies))):
            if not session.propose([copy[place : place + 1] for copy in copies], drafts):
                break


def continuation(text: Sequence[int], longest: int, count: int, never: Collection[int] = ()) -> list[int]:
    """Up to `count` tokens that followed the latest earlier occurrence of the text's end; [] if there is none.

    The longest n-gram that occurs counts, of at most `longest` tokens. What follows ends before a token of `never`.
    """
    for size in range(min(longest, len(text) - 1), 0, -1):
        end = list(text[-size:])
        for start in range(len(text) - size - 1, -1, -1):
            if text[start + size - 1] == end[-1] and list(text[start : start + size]) == end:
                found = list(text[start + size : start + size + count])
                stop = next((i for i, token in enumerate(found) if token in never), len(found))
                if stop:
                    return found[:stop]
    return []
