"""Quality metrics: one file per metric; the file name is the metric's name in suites and results.

Every metric module has `METRIC = MetricKind(...)`, which says how it is shown, and
`score(predictions, references) -> MetricScore`: one prediction and one list of references for each sample, in the same
order. The value is on the official scorer's own scale, of 0 to 1 (CIDEr-D: 0 to 10). Not metrics themselves:
`ptb_tokenizer` and `ptb_characters` tokenise captions, `java_scorers` runs the Java programs.

May import the rooms below `drafts`, and never brings torch.
"""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, cast, get_args

from fastvlm_bench.declared import FOLDER_VARIABLE, Declarations
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


@dataclass(frozen=True)
class Part:
    """A further value of a metric: its column title, and whether it is a share of one, a plain number or a count."""

    label: str
    kind: Literal["share", "number", "count"] = "share"


@dataclass(frozen=True)
class MetricKind:
    """What a metric's file declares: `METRIC = MetricKind("EM", "does the answer equal ...")`.

    label: the column title in tables. description: what `fastvlm-bench metrics` says of it. higher_is_better: its
    direction, for the arrow and for the words better and worse. scale, unit: tables show the value times `scale`, under
    `unit`. parts: the `parts` of its MetricScore, by name. tokenised: its official scorer reads texts as lines
    (coco-caption's tokenizer), so that a line break does harm. java: it needs Java and the extra `coco-java`, and is
    computed only where `--java` asks for it. may_lack: it may have no value, for a reason, without being an error.
    needs_references: without, it is computed for suites that have no references, too.
    """

    label: str
    description: str
    higher_is_better: bool = True
    scale: float = 100.0
    unit: str = "0-100"
    parts: Mapping[str, Part] = field(default_factory=dict, hash=False)
    tokenised: bool = False
    java: bool = False
    may_lack: bool = False
    needs_references: bool = True

    @property
    def header(self) -> str:
        """The title of its column, with its direction and, on the second line, its unit."""
        return f"{self.label} {'↑' if self.higher_is_better else '↓'}\n{self.unit}"


METRICS = Declarations(
    "metric", "METRIC", MetricKind, __name__, {"MetricKind": MetricKind, "Part": Part, "True": True, "False": False}
)
"""Every metric by its name, which is that of its file."""
NEEDS_JAVA = "needs --java, Java and pip install 'fastvlm-bench[coco-java]'"


def names() -> list[str]:
    """The names of all metrics."""
    return list(METRICS)


def kind_of(name: str) -> MetricKind:
    """What a metric's file declares. A record may name a metric whose file is not here: then its name is its label."""
    return METRICS.get(name) or MetricKind(name, "")


def label(name: str) -> str:
    """The column title of a metric."""
    return kind_of(name).label


def java_metrics() -> tuple[str, ...]:
    """The caption metrics that need Java."""
    return tuple(name for name, kind in METRICS.items() if kind.java)


def load(name: str) -> Metric:
    """The module of the metric `name`. Raises UsageError, with the list of names, when there is none."""
    if name not in METRICS:
        raise UsageError(f"unknown metric '{name}'{did_you_mean(name, METRICS)}; choose one of: {', '.join(METRICS)}, "
                         f"or name the folder that holds its file in {FOLDER_VARIABLE}")  # fmt: skip
    module = METRICS.module(name)
    if not callable(getattr(module, "score", None)):
        raise UsageError(f"{METRICS.path(name)} has no function score(predictions, references)")
    return cast(Metric, module)


def tokenised(names: Sequence[str]) -> bool:
    """Whether the official scorer of any of these metrics reads texts as lines."""
    return any(kind_of(name).tokenised for name in names)


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
