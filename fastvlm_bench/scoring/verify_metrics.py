"""What `verify-metrics` does: it compares this tool's caption scores with those of the official scorer.

The official scorer is pycocoevalcap, an optional extra. Without Java it scores this tool's tokens, which checks the
formulas. With Java it scores the tokens of Stanford's tokenizer, which checks everything; METEOR and SPICE are then
computed from the tokens of both tokenizers and compared.
"""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastvlm_bench import metrics
from fastvlm_bench.errors import MetricMismatch, UsageError
from fastvlm_bench.metrics import java_scorers
from fastvlm_bench.metrics.ptb_tokenizer import tokenize_all
from fastvlm_bench.scoring.score import read_references
from fastvlm_bench.suites import results_formats
from fastvlm_bench.suites.definition import read_definition

OFFICIAL = {"bleu4": ("bleu.bleu", "Bleu"), "rouge_l": ("rouge.rouge", "Rouge"), "cider_d": ("cider.cider", "Cider")}
SAME_TOKENS, OTHER_TOKENS = 1e-6, 1e-3
"""Largest differences that count as agreement (0-1 scale): with equal tokens, where only the order of sums differs, and
where some captions have other tokens."""
SHOWN = 5


@dataclass(frozen=True)
class Line:
    """One value, by this tool and by the official scorer; both None, with a reason, if it was not computed."""

    name: str
    ours: float | None
    official: float | None
    reason: str = ""

    @property
    def difference(self) -> float | None:
        return None if self.ours is None or self.official is None else self.ours - self.official


@dataclass(frozen=True)
class Verification:
    """All values twice, and the captions on which the tokenizers differ.

    images: how many were scored. captions: how many texts were tokenised, references included. differing: those with
    other tokens, as (text, our tokens, Java's). tolerance: the largest difference that `agrees` allows. source: what
    was scored, in words.
    """

    lines: tuple[Line, ...]
    images: int
    captions: int
    differing: tuple[tuple[str, str, str], ...]
    tolerance: float
    source: str

    @property
    def agrees(self) -> bool:
        return all(abs(line.difference) <= self.tolerance for line in self.lines if line.difference is not None)


def verify(annotation_file: Path, prediction_file: Path | None, *, suite: str, java: bool) -> Verification:
    """Score captions with this tool and with the official scorer.

    prediction_file: None scores each image's first reference against its others. UsageError for faulty files, without
    the extra, and for `java` without Java.
    """
    java_scorers.extra_folder()
    definition = read_definition(suite)
    if definition.kind != "caption":
        raise UsageError(
            f"suite '{suite}' has no captions; the official scorer is coco-caption's: give a caption suite"
        )
    entries = read_references(definition, (annotation_file,))
    if prediction_file is not None:
        texts = results_formats.read(prediction_file, definition.results, entries, str(annotation_file), False)
        references, source = [list(entry.references) for entry in entries], str(prediction_file)
    else:
        several = [entry.references for entry in entries if len(entry.references) > 1]
        if len(several) < 2:
            raise UsageError(f"{annotation_file}: fewer than 2 images have 2 references; give --predictions FILE")
        texts, references = [own[0] for own in several], [list(own[1:]) for own in several]
        source = "each image's first reference against its others"
    flat = [*texts, *(text for own in references for text in own)]
    ours = tokenize_all(flat)
    theirs = java_scorers.tokenize(flat) if java else ours
    differing = [(text, a, b) for text, a, b in zip(flat, ours, theirs, strict=True) if a != b]
    lines = [*_official(texts, references, theirs), *_java(texts, references, theirs, java)]
    tolerance = OTHER_TOKENS if differing else SAME_TOKENS
    return Verification(tuple(lines), len(texts), len(flat), tuple(differing), tolerance, source)


def _regrouped(tokens: Sequence[str], references: Sequence[Sequence[str]]) -> tuple[list[str], list[list[str]]]:
    """(predictions, lists of references) from the flat list of their tokenised texts, predictions first."""
    count = len(references)
    left, grouped = list(tokens[count:]), []
    for own in references:
        grouped.append(left[: len(own)])
        del left[: len(own)]
    return list(tokens[:count]), grouped


def _official(texts: Sequence[str], references: Sequence[Sequence[str]], tokens: Sequence[str]) -> list[Line]:
    predicted, referred = _regrouped(tokens, references)
    predictions = {index: [text] for index, text in enumerate(predicted)}
    truths = dict(enumerate(referred))
    lines: list[Line] = []
    for name, (module, kind) in OFFICIAL.items():
        own = metrics.load(name).score(texts, references)
        scorer: Any = getattr(importlib.import_module(f"pycocoevalcap.{module}"), kind)()
        silent = {"verbose": 0} if name == "bleu4" else {}
        value, _ = scorer.compute_score(truths, predictions, **silent)
        if name == "bleu4":
            values = [own.parts["bleu1"], own.parts["bleu2"], own.parts["bleu3"], own.value]
            lines += [Line(f"BLEU-{n}", a, float(b)) for n, (a, b) in enumerate(zip(values, value, strict=True), 1)]
        else:
            lines.append(Line(metrics.label(name), own.value, float(value)))
    return lines


def _java(texts: Sequence[str], references: Sequence[Sequence[str]], tokens: Sequence[str], java: bool) -> list[Line]:
    """METEOR and SPICE: the same program, given this tool's tokens and the official ones."""
    lines = []
    for name, program in (("meteor", java_scorers.meteor), ("spice", java_scorers.spice)):
        label = metrics.label(name)
        if not java:
            lines.append(Line(label, None, None, "needs --java"))
            continue
        try:
            official = program(*_regrouped(tokens, references))[0]
            lines.append(Line(label, metrics.load(name).score(texts, references).value, official))
        except UsageError as error:
            lines.append(Line(label, None, None, str(error)))
    return lines


def report(found: Verification) -> list[str]:
    """The table and what it means, as lines."""
    out = [
        f"{found.images} images, {found.source}",
        "",
        f"{'metric':<10} {'ours':>14} {'official':>14} {'difference':>12}",
    ]
    for line in found.lines:
        if line.ours is None or line.official is None or line.difference is None:
            out.append(f"{line.name:<10} {'–':>14} {'–':>14} {'–':>12}  {line.reason}")
        else:
            out.append(f"{line.name:<10} {line.ours:>14.10f} {line.official:>14.10f} {line.difference:>+12.1e}")
    out.append("")
    if found.differing:
        out.append(f"other tokens than Java's in {len(found.differing)} of {found.captions} captions:")
        out += [f"  {text!r}: ours {ours!r}, Java {theirs!r}" for text, ours, theirs in found.differing[:SHOWN]]
    word = "agrees" if found.agrees else "DOES NOT AGREE"
    return [*out, f"{word} with the official scorer within {found.tolerance:g}"]


def require_agreement(found: Verification) -> None:
    """MetricMismatch unless every value that both sides have agrees."""
    if not found.agrees:
        worst = max((line for line in found.lines if line.difference is not None), key=lambda x: abs(x.difference or 0))
        raise MetricMismatch(
            f"{worst.name} differs from the official scorer's by {worst.difference:+.1e}; see the table"
        )
