"""What phase 1 did to the model's answers: the suite's own metrics, before and after, on the same held-out samples."""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from fastvlm_bench import metrics
from fastvlm_bench.analysis.quality import difference, score
from fastvlm_bench.models.load import Target
from fastvlm_bench.records.storage import write_atomically
from fastvlm_bench.suites.definition import read_definition
from fastvlm_bench.suites.suite import load_suite, open_images
from fastvlm_bench.training.answers import greedy_answers, pads_well
from fastvlm_bench.training.display import Display
from fastvlm_bench.training.micro_batch import MicroBatch
from fastvlm_bench.training.samples import TrainingSample
from fastvlm_bench.training.settings import DEFAULT_TOKENS, TrainSettings

SAMPLES = 200


def measure_quality(
    settings: TrainSettings,
    before: Target,
    after: Target,
    held_out: Sequence[TrainingSample],
    path: Path,
    display: Display,
) -> None:
    """Keep (quality.json) each metric's value before and after, and the paired difference.

    Embedded suites are scored on their embedded split, which is held out from training; other suites on the samples
    that were held out. Without references only the number of unchanged answers is reported. path: the file to write.
    """
    rows: list[dict[str, Any]] = []
    if settings.data is None and not settings.images:
        for name in settings.suites:
            suite = load_suite(name, limit=SAMPLES)
            own = [
                TrainingSample(s.sample_id, s.image_id, s.prompt, partial(open_images, s), s.references)
                for s in suite.openings
            ]
            rows += _rows(name, suite.metrics, before, after, own, settings.max_new_tokens or suite.max_new_tokens,
                          display.say)  # fmt: skip
    else:
        for name in settings.suites or (Path(str(settings.images)).name,):
            own = [s for s in held_out if s.sample_id.startswith(f"{name}/")]
            scored = read_definition(name).metrics if settings.suites and all(s.references for s in own) else ()
            most = read_definition(name).max_new_tokens if settings.suites else DEFAULT_TOKENS
            rows += _rows(name, scored, before, after, own, settings.max_new_tokens or most, display.say)
    write_atomically(path, (json.dumps(rows, indent=1) + "\n").encode())


def tell_quality(rows: Sequence[Mapping[str, Any]], display: Display) -> None:
    """Print what `measure_quality` kept. A training that goes on says it again, since nobody may have seen it."""
    for row in rows:
        value = "" if row["before"] is None else f" {row['before']:.4f} -> {row['after']:.4f},"
        between = "" if row["low"] is None else f" [{row['low']:+.4f}, {row['high']:+.4f}]"
        change = "" if row["delta"] is None else f" Δ {row['delta']:+.4f}{between} ({row['verdict']}),"
        display.conclude(f"quality, {row['suite']} {row['metric']}:{value}{change} "
                         f"unchanged answers {row['unchanged']} of {row['n']}")  # fmt: skip


def _rows(
    name: str, chosen: Sequence[str], before: Target, after: Target, samples: Sequence[TrainingSample], most: int,
    say: Callable[[str], None],
) -> list[dict[str, Any]]:  # fmt: skip
    old, new = (_texts(target, samples, most, say) for target in (before, after))
    same = sum(a == b for a, b in zip(old, new, strict=True))
    common = {"suite": name, "n": len(samples), "unchanged": same}
    empty = {"metric": "", "before": None, "after": None, "delta": None, "low": None, "high": None, "verdict": ""}
    if not chosen:
        return [{**common, **empty, "metric": "no references"}]
    references = [list(s.references) for s in samples]
    described = {"samples": [{"sample_id": s.sample_id, "references": list(s.references)} for s in samples]}
    images, out = [s.image_id for s in samples], []
    for metric in chosen:
        values = [score(metric, described, texts, references) for texts in (old, new)]
        found = difference(metric, described, new, old, references, images)
        delta = found.delta
        out.append({
            **common, "metric": metrics.label(metric),
            "before": values[0].value if values[0] else None, "after": values[1].value if values[1] else None,
            "delta": delta.value if delta else None, "low": delta.low if delta else None,
            "high": delta.high if delta else None, "verdict": found.verdict,
        })  # fmt: skip
    return out


def _texts(target: Target, samples: Sequence[TrainingSample], most: int, say: Callable[[str], None]) -> list[str]:
    together = MicroBatch(32 if pads_well(target, samples[:2], most) else 1, say)
    answers = together.over(samples, lambda part: greedy_answers(target, part, most), "measuring quality")
    return [target.decode(list(ids)) for ids, _ in answers]
