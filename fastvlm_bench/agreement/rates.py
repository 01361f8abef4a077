"""Shares of agreement: of every exit with the target, and with every deeper exit. Intervals are over images.

A share is Σ agreeing tokens / Σ tokens over all answers, of the tokens after the first. An image counts with
all its answers, because what stands in one answer is no independent observation.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from fastvlm_bench.agreement.guesses import Text
from fastvlm_bench.agreement.kinds import KINDS
from fastvlm_bench.agreement.sources import Source
from fastvlm_bench.analysis.shares import share_of
from fastvlm_bench.analysis.statistics import Estimate

OVERALL, POSITION, KIND, LENGTH = "all", "position", "kind", "length"


@dataclass(frozen=True)
class Rate:
    """How often a source agrees with the target over a group of tokens.

    by: `OVERALL`, `POSITION`, `KIND` or `LENGTH`. group: "9–16", "digit". share: with its interval, without one from
    fewer than 5 images. tokens, images: how many.
    """

    source: Source
    by: str
    group: str
    share: Estimate
    tokens: int
    images: int


def span_of(number: int) -> str:
    """The group of a place in an answer, or of a length, counted from 1: 2, 3–4, 5–8, 9–16, .."""
    end = 1
    while end < number:
        end *= 2
    low = end // 2 + 1
    return str(end) if low >= end else f"{low}–{end}"


def order_of(by: str, group: str) -> float:
    """For sorting the groups of one kind."""
    return KINDS.index(group) if by == KIND else 0.0 if by == OVERALL else float(group.split("–")[0])


def groups_of(by: str) -> Callable[[Text, int], str]:
    """(answer, index among the tokens after the first) -> the token's group."""
    return {
        OVERALL: lambda text, index: OVERALL,
        POSITION: lambda text, index: span_of(index + 2),
        KIND: lambda text, index: text.kinds[index + 1],
        LENGTH: lambda text, index: span_of(len(text.answer)),
    }[by]


def rates(texts: Sequence[Text], sources: Sequence[Source], by: str) -> list[Rate]:
    """The rate of each source over each group of `by`, source by source."""
    group_of, images = groups_of(by), sorted({text.image_id for text in texts})
    found = []
    for source in sources:
        counts: dict[str, dict[str, list[int]]] = {}
        for text in texts:
            for index, right in enumerate(text.right(source)):
                own = counts.setdefault(group_of(text, index), {}).setdefault(text.image_id, [0, 0])
                own[0] += right
                own[1] += 1
        for group in sorted(counts, key=lambda name: order_of(by, name)):
            pairs = np.array([counts[group].get(image, [0, 0]) for image in images], dtype=float)
            here = int((pairs[:, 1] > 0).sum())
            found.append(Rate(source, by, group, share_of(pairs), int(pairs[:, 1].sum()), here))
    return found


@dataclass(frozen=True)
class Matrix:
    """shares[i][j]: how often source i agrees with source j, None where j is no deeper. target[i]: with the target."""

    sources: tuple[Source, ...]
    shares: tuple[tuple[float | None, ...], ...]
    target: tuple[float, ...]

    def between(self, first: Source, second: Source) -> float:
        """The share of two sources, of which the second is deeper."""
        found = self.shares[self.sources.index(first)][self.sources.index(second)]
        assert found is not None, "no deeper"
        return found

    def with_target(self, source: Source) -> float:
        return self.target[self.sources.index(source)]


def matrix(texts: Sequence[Text], sources: Sequence[Source]) -> Matrix:
    """How often each source guesses the same token as each source at a deeper exit, right or wrong."""
    guessed = [np.concatenate([text.guesses[source].tokens for text in texts]) for source in sources]
    own = np.concatenate([text.answer[1:] for text in texts])
    return Matrix(
        tuple(sources),
        tuple(
            tuple(
                float((one == other).mean()) if a.exit_layer < b.exit_layer else None
                for b, other in zip(sources, guessed, strict=True)
            )
            for a, one in zip(sources, guessed, strict=True)
        ),
        tuple(float((one == own).mean()) for one in guessed),
    )
