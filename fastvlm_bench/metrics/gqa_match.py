"""GQA accuracy (Hudson and Manning, CVPR 2019): the prediction is the gold answer.

The variants differ in how the two strings are normalised before they are compared; none strips articles or spaces:

* "lmms" (default): both sides in lower case, without the signs of `string.punctuation` (lmms-eval's `exact_match`).
* "llava": the prediction without full stops at its end and in lower case (LLaVA `convert_gqa_for_eval.py`).
* "official": not at all (GQA's `eval.py`); "Yes" is then wrong for "yes", which says more about case than about vision.
"""

import string
from collections.abc import Sequence
from typing import Literal, get_args

from fastvlm_bench.metrics import MetricKind, MetricScore, check_samples, check_variant

METRIC = MetricKind("GQA acc.", "equality with the answer, by the rule of a variant")

Variant = Literal["lmms", "llava", "official"]

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def score(predictions: Sequence[str], references: Sequence[Sequence[str]], *, variant: Variant = "lmms") -> MetricScore:
    """The share of predictions that match, and 1.0 or 0.0 per sample. UsageError for bad lengths or variant."""
    check_variant("gqa_match", variant, get_args(Variant))
    check_samples(predictions, references)
    per_sample = [
        float(any(_matches(prediction, gold, variant) for gold in answers))
        for prediction, answers in zip(predictions, references, strict=True)
    ]
    return MetricScore(sum(per_sample) / len(per_sample), per_sample)


def _matches(prediction: str, gold: str, variant: Variant) -> bool:
    if variant == "llava":
        return prediction.rstrip(".").lower() == gold
    if variant == "lmms":
        return prediction.lower().translate(_NO_PUNCTUATION) == gold.lower().translate(_NO_PUNCTUATION)
    return prediction == gold
