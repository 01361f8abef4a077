"""POPE: does the model say that an object is there (Li et al., EMNLP 2023, arXiv 2305.10355)?

An answer counts as "no" iff, up to its first full stop and without commas, one of its words (split at single spaces) is
exactly "No", "no" or "not"; any other answer, an empty one too, counts as "yes". With yes as the positive class:
accuracy (the value), precision = TP / (TP + FP), recall = TP / (TP + FN), F1 = 2 P R / (P + R), and the yes-ratio, the
share of *predictions* that are yes.

Source: RUCAIBox/POPE `evaluate.py` at 3df3ba1, which divides by zero where a class is empty; here such a ratio is 0.
lmms-eval's yes-ratio counts the labels instead, and its accuracy compares the whole answer, so that "Yes." is wrong.
"""

import re
from collections.abc import Sequence

from fastvlm_bench.errors import UsageError
from fastvlm_bench.metrics import MetricKind, MetricScore, Part, check_samples

METRIC = MetricKind(
    "POPE acc.", "is an object there: accuracy of yes and no",
    parts={
        "f1": Part("F1"), "precision": Part("precision"), "recall": Part("recall"), "yes_ratio": Part("said yes"),
        "unclear": Part("unclear"),
    },
)  # fmt: skip

_DENIALS = {"No", "no", "not"}
_CLEAR = re.compile(r"\b(?:yes|no|not)\b", re.IGNORECASE)


def score(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> MetricScore:
    """Accuracy, and 1.0 or 0.0 per sample; the first reference is the label, "yes" or "no".

    `parts`: precision, recall, f1, yes_ratio, and unclear, the share of answers without any of the words yes, no, not.
    Raises UsageError for bad lengths and for other labels.
    """
    check_samples(predictions, references)
    labels = [texts[0].strip().lower() for texts in references]
    for index, label in enumerate(labels):
        if label not in ("yes", "no"):
            raise UsageError(f"label of sample {index} is {references[index][0]!r}; POPE's labels are yes and no")
    answers = [parse(prediction) for prediction in predictions]
    pairs = list(zip(answers, labels, strict=True))
    right_yes, said_yes, are_yes = pairs.count(("yes", "yes")), answers.count("yes"), labels.count("yes")
    precision, recall = _divide(right_yes, said_yes), _divide(right_yes, are_yes)
    per_sample = [float(answer == label) for answer, label in pairs]
    parts = {
        "precision": precision,
        "recall": recall,
        "f1": _divide(2 * precision * recall, precision + recall),
        "yes_ratio": said_yes / len(answers),
        "unclear": sum(_CLEAR.search(prediction) is None for prediction in predictions) / len(answers),
    }
    return MetricScore(sum(per_sample) / len(per_sample), per_sample, parts)


def parse(text: str) -> str:
    """ "yes" or "no", by the official rule: "NO", "No!" and "" are yes."""
    return "no" if _DENIALS.intersection(text.split(".")[0].replace(",", "").split(" ")) else "yes"


def _divide(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else 0.0
