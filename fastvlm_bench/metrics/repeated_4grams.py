"""How much of a text repeats itself: the share of its word 4-grams that have occurred in it before.

Greedy text of a small model may go in circles, and a text that does so is easy to draft. The words are split at white
space, as they stand; a text of n words has n - 3 such 4-grams, and one of fewer than four words repeats nothing. The
value is the mean over the samples. `rep-n` of Welleck et al. (arXiv 1908.04319) is the same share. References play no
part.
"""

from collections.abc import Sequence

from fastvlm_bench.errors import UsageError
from fastvlm_bench.metrics import MetricKind, MetricScore

METRIC = MetricKind(
    "rep-4", "share of a text's word 4-grams that occurred in it before", higher_is_better=False,
    needs_references=False,
)  # fmt: skip


def score(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> MetricScore:
    """The mean share of repeated 4-grams, and one value per sample. UsageError where there is no sample."""
    if not predictions:
        raise UsageError("no samples to score; a metric needs at least one prediction")
    per_sample = [repeated(prediction) for prediction in predictions]
    return MetricScore(sum(per_sample) / len(per_sample), per_sample)


def repeated(text: str, size: int = 4) -> float:
    """1 - different n-grams / n-grams, of words; 0 for a text that has no n-gram."""
    words = text.split()
    grams = [tuple(words[i : i + size]) for i in range(len(words) - size + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0
