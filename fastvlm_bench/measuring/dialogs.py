"""Samples of several turns in the measuring loop: the order of their turns, and the answers that later turns follow.

A later turn is asked after the method's own earlier answers, as text. Its whole prompt is prefilled again for every
method alike: a cache that is kept would hold the tokens that were decoded, while a chat template may write the answer
otherwise, and one method would then be asked something else than another.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from fastvlm_bench.suites.suite import Sample
from fastvlm_bench.suites.turns import turn_id

Answers = tuple[tuple[str, ...], ...]
"""For each sample of a batch the answers to its earlier turns."""


def groups_of(samples: Sequence[Sample], size: int) -> Iterator[list[Sample]]:
    """The samples that are decoded together, in the order of measuring.

    Single turns stay in the order of the suite, so that the turns of a sample follow each other. Batches hold one turn
    of each of their samples: first the first turns of all, then the second ones.
    """
    if size == 1:
        yield from ([sample] for sample in samples)
        return
    for turn in sorted({sample.turn for sample in samples}):
        own = [sample for sample in samples if sample.turn == turn]
        yield from (own[start : start + size] for start in range(0, len(own), size))


class Said:
    """What each method has answered in a suite, by turn and repeat."""

    def __init__(self, suite: str, known: Mapping[tuple[str, str, str, int], str | None]) -> None:
        """known: (suite, sample, method, repeat) -> text, of a run that is resumed. None where the turn failed."""
        self.suite, self.texts = suite, dict(known)

    def learn(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Take in the lines of a group that was measured."""
        for line in lines:
            if "dialog" in line:
                self.texts[said_key(line)] = line["text"]

    def before(self, samples: Sequence[Sample], method: str, repeat: int) -> Answers:
        """The method's answers to the earlier turns of each sample. ValueError, which names it, where one failed."""
        return tuple(
            tuple(self._answer(sample, turn, method, repeat) for turn in range(1, sample.turn)) for sample in samples
        )

    def _answer(self, sample: Sample, turn: int, method: str, repeat: int) -> str:
        text = self.texts.get((self.suite, turn_id(sample.dialog, turn), method, repeat))
        if text is None:
            raise ValueError(f"turn {turn} of sample {sample.dialog} failed, whose answer this turn follows")
        return text


def said_key(line: Mapping[str, Any]) -> tuple[str, str, str, int]:
    return line["suite"], line["sample_id"], line["method"], line["repeat"]
