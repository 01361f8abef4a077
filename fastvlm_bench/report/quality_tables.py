"""What the terminal adds about quality: parts and groups of metrics, paired differences, and why a score is missing."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fastvlm_bench import metrics
from fastvlm_bench.analysis.differences import EQUIVALENT, IDENTICAL, UNDECIDED
from fastvlm_bench.analysis.quality import Quality
from fastvlm_bench.analysis.summary import Row
from fastvlm_bench.records.document_frequencies import FREQUENCIES
from fastvlm_bench.records.record import Run
from fastvlm_bench.report.layout import NOTHING, Cells, draw, say
from fastvlm_bench.report.numbers import score

if TYPE_CHECKING:
    from rich.console import Console


def print_quality(console: "Console", run: Run, rows: Sequence[Row]) -> None:
    """Print the parts and groups as tables, then the lines of `differences` and `notes`.

    A method whose outputs all equal the reference's has the same parts, so it gets no row in these tables.
    """
    own = [row for row in rows if not _identical(row)]
    labels = Cells("method", tuple(row.method for row in own), "left")
    for columns in (part_columns(own), group_columns(own)):
        if columns:
            console.print()
            draw(console, labels, columns)
    suite = next(suite for suite in run.meta["suites"] if suite["name"] == rows[0].suite)
    if lines := [*differences(rows), *notes(suite, rows)]:
        console.print()
    for line in lines:
        say(console, line)


def _identical(row: Row) -> bool:
    judged = [quality.verdict for quality in row.quality if quality.verdict]
    return bool(judged) and set(judged) == {IDENTICAL}


def _cell(value: float | None, scale: float = 100, digits: int = 1) -> str:
    return NOTHING if value is None else f"{value * scale:.{digits}f}"


def part_columns(rows: Sequence[Row]) -> list[Cells]:
    """What the metrics yield besides their value."""
    columns = []
    for index, quality in enumerate(rows[0].quality):
        for name, part in metrics.kind_of(quality.metric).parts.items():
            scale, digits = (100, 1) if part.kind == "share" else (1, 0 if part.kind == "count" else 1)
            cells = tuple(_cell(row.quality[index].parts.get(name), scale, digits) for row in rows)
            columns.append(Cells(f"{part.label}\n{'0-100' if part.kind == 'share' else ''}", cells))
    return columns


def group_columns(rows: Sequence[Row]) -> list[Cells]:
    """The value of each metric over each group of samples that the data set makes."""

    def cells(index: int, name: str) -> tuple[str, ...]:
        return tuple(score(row.quality[index].metric, row.quality[index].groups.get(name)) for row in rows)

    return [
        Cells(f"{metrics.label(quality.metric)}\n{name}", cells(index, name))
        for index, quality in enumerate(rows[0].quality)
        for name in quality.groups
    ]


def differences(rows: Sequence[Row]) -> list[str]:
    """A line naming the methods with identical outputs, then one per other method with its differences and verdicts."""
    same, lines = dict[str, list[str]](), []
    for row in rows:
        judged = [quality for quality in row.quality if quality.verdict]
        if not judged:
            continue
        if _identical(row):
            what = "ranks" if all(quality.metric == "visdial_ranking" for quality in judged) else "outputs"
            n = row.counts.samples_paired
            same.setdefault(f"identical {what} {n}/{n}", []).append(row.method)
        else:
            lines.append(f"{row.method}, against {row.reference}: {'; '.join(map(difference, judged))}")
    return [f"{' · '.join(methods)}: {what}" for what, methods in same.items()] + lines


def difference(quality: Quality) -> str:
    """A metric's paired difference on its scale: "BLEU-4 −72.5 [−90.1, −54.9] worse"."""
    label, delta = metrics.label(quality.metric), quality.delta
    if quality.verdict == IDENTICAL or delta is None:
        return f"{label} {quality.verdict}"

    def scaled(value: float) -> str:
        return score(quality.metric, value, True)

    interval = "" if delta.low is None or delta.high is None else f" [{scaled(delta.low)}, {scaled(delta.high)}]"
    seen = evidence(quality, score(quality.metric, quality.bound))
    return f"{label} {scaled(delta.value)}{interval} {quality.verdict}{seen}{flipped(quality)}"


def evidence(quality: Quality, bound: str) -> str:
    """What an "equivalent" or "undecided" rests on: " (0 of 50 scores changed, at most 5.8 at 95 %)"; else "".

    bound: of the metric, as it is printed.
    """
    delta = quality.delta
    if quality.verdict not in (EQUIVALENT, UNDECIDED) or delta is None or quality.bound is None:
        return ""
    images = "" if delta.groups is None else f" on {delta.groups} images"
    return f" ({quality.changed} of {delta.n} scores{images} changed, at most {bound} at 95 %)"


def flipped(quality: Quality) -> str:
    """The changed answers of a metric, as " (2 won, 5 lost, exact p 0.45)"; "" where there are none."""
    found = quality.flips
    if found is None or not found.won + found.lost:
        return ""
    return f" ({found.won} won, {found.lost} lost{'' if found.p is None else f', exact p {found.p:.2g}'})"


def notes(suite: Mapping[str, Any], rows: Sequence[Row]) -> list[str]:
    """A line for each way in which the scores differ from the default, and for each reason why a metric has none."""
    lines = []
    for metric, variant in suite.get("variants", {}).items():
        if metric in metrics.METRICS and variant != metrics.variants_of(metric)[0]:
            lines.append(f"{metrics.label(metric)}: variant {variant}")
    if suite.get("prompt_set") == "blip2":
        lines.append("prompts of LAVIS, whose published BLIP-2 numbers are decoded with 5 beams; these are greedy")
    if "visdial_ranking" in suite["metrics"]:
        mean = suite.get("variants", {}).get("visdial_ranking") == "mean"
        lines.append(f"MRR, NDCG, R@k: given answers ranked by {'the mean ' if mean else ''}log-likelihood of their "
                     "tokens, outside the clock; a lossless method has the target's ranks. Times are of generating an "
                     "answer, which is not scored")  # fmt: skip
    if found := suite.get(FREQUENCIES, {}).get(""):
        lines.append(f"CIDEr-D: document frequencies of all {found.images} images of the split")
    reasons: dict[str, list[str]] = {}
    if "cider_d" in suite["metrics"] and not set(metrics.java_metrics()) & set(suite["metrics"]):
        reasons[metrics.NEEDS_JAVA] = [metrics.label(name) for name in metrics.java_metrics()]
    for quality in rows[0].quality:
        if quality.reason:
            reasons.setdefault(quality.reason, []).append(metrics.label(quality.metric))
    return lines + [f"{', '.join(labels)}: not computed: {reason}" for reason, labels in reasons.items()]
