"""BLEU-4 as coco-caption computes it (pycocoevalcap/bleu/bleu_scorer.py, option "closest").

For n = 1 … 4, over all samples: p_n = (Σ clipped matches + 1e-15) / (Σ n-grams of the predictions + 1e-9), where the
count of an n-gram is clipped at its highest count in any one reference of the sample. c = Σ prediction lengths,
r = Σ length of the reference closest to the prediction (of two equally close ones, the shorter);
BP = exp(1 − r/c) if c < r, else 1. BLEU-4 = BP · (p_1 p_2 p_3 p_4)^(1/4). The two small numbers are the official ones:
they keep a prediction without any 4-gram slightly above zero.
"""

import math
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

from fastvlm_bench.metrics import MetricKind, MetricScore, Part, check_samples
from fastvlm_bench.metrics.ptb_tokenizer import tokenize_all

METRIC = MetricKind(
    "BLEU-4", "n-grams pooled over the corpus; BLEU-1 to -3 come along", tokenised=True,
    parts={"bleu1": Part("BLEU-1"), "bleu2": Part("BLEU-2"), "bleu3": Part("BLEU-3")},
)  # fmt: skip

_ORDERS = (1, 2, 3, 4)


def score(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> MetricScore:
    """Corpus BLEU-4 of raw texts, and the BLEU-4 of each sample alone (0 for an empty prediction).

    The value pools the counts of all samples: it is not the mean of `per_sample`. `parts` holds BLEU-1 to BLEU-3,
    which stop at shorter n-grams. Raises UsageError when the lengths differ or there is nothing to score.
    """
    of_samples = counts(predictions, references)
    sums = [sum(column) for column in zip(*of_samples, strict=True)]
    shorter = {f"bleu{orders}": combine(sums, orders) for orders in _ORDERS[:-1]}
    return MetricScore(combine(sums), [combine(of_sample) for of_sample in of_samples], shorter)


def counts(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> list[tuple[int, ...]]:
    """The ten counts of each sample, which `combine` takes. Raises UsageError for bad lengths.

    They are the clipped matches for n = 1 … 4, the n-grams of the prediction for n = 1 … 4, the length of the
    prediction in words, and that of the closest reference.
    """
    check_samples(predictions, references)
    return [
        _counts(prediction, tuple(tokenize_all(texts)))
        for prediction, texts in zip(tokenize_all(predictions), references, strict=True)
    ]


@lru_cache(maxsize=1 << 17)
def _counts(prediction: str, references: tuple[str, ...]) -> tuple[int, ...]:
    """Of the tokens of one sample. Kept: each method is compared with the same one, and mostly says the same."""
    words = prediction.split()
    reference_words = [text.split() for text in references]
    possible = [max(0, len(words) - n + 1) for n in _ORDERS]
    closest = min((abs(len(other) - len(words)), len(other)) for other in reference_words)[1]
    return (*_clipped_matches(words, reference_words), *possible, len(words), closest)


def combine(sums: Sequence[int], orders: int = len(_ORDERS)) -> float:
    """BLEU-`orders` of one sample's counts, or of the sums over several."""
    matched, possible = sums[: len(_ORDERS)], sums[len(_ORDERS) : 2 * len(_ORDERS)]
    predicted_length, reference_length = sums[-2:]
    product = 1.0
    for hits, total in zip(matched[:orders], possible[:orders], strict=True):
        product *= (hits + 1e-15) / (total + 1e-9)
    ratio = (predicted_length + 1e-15) / (reference_length + 1e-9)
    brevity = math.exp(1 - 1 / ratio) if ratio < 1 else 1.0
    return brevity * product ** (1 / orders)


def _clipped_matches(words: list[str], references: list[list[str]]) -> list[int]:
    matches = []
    for n in _ORDERS:
        highest: Counter[tuple[str, ...]] = Counter()
        for other in references:
            highest |= _ngrams(other, n)
        matches.append(sum((_ngrams(words, n) & highest).values()))
    return matches


def _ngrams(words: list[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(zip(*(words[start:] for start in range(n)), strict=False))
