"""Exact match: does the answer equal the answer that most people gave?

Prediction and references go through the VQA normalisation (`vqa_accuracy.normalise`: case, punctuation, articles,
number words). The gold answer is the most common normalised reference, like VQAv2's `multiple_choice_answer`; of
equally common ones, the one seen first. With a single reference this is plain normalised equality.
"""

from collections import Counter
from collections.abc import Sequence

from fastvlm_bench.metrics import MetricKind, MetricScore, check_samples
from fastvlm_bench.metrics.vqa_accuracy import normalise

METRIC = MetricKind("EM", "normalised equality with the most common answer")


def score(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> MetricScore:
    """The share of predictions that match, and 1.0 or 0.0 per sample. Raises UsageError for bad lengths.

    A blank prediction never matches, not even an answer such as "a", of which the normalisation leaves nothing.
    """
    check_samples(predictions, references)
    per_sample = []
    for prediction, answers in zip(predictions, references, strict=True):
        # Counter.most_common keeps the order of first appearance among equals.
        gold = Counter(normalise(answer) for answer in answers).most_common(1)[0][0]
        per_sample.append(1.0 if prediction.strip() and normalise(prediction) == gold else 0.0)
    return MetricScore(sum(per_sample) / len(per_sample), per_sample)
