"""ROUGE-L as coco-caption computes it (pycocoevalcap/rouge/rouge.py).

P = max_j LCS(h, r_j) / |h| and R = max_j LCS(h, r_j) / |r_j|: the two maxima may come from different references.
F = (1 + β²) P R / (R + β² P) with β = 1.2. The value is the mean of F over the samples.
"""

from collections.abc import Sequence

from fastvlm_bench.metrics import MetricKind, MetricScore, check_samples
from fastvlm_bench.metrics.ptb_tokenizer import tokenize_all

METRIC = MetricKind("ROUGE-L", "longest common subsequence, mean over images", tokenised=True)

_BETA_SQUARED = 1.2**2


def score(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> MetricScore:
    """ROUGE-L of raw texts: the mean, and one value per sample. Raises UsageError for bad lengths.

    An empty prediction scores 0. The official code gives it 1 if some reference has no words either, because it
    counts the empty string as a word; that is the only difference.
    """
    check_samples(predictions, references)
    per_sample = [
        _rouge_l(prediction, tokenize_all(texts))
        for prediction, texts in zip(tokenize_all(predictions), references, strict=True)
    ]
    return MetricScore(sum(per_sample) / len(per_sample), per_sample)


def _rouge_l(prediction: str, references: list[str]) -> float:
    if not prediction:
        return 0.0
    # Like the official code, split at the plain space only: a token may hold a no-break space.
    words = prediction.split(" ")
    precision = recall = 0.0
    for reference in references:
        other = reference.split(" ")
        common = _longest_common_subsequence(words, other)
        precision = max(precision, common / len(words))
        recall = max(recall, common / len(other))
    if precision == 0.0 or recall == 0.0:
        return 0.0
    return (1 + _BETA_SQUARED) * precision * recall / (recall + _BETA_SQUARED * precision)


def _longest_common_subsequence(left: list[str], right: list[str]) -> int:
    """Length of the longest common subsequence: one bit for each word of `left` (Hyyrö 2004), O(words of `right`).

    A zero bit of `row` marks a place where the subsequence grows by one.
    """
    places: dict[str, int] = {}
    for index, word in enumerate(left):
        places[word] = places.get(word, 0) | 1 << index
    full = (1 << len(left)) - 1
    row = full
    for word in right:
        hits = row & places.get(word, 0)
        row = ((row + hits) | (row - hits)) & full
    return len(left) - row.bit_count()
