"""Compares results files of other tools, sample by sample, with the statistics of our own runs."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fastvlm_bench.analysis.audit_notices import notices
from fastvlm_bench.analysis.audit_rows import Audited, row_of
from fastvlm_bench.analysis.notices import Notice
from fastvlm_bench.errors import UsageError
from fastvlm_bench.foreign import ResultsFile, read_results

PLAIN = re.compile(r"baseline|vanilla|standard|autoregressive|naive|(^|[^a-z])ar([^a-z]|$)", re.IGNORECASE)
"""Names that people give to the file of standard decoding."""


@dataclass(frozen=True)
class Method:
    """A file compared with the reference. whole: over all samples. topics: a row each, [] where there is but one.

    example: where the texts of the first sample that differs part, as (sample, reference's text, method's text).
    """

    whole: Audited
    topics: tuple[Audited, ...]
    warnings: tuple[Notice, ...]
    example: tuple[str, str, str] | None


@dataclass(frozen=True)
class Audit:
    """The reference's file and model, its number of samples, and the methods. notes: what its own file makes known."""

    reference: str
    tool: str
    samples: int
    chosen: str
    methods: tuple[Method, ...]
    notes: tuple[str, ...]


def audit(files: Sequence[Path], reference: Path | None = None) -> Audit:
    """Compare results files with the reference: `reference`, else the one that is named so, else the first.

    UsageError for files that cannot be read, for one file alone or named twice, and for two that share no sample.
    """
    real = {path: os.path.realpath(path) for path in (*files, *([reference] if reference else []))}
    if twice := [path for index, path in enumerate(files) if real[path] in [real[other] for other in files[:index]]]:
        raise UsageError(f"{twice[0]} is named twice: audit compares different files; name each once")
    others = [path for path in files if reference is None or real[path] != real[reference]]
    chosen = "as given"
    if reference is None:
        named = [path for path in others if PLAIN.search(path.name)]
        reference = (named or others)[0]
        chosen = f"{'by its name' if named else 'the first file'}; --reference FILE chooses another"
        others = [path for path in others if path != reference]
    if not others:
        raise UsageError(f"{reference} is the only file: audit compares; name a second, or --reference FILE")
    names = _names([reference, *others])
    base = read_results(reference)
    methods = tuple(_compared(base, read_results(path), names[reference], names[path]) for path in others)
    return Audit(names[reference], base.tool, len(base.answers), chosen, methods, base.contents.notes)


def _names(paths: Sequence[Path]) -> dict[Path, str]:
    """File names, or whole paths where two files have the same name."""
    same = len({path.name for path in paths}) < len(paths)
    return {path: str(path) if same else path.name for path in paths}


def _compared(base: ResultsFile, other: ResultsFile, reference: str, name: str) -> Method:
    if base.tool != other.tool and (base.contents.placed or other.contents.placed):
        placed = base if base.contents.placed else other
        raise UsageError(f"{base.path} is of {base.tool}, {other.path} of {other.tool}: ids of {placed.tool} are "
                         "places in a list, so equal ids are not equal samples; compare files of one tool")  # fmt: skip
    theirs, ours = base.answers, other.answers
    shared = [key for key in theirs if key in ours]
    if not shared:
        some = ", ".join(list(theirs)[:2]), ", ".join(list(ours)[:2])
        raise UsageError(f"{base.path} ({some[0]}, …) and {other.path} ({some[1]}, …) share no sample: "
                         "give results of the same data set")  # fmt: skip
    unlike = {key: kinds for key in shared if (kinds := _unlike(theirs[key].prompt, ours[key].prompt))}
    if unlike:
        first, (kind, *_) = next(iter(unlike.items()))
        raise UsageError(f"{base.path} and {other.path}: sample {first} has another prompt in each, as its {kind} "
                         f"tells ({len(unlike)} of {len(shared)} have): order or data differ; give runs over the same "
                         "requests")  # fmt: skip
    pairs = [(theirs[key], ours[key]) for key in shared if not (theirs[key].failed or ours[key].failed)]
    if not pairs:
        raise UsageError(f"{other.path}: no sample is answered both here and in {base.path}")
    whole = row_of(name, other, "", pairs, len(theirs) - len(shared))
    topics = list(dict.fromkeys(first.group for first, _ in pairs))
    rows = [row_of(name, other, topic, [p for p in pairs if p[0].group == topic], 0) for topic in topics]
    parted = next(((a, b) for a, b in pairs if a.texts[0] != b.texts[0]), None)
    example = None
    if parted is not None:
        example = (parted[0].sample_id, *where_they_part(parted[0].texts[0], parted[1].texts[0]))
    return Method(whole, tuple(rows) if len(rows) > 1 else (), tuple(notices(base, other, pairs, whole)), example)


def _unlike(theirs: Mapping[str, str], ours: Mapping[str, str]) -> list[str]:
    """The kinds of what tells the prompt that are known of both and differ."""
    return [kind for kind, value in theirs.items() if ours.get(kind, value) != value]


def where_they_part(reference: str, method: str, around: int = 40) -> tuple[str, str]:
    """The two texts around the first character in which they differ, on one line each."""
    at = next((i for i, (a, b) in enumerate(zip(reference, method, strict=False)) if a != b),
              min(len(reference), len(method)))  # fmt: skip
    start = max(0, at - around)

    def cut(text: str) -> str:
        piece = " ".join(text[start : at + around].split())
        return ("…" if start else "") + piece + ("…" if at + around < len(text) else "")

    return cut(reference), cut(method)
