"""Relaxed accuracy (ChartQA, Masry et al. 2022, arXiv 2203.10244): numbers may be off by 5 %.

Let f(x) be the number that x spells ("5%" is 0.05), if it spells one. If f(prediction) exists and f(target) exists and
is not 0, the prediction is right iff |f(prediction) − f(target)| / |f(target)| ≤ 0.05; otherwise iff the texts are
equal but for case. So "0.0" is wrong for "0", "1,000" for "1000" and "blue " for "blue", as in the official code.

Source: google-research/pix2struct `metrics.py`, `relaxed_correctness`, which lmms-eval copies. The rule is not
symmetric: 100 is wrong for the target 95, 95 is right for the target 100. (Qwen-VL's evaluator swaps the arguments.)
"""

from collections.abc import Sequence

from fastvlm_bench.metrics import MetricKind, MetricScore, check_samples

METRIC = MetricKind("relaxed acc.", "numbers within 5 % of the target")

_TOLERANCE = 0.05


def score(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> MetricScore:
    """The share of right predictions, and 1.0 or 0.0 per sample; any one target will do. UsageError for bad lengths."""
    check_samples(predictions, references)
    per_sample = [
        float(any(_relaxed(prediction, target) for target in targets))
        for prediction, targets in zip(predictions, references, strict=True)
    ]
    return MetricScore(sum(per_sample) / len(per_sample), per_sample)


def _relaxed(prediction: str, target: str) -> bool:
    given, wanted = _number(prediction), _number(target)
    if given is not None and wanted:
        return abs(given - wanted) / abs(wanted) <= _TOLERANCE
    return prediction.lower() == target.lower()


def _number(text: str) -> float | None:
    try:
        return float(text.rstrip("%")) / 100.0 if text.endswith("%") else float(text)
    except ValueError:
        return None
