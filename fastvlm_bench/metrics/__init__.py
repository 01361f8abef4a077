"""Quality metrics: one file per metric; the file name is the metric's name in suites and results.

Every metric module has `score(predictions, references) -> MetricScore`: one prediction and one list of references for
each sample, in the same order. The value is on the official scorer's own scale, of 0 to 1 unless the module says with
`TOP` where it ends (CIDEr-D: 10). Not metrics themselves: `ptb_tokenizer` and `ptb_characters` tokenise captions,
`java_scorers` runs the Java programs.

May import the rooms below `drafts`, and never brings torch.
"""

import importlib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, cast, get_args

from fastvlm_bench.errors import UsageError, did_you_mean


@dataclass(frozen=True)
class MetricScore:
    """A metric over a set of samples.

    `value` is the score of the whole set. For BLEU-4 and METEOR it comes from pooled counts and is not the mean of
    `per_sample`; for every other metric it is. `per_sample` keeps the order of the samples. `parts`: further values of
    the whole set that the metric yields, by name (BLEU-1 to -3, precision and recall, the share of unparsed answers).
    """

    value: float
    per_sample: list[float]
    parts: dict[str, float] = field(default_factory=dict)


class Metric(Protocol):
    """What a metric module offers.

    A pooled metric, whose value is not the mean of `per_sample`, should also have `counts(predictions, references)`,
    one tuple of whole numbers per sample, and `combine(sums) -> float`, the metric of the weighted sums of such tuples.
    Its interval then takes sums of numbers instead of scoring texts again; without them its difference has none.
    """

    def score(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> MetricScore: ...


LABELS = {
    "bleu4": "BLEU-4",
    "rouge_l": "ROUGE-L",
    "cider_d": "CIDEr-D",
    "vqa_accuracy": "VQA acc.",
    "exact_match": "EM",
    "anls": "ANLS",
    "relaxed_accuracy": "relaxed acc.",
    "gqa_match": "GQA acc.",
    "pope": "POPE acc.",
    "multiple_choice": "MC acc.",
    "visdial_ranking": "MRR",
    "meteor": "METEOR",
    "spice": "SPICE",
}
"""Name of each metric -> the column title in tables."""


PARTS: dict[str, dict[str, str]] = {
    "bleu4": {"bleu1": "BLEU-1", "bleu2": "BLEU-2", "bleu3": "BLEU-3"},
    "pope": {"f1": "F1", "precision": "precision", "recall": "recall", "yes_ratio": "said yes", "unclear": "unclear"},
    "multiple_choice": {"unparsed": "unparsed"},
    "visdial_ranking": {
        "ndcg": "NDCG", "r@1": "R@1", "r@5": "R@5", "r@10": "R@10", "mean_rank": "mean rank",
        "ndcg_samples": "NDCG samples", "ndcg_all_zero": "without relevances",
    },
}  # fmt: skip
"""Metric -> the `parts` that it yields and their column titles. Shares of one, but for those of `PLAIN_PARTS`."""
JAVA = ("meteor", "spice")
"""Caption metrics that need Java and the extra `coco-java`. They are computed only where `--java` asks for them."""
COUNTS = ("ndcg_samples", "ndcg_all_zero")
"""Parts that are numbers of samples."""
TOKENISED = ("bleu4", "rouge_l", "cider_d", *JAVA)
"""Metrics whose official scorer reads texts as lines (coco-caption's tokenizer), so that a line break does harm."""
NEEDS_JAVA = "needs --java, Java and pip install 'fastvlm-bench[coco-java]'"
PLAIN_PARTS = ("mean_rank", "ndcg_samples", "ndcg_all_zero")


def names() -> list[str]:
    """The names of all metrics, in the order in which tables show them."""
    return list(LABELS)


def load(name: str) -> Metric:
    """The module of the metric `name`. Raises UsageError, with the list of names, when there is none."""
    if name not in LABELS:
        raise UsageError(f"unknown metric '{name}'{did_you_mean(name, LABELS)}; choose one of: {', '.join(LABELS)}")
    return cast(Metric, importlib.import_module(f"{__name__}.{name}"))


def scale_of(name: str) -> tuple[float, str]:
    """How tables print a metric: the factor, and the scale as a header says it: (100, "0-100"), or (1, "0-10")."""
    top = getattr(load(name), "TOP", 1.0) if name in LABELS else 1.0
    return (100.0, "0-100") if top == 1.0 else (1.0, f"0-{top:g}")


def tokenised(names: Sequence[str]) -> bool:
    """Whether any of these metrics is one of `TOKENISED`."""
    return bool(set(names) & set(TOKENISED))


def variants_of(name: str) -> tuple[str, ...]:
    """The variants of a metric, its default first; () where it has none. UsageError for an unknown name."""
    scorer = load(name)
    parameter = inspect.signature(scorer.score).parameters.get("variant")
    if parameter is None:
        return ()
    known: tuple[str, ...] = get_args(scorer.Variant)  # type: ignore[attr-defined]
    return (str(parameter.default), *(variant for variant in known if variant != parameter.default))


def parse_variants(texts: Sequence[str]) -> dict[str, str]:
    """["METRIC=VARIANT", …] as a mapping. UsageError for any other form, and for a metric named twice."""
    found: dict[str, str] = {}
    for text in texts:
        metric, equals, variant = text.partition("=")
        if not equals or not metric or not variant or metric in found:
            raise UsageError(f"--variant {text}: give METRIC=VARIANT, each metric once, as vqa_accuracy=official")
        found[metric] = variant
    return found


def choose_variants(suite_metrics: Sequence[str], wanted: Mapping[str, str]) -> dict[str, str]:
    """Metric -> variant, for each metric of a suite that has variants: the one wanted, else the metric's default.

    UsageError for a metric that the suite does not have or that has no variants, and for an unknown variant.
    """
    for metric, variant in wanted.items():
        if metric not in suite_metrics:
            raise UsageError(f"--variant: the suite has no metric '{metric}'{did_you_mean(metric, suite_metrics)}; "
                             f"its metrics are {', '.join(suite_metrics) or 'none'}")  # fmt: skip
        known = variants_of(metric)
        if not known:
            raise UsageError(f"metric '{metric}' has no variants; leave out --variant {metric}={variant}")
        check_variant(metric, variant, known)
    chosen = {}
    for metric in suite_metrics:
        if known := variants_of(metric):
            chosen[metric] = wanted.get(metric, known[0])
    return chosen


def check_samples(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    """Raise UsageError unless there is at least one prediction, each with its own non-empty list of references."""
    if len(predictions) != len(references):
        raise UsageError(f"{len(predictions)} predictions but {len(references)} lists of references; one list each")
    if not predictions:
        raise UsageError("no samples to score; a metric needs at least one prediction")
    for index, texts in enumerate(references):
        if isinstance(texts, str):
            raise UsageError(f"references of sample {index} are one string; give a list of strings")
        if not texts:
            raise UsageError(f"sample {index} has no references; a metric needs at least one")


def check_variant(metric: str, variant: str, known: Sequence[str]) -> None:
    """Raise UsageError, with the list of variants, for one that the metric does not have."""
    if variant not in known:
        raise UsageError(f"unknown variant '{variant}' of {metric}{did_you_mean(variant, known)}; "
                         f"choose one of: {', '.join(known)}")  # fmt: skip
