"""METEOR 1.5 (Denkowski and Lavie, WMT 2014), computed by the authors' Java program as coco-caption runs it.

Options `-l en -norm` on PTB-tokenised captions: matches of exact words (weight 1.0), stems (0.6), synonyms (0.8) and
paraphrases (0.6); α 0.85, β 0.2, γ 0.6, δ 0.75; F = P R / (α P + (1 − α) R), reduced by γ · (chunks / matches)^β. The
value pools the statistics of all samples: it is not the mean of `per_sample`.

Needs Java and the extra `coco-java`; without them there is no value, never an approximation under the same name.
"""

from collections.abc import Sequence

from fastvlm_bench.metrics import MetricKind, MetricScore, check_samples, java_scorers
from fastvlm_bench.metrics.ptb_tokenizer import tokenize_all

METRIC = MetricKind("METEOR", "of captions, by the authors' Java program", tokenised=True, java=True, may_lack=True)


def score(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> MetricScore:
    """Corpus METEOR of raw texts, and one value per sample. UsageError for bad lengths, and where Java is missing."""
    check_samples(predictions, references)
    value, per_sample = java_scorers.meteor(tokenize_all(predictions), [tokenize_all(texts) for texts in references])
    return MetricScore(value, per_sample)
