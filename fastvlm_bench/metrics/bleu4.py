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

from fastvlm_bench.metrics import MetricScore, check_samples
from fastvlm_bench.metrics.ptb_tokenizer import tokenize_all

_ORDERS = (1, 2, 3, 4)


def score(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> MetricScore:
    """Corpus BLEU-4 of raw texts, and the BLEU-4 of each sample alone (0 for an empty prediction).

    The value pools the counts of all samples: it is not the mean of `per_sample`. Raises UsageError when the lengths
    differ or there is nothing to score.
    """
    check_samples(predictions, references)
    matched, possible = [0] * len(_ORDERS), [0] * len(_ORDERS)
    predicted_length = reference_length = 0
    per_sample = []
    for prediction, texts in zip(tokenize_all(predictions), references, strict=True):
        words = prediction.split()
        reference_words = [text.split() for text in tokenize_all(texts)]
        hits = _clipped_matches(words, reference_words)
        total = [max(0, len(words) - n + 1) for n in _ORDERS]
        closest = min((abs(len(other) - len(words)), len(other)) for other in reference_words)[1]
        per_sample.append(_bleu(hits, total, len(words), closest))
        matched = [a + b for a, b in zip(matched, hits, strict=True)]
        possible = [a + b for a, b in zip(possible, total, strict=True)]
        predicted_length += len(words)
        reference_length += closest
    return MetricScore(_bleu(matched, possible, predicted_length, reference_length), per_sample)


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


def _bleu(matched: list[int], possible: list[int], predicted_length: int, reference_length: int) -> float:
    product = 1.0
    for hits, total in zip(matched, possible, strict=True):
        product *= (hits + 1e-15) / (total + 1e-9)
    ratio = (predicted_length + 1e-15) / (reference_length + 1e-9)
    brevity = math.exp(1 - 1 / ratio) if ratio < 1 else 1.0
    return brevity * product ** (1 / len(_ORDERS))
