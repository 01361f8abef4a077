"""The samples on which `tune` measures: never those that `run` reports."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from fastvlm_bench.errors import UsageError
from fastvlm_bench.suites.definition import read_definition
from fastvlm_bench.suites.suite import Sample, Suite, load_suite
from fastvlm_bench.training.samples import TRAIN, TrainingSample
from fastvlm_bench.training.scenes import SUITES, rendered_samples

COUNT = 96
FEWEST = 8
SEED = 15
"""Of the rendered scenes: `train` validates on those of its own seed, 0 by default."""


def tuning_suite(suite: Suite, *, model: str, folder: Path, asked: dict[str, object]) -> tuple[Suite, str]:
    """(The suite with other samples, what they are in words). folder: gets rendered images.

    Of the embedded suites, scenes are drawn that neither training nor any suite shows. Else the suite's training split
    is read where the data has one. Else it is the last samples of the split, at most a quarter of it, which `run`
    should then leave out by --limit. asked: options of `load_suite`. UsageError where too few are left.
    """
    if suite.split == "embedded" and suite.name in SUITES and model == "tiny":
        drawn = rendered_samples(suite.name, COUNT, SEED, held_out=True)
        return _with(suite, [_saved(one, folder) for one in drawn]), "held-out scenes that no suite shows"
    if suite.split not in ("embedded", TRAIN) and TRAIN in read_definition(suite.name).splits:
        try:
            other = load_suite(suite.name, **{**asked, "split": TRAIN, "limit": COUNT})  # type: ignore[arg-type]
        except UsageError:
            pass  # this part of the data is not there
        else:
            return other, f"the first {len(other.openings)} samples of split {TRAIN}"
    count = min(COUNT, len(suite.openings) // 4)
    if count < FEWEST:
        raise UsageError(f"suite {suite.name}, split {suite.split}, has {len(suite.openings)} samples; tuning sets a "
                         f"quarter aside, at least {FEWEST}; give more samples or a larger --limit")  # fmt: skip
    left = len(suite.openings) - count
    what = f"the last {count} of {len(suite.openings)} samples of split {suite.split}; report with --limit {left}"
    return _with(suite, suite.openings[-count:]), what


def _with(suite: Suite, samples: Sequence[Sample]) -> Suite:
    return replace(suite, samples=tuple(samples))


def _saved(sample: TrainingSample, folder: Path) -> Sample:
    name = hashlib.sha256(sample.image_id.encode()).hexdigest()[:16]
    path = folder / f"{name}.png"
    rendered = sample.open()
    assert not isinstance(rendered, list)  # a scene is one picture
    rendered.save(path)
    return Sample(sample.sample_id, sample.image_id, path, sample.prompt, sample.references)
