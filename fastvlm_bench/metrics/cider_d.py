"""CIDEr-D, the "CIDEr" of every captioning table, as coco-caption computes it (pycocoevalcap/cider/cider_scorer.py).

With c(w) the count of the n-gram w in a caption, M the number of images, df(w) the number of images whose references
contain w: g(w) = c(w) · (ln M − ln max(1, df(w))). For a prediction h with references r_1 … r_m:

    CIDEr-D = 10/4 · Σ_{n=1..4} 1/m · Σ_j exp(−(l_h − l_j)² / (2 · 6²)) · Σ_w min(g_h(w), g_j(w)) g_j(w) / (‖g_h‖ ‖g_j‖)

l counts bigrams, that is, words − 1, as the official code does. The value is the mean over the images. There is no
stemming. M and df come from the images that are scored, so a caption's score depends on the others. Where only part of
a set is scored, give the document frequencies of the whole set, and compare only scores that have the same ones.
"""

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from fastvlm_bench.errors import UsageError
from fastvlm_bench.metrics import MetricKind, MetricScore, check_samples
from fastvlm_bench.metrics.ptb_tokenizer import tokenize_all

METRIC = MetricKind(
    "CIDEr-D", "mean over images, 0 to 10; weighs words by how few images use them", scale=1, unit="0-10",
    tokenised=True, may_lack=True,
)  # fmt: skip

_ORDERS = (1, 2, 3, 4)
_SIGMA = 6.0

Ngram = tuple[str, ...]
Counts = list[Counter[Ngram]]  # one Counter for each n of _ORDERS
Vectors = tuple[list[dict[Ngram, float]], list[float], int]  # weights and norm for each n, number of bigrams


@dataclass(frozen=True, eq=False)
class DocumentFrequencies:
    """images: M. counts: df of each n-gram, its words joined by a space; what is not listed has a df of at most 1."""

    images: int
    counts: Mapping[str, int]


def document_frequencies(
    references: Sequence[Sequence[str]], texts: Collection[str] | None = None
) -> DocumentFrequencies:
    """M and df of raw reference captions, one list per image. texts: keep only n-grams of these, to save space."""
    frequency = _frequency([[_count(text) for text in tokenize_all(texts_)] for texts_ in references])
    wanted = None if texts is None else {ngram for text in tokenize_all(texts) for n in _count(text) for ngram in n}
    kept = {" ".join(ngram): seen for ngram, seen in frequency.items()
            if seen > 1 and (wanted is None or ngram in wanted)}  # fmt: skip
    return DocumentFrequencies(len(references), kept)


def score(
    predictions: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    document_frequency_references: Sequence[Sequence[str]] | None = None,
    frequencies: DocumentFrequencies | None = None,
) -> MetricScore:
    """CIDEr-D of raw texts: the mean, and one value per sample (0 for an empty prediction).

    `document_frequency_references`: the reference lists of *all* images of the suite, when `references` covers only
    part of them; M and df then come from the full set. `frequencies`: the same, counted before. Raises UsageError for
    bad lengths, and when M would be 1: then ln M = 0, each weight is 0, and every caption would score exactly 0,
    however good it is.
    """
    images = len(references if document_frequency_references is None else document_frequency_references)
    images = images if frequencies is None else frequencies.images
    check_samples(predictions, references)
    if images < 2:
        raise UsageError(
            f"CIDEr-D over {images} image(s) says nothing: words are weighted by how few images use them, so with one"
            " image every caption scores exactly 0; score at least 2 images or give the suite's full reference set"
        )
    return corpus_cider_d(
        tokenize_all(predictions),
        [tokenize_all(texts) for texts in references],
        None
        if document_frequency_references is None
        else [tokenize_all(texts) for texts in document_frequency_references],
        frequencies,
    )


def corpus_cider_d(
    predictions: Sequence[str],
    references: Sequence[Sequence[str]],
    document_frequency_references: Sequence[Sequence[str]] | None = None,
    frequencies: DocumentFrequencies | None = None,
) -> MetricScore:
    """CIDEr-D of tokenised texts, unchecked: like the official scorer it answers 0 when there is only one image."""
    reference_counts = [[_count(text) for text in texts] for texts in references]
    if frequencies is not None:
        log_images = math.log(frequencies.images)
        rarity = {tuple(key.split(" ")): log_images - math.log(seen) for key, seen in frequencies.counts.items()}
    else:
        documents = reference_counts
        if document_frequency_references is not None:
            documents = [[_count(text) for text in texts] for texts in document_frequency_references]
        log_images = math.log(len(documents))
        rarity = {ngram: log_images - math.log(seen) for ngram, seen in _frequency(documents).items()}

    per_sample = []
    for prediction, counts_of_image in zip(predictions, reference_counts, strict=True):
        hypothesis = _weigh(_count(prediction), rarity, log_images)
        total = sum(_similarity(hypothesis, _weigh(counts, rarity, log_images)) for counts in counts_of_image)
        per_sample.append(10.0 * total / len(_ORDERS) / len(counts_of_image))
    return MetricScore(sum(per_sample) / len(per_sample), per_sample)


def _frequency(documents: Sequence[Sequence[Counts]]) -> Counter[Ngram]:
    frequency: Counter[Ngram] = Counter()
    for counts_of_image in documents:
        frequency.update({ngram for counts in counts_of_image for of_order in counts for ngram in of_order})
    return frequency


@lru_cache(maxsize=1 << 16)
def _count(text: str) -> Counts:
    """Of one tokenised text. Kept, because every method is scored against the same references. Nobody changes it."""
    words = text.split()
    return [Counter(zip(*(words[start:] for start in range(n)), strict=False)) for n in _ORDERS]


def _weigh(counts: Counts, rarity: dict[Ngram, float], unseen: float) -> Vectors:
    vectors = [{ngram: times * rarity.get(ngram, unseen) for ngram, times in of_order.items()} for of_order in counts]
    norms = [math.sqrt(sum(weight * weight for weight in vector.values())) for vector in vectors]
    return vectors, norms, sum(counts[1].values())


def _similarity(hypothesis: Vectors, reference: Vectors) -> float:
    """Σ over n of the clipped cosine, times the length penalty."""
    total = 0.0
    for mine, other, my_norm, other_norm in zip(hypothesis[0], reference[0], hypothesis[1], reference[1], strict=True):
        if my_norm == 0.0 or other_norm == 0.0:
            continue  # all weights of one side are 0, so the product is too
        dot = sum(min(weight, other[ngram]) * other[ngram] for ngram, weight in mine.items() if ngram in other)
        total += dot / (my_norm * other_norm)
    return total * math.exp(-((hypothesis[2] - reference[2]) ** 2) / (2 * _SIGMA**2))
