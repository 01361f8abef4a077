"""SPICE (Anderson et al., ECCV 2016, arXiv 1607.08822), computed by the authors' Java program as coco-caption runs it.

A sample's score is the F1 of the tuples (objects, attributes, relations) in the scene graphs of prediction and
references, with WordNet synonyms. The value is the mean over the samples.

Needs Java, the extra `coco-java` and Stanford CoreNLP 3.6.0; without them there is no value, never an approximation
under the same name.
"""

from collections.abc import Sequence

from fastvlm_bench.metrics import MetricKind, MetricScore, check_samples, java_scorers
from fastvlm_bench.metrics.ptb_tokenizer import tokenize_all

METRIC = MetricKind("SPICE", "of captions, by the authors' Java program", tokenised=True, java=True, may_lack=True)


def score(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> MetricScore:
    """Mean SPICE of raw texts, and one value per sample. UsageError for bad lengths and where a program is missing."""
    check_samples(predictions, references)
    value, per_sample = java_scorers.spice(tokenize_all(predictions), [tokenize_all(texts) for texts in references])
    return MetricScore(value, per_sample)
