"""Seeded damage to the files of every official format, to predictions that `score` reads, and to configuration files.

Each is read, or refused in one line: tests/fuzz/test_data_files.py says what that means. No score is NaN.
"""

import json
import math
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from fuzz.test_checkpoint_files import damaged
from fuzz.test_data_files import Damage, in_bytes, in_lines, in_toml, outcome, texts
from suites.conftest import write
from suites.official import MAKE, visdial
from suites.test_mmspec_mmstar import mmspec, mmspec_row
from typer.testing import CliRunner

from fastvlm_bench.cli.app import app
from fastvlm_bench.measuring import benchmark
from fastvlm_bench.scoring.score import score_file
from fastvlm_bench.suites import results_formats
from fastvlm_bench.suites.definition import read_definition
from fastvlm_bench.suites.suite import load_suite


def ranked(root: Path) -> None:
    visdial(root)
    rows = [{"image_id": 185565, "round_id": n, "gt_relevance": [0.0, 1.0, 0.5, *[0] * 97]} for n in (1, 2)]
    write(root / "visdial_1.0_val_dense_annotations.json", rows)


OFFICIAL: dict[str, Callable[[Path], Any]] = {
    **MAKE, "mmspec": lambda root: mmspec(root, [mmspec_row(0), mmspec_row(1)]), "visdial": ranked,
    "visdial-turns": visdial,
}  # fmt: skip
SPLITS = {"coco-caption": "karpathy-test-lavis", "mmspec": "testmini"}
"""Suite -> the split that its files here are of, where it is not the default."""


def nothing(found: Any) -> list[Any]:
    return []


@dataclass(frozen=True)
class Case:
    """One file that gets damaged, and what reads it. numbers: what must be finite of what was read."""

    name: str
    file: Path
    read: Callable[[], Any]
    numbers: Callable[[Any], list[Any]] = nothing
    same: Callable[[Any, Any], bool] = lambda found, whole: True

    @property
    def damage(self) -> Damage:
        if self.file.suffix not in (".json", ".jsonl"):
            return in_bytes
        try:
            json.loads(self.file.read_bytes())
        except ValueError:
            return in_lines
        return damaged

    def faults(self, count: int, seed: int) -> Iterator[str]:
        """Each damage that ended neither in something read nor in one line."""
        source, damage = random.Random(f"{self.name} {seed}"), self.damage
        raw, whole = self.file.read_bytes(), self.read()
        for _ in range(count):
            content, said = damage(raw, source)
            self.file.write_bytes(content)
            try:
                found, refused = outcome(self.read)
            except Exception as error:  # what a user would see as a traceback
                yield f"{self.name}, {said}: {type(error).__name__}: {error}"
                continue
            if not refused and not all(math.isfinite(value) for value in self.numbers(found)):
                yield f"{self.name}, {said}: a number that is not finite"
            if not refused and not self.same(found, whole):
                yield f"{self.name}, {said}: other texts with the same fingerprint"
        self.file.write_bytes(raw)


def relevances(found: Any) -> list[float]:
    """What the dense annotations of Visual Dialog give, which its references hold after the right option."""
    return [float(text) for sample in found.samples for text in " ".join(sample.references[1:]).split()]


def fingerprinted(found: Any, whole: Any) -> bool:
    return texts(found) == texts(whole) or bool(found.sha256 != whole.sha256)


# ------------------------------------------------------------------------------------------ annotation files


def annotation_files(suite: str, root: Path) -> Iterator[Case]:
    OFFICIAL[suite](root)
    for file in sorted(path for path in root.rglob("*") if path.suffix in (".json", ".jsonl", ".token")):
        split = "all" if file.suffix == ".token" else SPLITS.get(suite)
        read = partial(load_suite, suite, split=split, data=root, ranking=True)
        yield Case(f"{suite} {file.name}", file, read, relevances if suite == "visdial" else nothing, fingerprinted)


@pytest.mark.slow
@pytest.mark.parametrize("suite", OFFICIAL)
def test_damaged_annotations(suite: str, tmp_path: Path) -> None:
    assert not [fault for case in annotation_files(suite, tmp_path) for fault in case.faults(100, 0)]


@pytest.mark.parametrize("suite", ["scienceqa-img", "pope", "visdial"])
def test_a_few_damaged_annotations(suite: str, tmp_path: Path) -> None:
    assert not [fault for case in annotation_files(suite, tmp_path) for fault in case.faults(8, 1)]


