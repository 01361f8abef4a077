"""VisDial: where does the model rank the answer that a person gave, among 100 (Das et al., CVPR 2017)?

The value is MRR, the mean of 1 / rank of that answer. `parts`: r@1, r@5, r@10, the mean rank, and NDCG over the samples
with relevances: with k options of relevance other than 0 and π(i) the option ranked i-th,
NDCG = Σ_{i≤k} rel(π(i)) / log2(i + 1), divided by the same sum for the best ranking.

Source: batra-mlp-lab/visdial-challenge-starter-pytorch `metrics.py` at 5844f3d. Where all relevances are 0 the official
code gives NaN; here such a sample is left out of NDCG and counted. This ranks given options: a generated answer has
none of these numbers.
"""

import math
from collections.abc import Sequence
from typing import Literal, get_args

from fastvlm_bench.errors import UsageError
from fastvlm_bench.metrics import MetricKind, MetricScore, Part, check_samples, check_variant

METRIC = MetricKind(
    "MRR", "mean of 1 / rank of a person's answer; of ranks, not of generated answers",
    parts={
        "ndcg": Part("NDCG"), "r@1": Part("R@1"), "r@5": Part("R@5"), "r@10": Part("R@10"),
        "mean_rank": Part("mean rank", "number"), "ndcg_samples": Part("NDCG samples", "count"),
        "ndcg_all_zero": Part("without relevances", "count"),
    },
)  # fmt: skip

Variant = Literal["sum", "mean"]


def score(predictions: Sequence[str], references: Sequence[Sequence[str]], *, variant: Variant = "sum") -> MetricScore:
    """MRR, and 1 / rank per sample. A prediction is the options' ranks, "3 1 2 …", as in the official results file.

    A prediction made by `run` has two lines: ranks by the log-likelihood of the whole answer, and ranks by its mean
    over the answer's tokens. `variant` chooses between them; a single line is taken whatever the variant.

    `references` of a sample: the index, from 0, of the right option, and optionally the relevances of all options,
    separated by spaces. `parts["ndcg"]` is there only if some sample has relevances; `parts["ndcg_samples"]` counts the
    samples that it averages, and `parts["ndcg_all_zero"]` those left out because no option is relevant. Raises
    UsageError for bad lengths, indices out of range, and ranks that are not 1 … n.
    """
    check_samples(predictions, references)
    check_variant("visdial_ranking", variant, get_args(Variant))
    line = get_args(Variant).index(variant)
    places: list[int] = []
    gains: list[float | None] = []
    for sample, (prediction, texts) in enumerate(zip(predictions, references, strict=True)):
        given = prediction.split("\n")
        ranks = [int(number) for number in _numbers(given[line if len(given) > 1 else 0], sample, "ranks")]
        if sorted(ranks) != list(range(1, len(ranks) + 1)):
            raise UsageError(f"sample {sample}: the ranks must be 1 .. {len(ranks)}, each once")
        index = int(_numbers(texts[0], sample, "right option")[0])
        if not 0 <= index < len(ranks):
            raise UsageError(f"sample {sample}: the right option is {index}, but there are {len(ranks)}, from 0")
        places.append(ranks[index])
        if len(texts) > 1:
            relevance = _numbers(texts[1], sample, "relevances")
            if len(relevance) != len(ranks):
                raise UsageError(f"sample {sample}: {len(relevance)} relevances for {len(ranks)} options; one each")
            gains.append(ndcg(ranks, relevance))
    reciprocal = [1 / place for place in places]
    parts = {f"r@{k}": sum(place <= k for place in places) / len(places) for k in (1, 5, 10)}
    parts["mean_rank"] = sum(places) / len(places)
    known = [gain for gain in gains if gain is not None]
    if known:
        parts["ndcg"] = sum(known) / len(known)
    if gains:
        parts |= {"ndcg_samples": float(len(known)), "ndcg_all_zero": float(len(gains) - len(known))}
    return MetricScore(sum(reciprocal) / len(reciprocal), reciprocal, parts)


def ranks_of(scores: Sequence[float]) -> list[int]:
    """The rank of each option, 1 for the highest score; of equal scores the first option is ranked first."""
    order = sorted(range(len(scores)), key=lambda option: -scores[option])
    ranks = [0] * len(scores)
    for place, option in enumerate(order, 1):
        ranks[option] = place
    return ranks


def ndcg(ranks: Sequence[int], relevance: Sequence[float]) -> float | None:
    """NDCG of one ranking; None where no option is relevant."""
    relevant = sum(value != 0 for value in relevance)
    ranked = [value for _, value in sorted(zip(ranks, relevance, strict=True))]
    best = _discounted(sorted(relevance, reverse=True)[:relevant])
    return _discounted(ranked[:relevant]) / best if best else None


def _discounted(values: Sequence[float]) -> float:
    return sum(value / math.log2(place + 2) for place, value in enumerate(values))


def _numbers(text: str, sample: int, what: str) -> list[float]:
    try:
        numbers = [float(word) for word in text.split()]
    except ValueError:
        numbers = []
    if not numbers or not all(math.isfinite(number) for number in numbers):
        raise UsageError(f"sample {sample}: the {what} are {text[:40]!r}, not numbers separated by spaces")
    return numbers
