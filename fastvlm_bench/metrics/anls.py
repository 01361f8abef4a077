"""ANLS, average normalised Levenshtein similarity (DocVQA, Biten et al., ICCV 2019, arXiv 1905.13648).

For a prediction p with answers a_1 … a_m: s_j = 1 − Lev(norm p, norm a_j) / max(|p|, |a_j|). Here norm strips, lowers
the case and collapses white space, while the lengths are those of the raw texts. The sample scores max_j s_j, or 0 if
that is below 0.5: exactly 0.5 is kept. The value is the mean over the samples.

Source: the official script of the Robust Reading Competition (task 17, `evaluateMethod`). The package `anls` 0.0.2
drops the boundary 0.5; this does not.
"""

from collections.abc import Sequence

from fastvlm_bench.metrics import MetricKind, MetricScore, check_samples

METRIC = MetricKind("ANLS", "1 - normalised edit distance, exactly 0.5 kept")

_THRESHOLD = 0.5


def score(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> MetricScore:
    """Mean ANLS of raw texts, and one value per sample. Raises UsageError for bad lengths."""
    check_samples(predictions, references)
    per_sample = [_anls(prediction, answers) for prediction, answers in zip(predictions, references, strict=True)]
    return MetricScore(sum(per_sample) / len(per_sample), per_sample)


def _anls(prediction: str, answers: Sequence[str]) -> float:
    distances = []
    for answer in answers:
        length = max(len(answer.upper()), len(prediction.upper()))  # of the raw texts in upper case, as officially
        distances.append(levenshtein(_normalise(prediction), _normalise(answer)) / length if length else 0.0)
    similarity = 1 - min(distances)
    return similarity if similarity >= _THRESHOLD else 0.0


def _normalise(text: str) -> str:
    return " ".join(text.strip().lower().split())


def levenshtein(left: str, right: str) -> int:
    """Fewest insertions, deletions and substitutions of characters that make `left` into `right`.

    One bit for each character of `left` (Myers 1999, as Hyyrö 2003 writes it), O(characters of `right`): the bits of
    `up` and `down` say where the column of the usual table rises or falls by one.
    """
    if not left or not right:
        return max(len(left), len(right))
    places: dict[str, int] = {}
    for index, letter in enumerate(left):
        places[letter] = places.get(letter, 0) | 1 << index
    full, last = (1 << len(left)) - 1, 1 << (len(left) - 1)
    up, down, distance = full, 0, len(left)
    for letter in right:
        equal = places.get(letter, 0)
        vertical = equal | down
        horizontal = (((equal & up) + up) ^ up) | equal
        rises, falls = down | ~(horizontal | up) & full, up & horizontal
        distance += bool(rises & last) - bool(falls & last)
        rises, falls = (rises << 1 | 1) & full, falls << 1 & full
        up, down = falls | ~(vertical | rises) & full, rises & vertical
    return distance
