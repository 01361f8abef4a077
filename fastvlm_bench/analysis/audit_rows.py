"""The numbers of `audit`: one results file of another tool against the reference, over all samples or one topic."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fastvlm_bench.analysis.statistics import Estimate, divide, geometric_mean_ratio, ratio_of_totals
from fastvlm_bench.foreign import Answer, ResultsFile

Pair = tuple[Answer, Answer]
"""The reference's answer to a sample, then the method's."""


@dataclass(frozen=True)
class Audited:
    """One method on the samples of one topic ("" is all of them), against the reference on the same samples.

    samples: paired and answered in both. same_text: every turn has the same text; same_first_turn: the first one has,
    which alone is asked in the same context. Ratios are reference / method, above 1 is faster; None where a file lacks
    seconds or tokens. speedup_per_token: of the seconds per token over all samples. speedup_of_rates: of the mean of
    tokens per second over samples, with the counts in the files. length_ratio: method's tokens / reference's, of the
    pairs for which both files have them; text_length_ratio: of characters. tau: tokens / rounds; alpha,
    draft_acceptance_rate: as the tool tells them.
    """

    file: str
    tool: str
    model: str
    topic: str
    samples: int
    missing: int
    same_text: int
    same_first_turn: int
    speedup_geomean: Estimate | None
    speedup_totals: Estimate | None
    speedup_per_token: float | None
    speedup_of_rates: float | None
    length_ratio: float | None
    text_length_ratio: float | None
    alpha: float | None
    draft_acceptance_rate: float | None
    tau: float | None


def row_of(name: str, other: ResultsFile, topic: str, pairs: Sequence[Pair], missing: int) -> Audited:
    """The numbers of a file over some pairs. missing: samples of the reference that it lacks."""
    timed = timed_pairs(pairs)
    reference, method = [math.fsum(a.seconds) for a, _ in timed], [math.fsum(b.seconds) for _, b in timed]
    counted = counted_pairs(timed)
    a_rate, b_rate = (
        divide(math.fsum(math.fsum(p[i].seconds) for p in counted), sum(sum(p[i].tokens) for p in counted))
        for i in (0, 1)
    )
    means = [math.fsum(sum(p[i].tokens) / math.fsum(p[i].seconds) for p in counted) for i in (0, 1)]
    rounds = [(b.tokens, b.rounds) for _, b in pairs if b.tokens and b.rounds]
    told = other.contents
    return Audited(
        name, other.tool, told.model, topic, len(pairs), missing,
        sum(a.texts == b.texts for a, b in pairs), sum(a.texts[0] == b.texts[0] for a, b in pairs),
        geometric_mean_ratio(reference, method), ratio_of_totals(reference, method),
        None if a_rate is None else divide(a_rate, b_rate), divide(means[1], means[0]),
        _length_ratio(counted_pairs(pairs), lambda answer: sum(answer.tokens)),
        _length_ratio(pairs, lambda answer: sum(map(len, answer.texts))),
        told.alpha if not topic else None, told.draft_acceptance_rate if not topic else None,
        divide(sum(sum(t) for t, _ in rounds), sum(sum(r) for _, r in rounds)) if rounds
        else told.tau if not topic else None,
    )  # fmt: skip


def timed_pairs(pairs: Sequence[Pair]) -> list[Pair]:
    """The pairs with positive seconds in both files, and as many turns."""
    return [(a, b) for a, b in pairs if len(a.texts) == len(b.texts) and min((*a.seconds, *b.seconds), default=0) > 0
            and a.seconds and b.seconds]  # fmt: skip


def counted_pairs(pairs: Sequence[Pair]) -> list[Pair]:
    """The pairs whose tokens both files tell."""
    return [(a, b) for a, b in pairs if a.tokens and b.tokens]


def _length_ratio(pairs: Sequence[Pair], length: Callable[[Answer], int]) -> float | None:
    return divide(sum(length(b) for _, b in pairs), sum(length(a) for a, _ in pairs))