# ------------------------------------------------------------------------------------------ predictions

SCORED = sorted(name for name in OFFICIAL if read_definition(name).metrics)


def predictions(suite: str, root: Path) -> Case:
    """The first reference of each of this suite's samples, or ranks, as predictions in its official format."""
    OFFICIAL[suite](root / "data")
    split, form = SPLITS.get(suite), read_definition(suite).results
    samples = load_suite(suite, split=split, data=root / "data", ranking=True).samples
    answers = [" ".join(map(str, range(1, 101))) if suite == "visdial" else sample.references[0] for sample in samples]
    rows = [{"sample_id": sample.sample_id, "question": sample.prompt, "text": text, "group": ""}
            for sample, text in zip(samples, answers, strict=True)]  # fmt: skip
    if form == "pope":
        rows = [{**row, "question": sample.question} for row, sample in zip(rows, samples, strict=True)]
    ((suffix, content),) = results_formats.encode(form, rows, "mine").items()
    file = root / f"mine{suffix}"
    file.write_bytes(content)
    read = partial(score_file, suite, root / "data", file, split=split, allow_missing=True)
    return Case(suite, file, read, lambda found: [value for value in found.values.values() if value is not None])


@pytest.mark.slow
@pytest.mark.parametrize("suite", SCORED)
def test_damaged_predictions(suite: str, tmp_path: Path) -> None:
    assert not list(predictions(suite, tmp_path).faults(100, 0))


@pytest.mark.parametrize("suite", ["gqa", "pope"])
def test_a_few_damaged_predictions(suite: str, tmp_path: Path) -> None:
    assert not list(predictions(suite, tmp_path).faults(8, 1))


# ------------------------------------------------------------------------------------------ configuration files

SETTINGS = {
    "model": "tiny", "suite": ["vqav2", "gqa"], "method": ["standard", "fastvlm"], "limit": 2, "batch_size": [1, 2],
    "gamma": 3, "tau": 0.4, "seed": 7, "device": "cpu", "quiet": True, "max_new_tokens": 8, "out": "here",
}  # fmt: skip
"""Options of `run` of every kind."""
WRITTEN: dict[str, Callable[[dict[str, Any]], str]] = {
    ".json": json.dumps, ".yaml": yaml.safe_dump,
    ".toml": lambda given: "".join(f"{key} = {json.dumps(value)}\n" for key, value in given.items()),
}  # fmt: skip


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def loads(*_: Any, **__: Any) -> None:
        raise SystemExit(99)

    monkeypatch.setattr(benchmark, "measure_suites", loads)


def told(file: Path) -> str:
    """What `run --config` did; "" if it got as far as the model, or refused with exit code 2 and one line."""
    result = CliRunner().invoke(app, ["run", "--config", str(file)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        return f"{type(result.exception).__name__}: {result.exception}"
    lines = [line for line in result.stderr.splitlines() if not re.search(r"^fastvlm-bench: (note|warning): ", line)]
    clean = result.exit_code == 99 or (result.exit_code == 2 and len(lines) == 1)
    return "" if clean else f"exit code {result.exit_code}: {result.output}"


def config_faults(kind: str, count: int, seed: int, folder: Path) -> Iterator[str]:
    file, source = folder / f"mine{kind}", random.Random(f"{kind} {seed}")
    raw = WRITTEN[kind]({**SETTINGS, "out": str(folder / "out")}).encode()
    file.write_bytes(raw)
    assert not told(file)
    damage = {".json": damaged, ".toml": in_toml}.get(kind, in_bytes)
    for _ in range(count):
        content, said = damage(raw, source)
        file.write_bytes(content)
        if seen := told(file):
            yield f"{kind}, {said}: {seen}"


@pytest.mark.slow
@pytest.mark.parametrize("kind", WRITTEN)
def test_damaged_configurations(kind: str, tmp_path: Path, no_model: None) -> None:
    assert not list(config_faults(kind, 100, 0, tmp_path))


@pytest.mark.parametrize("kind", WRITTEN)
def test_a_few_damaged_configurations(kind: str, tmp_path: Path, no_model: None) -> None:
    assert not list(config_faults(kind, 4, 1, tmp_path))
