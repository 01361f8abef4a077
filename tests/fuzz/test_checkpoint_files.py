"""Seeded damage to every file of a checkpoint: the run ends well or in one line, and never in a traceback."""

import copy
import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from covering import covering
from typer.testing import CliRunner

from fastvlm_bench.cli.app import app
from fastvlm_bench.models.names import TINY

FILES = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "processor_config.json")
VALUES: tuple[Any, ...] = (None, "x", "", [], {}, -1, 0, 1.5, 10**9, True, ["a"], {"a": 1}, float("nan"))
DEEP = 60
"""Entries of one list or mapping that may be damaged: a vocabulary would hide all else."""


def places(node: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where a value stands in a document: keys and indices from its root."""
    if at:
        yield at
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in list(items)[:DEEP]:
        yield from places(value, (*at, key))


def damaged(raw: bytes, source: random.Random) -> tuple[bytes, str]:
    """The bytes of a JSON file with one fault, and what the fault is."""
    if source.random() < 0.2:
        cut = source.randrange(len(raw))
        return raw[:cut], f"cut after {cut} bytes"
    if source.random() < 0.1:
        at, bit = source.randrange(len(raw)), 1 << source.randrange(8)
        return raw[:at] + bytes([raw[at] ^ bit]) + raw[at + 1 :], f"bit {bit} of byte {at}"
    document = copy.deepcopy(json.loads(raw))
    at = source.choice(list(places(document)))
    parent = document
    for key in at[:-1]:
        parent = parent[key]
    if source.random() < 0.3:
        del parent[at[-1]]
        return json.dumps(document).encode(), f"without {at}"
    parent[at[-1]] = value = source.choice(VALUES)
    return json.dumps(document).encode(), f"{at} = {value!r}"


def outcome(folder: Path, out: Path) -> str:
    """What a stranger sees of a run on this checkpoint; "" if that is a result, or one line and its exit code."""
    asked = ["run", "--model", str(folder), "--suite", "vqav2", "--limit", "1", "-m", "standard", "--warmup", "0",
             "--threads", "1", "--max-new-tokens", "2", "-q", "--out", str(out)]  # fmt: skip
    result = CliRunner().invoke(app, asked)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        return f"{type(result.exception).__name__}: {result.exception}"
    told = [
        line for line in result.stderr.splitlines() if line.startswith("fastvlm-bench: ") and ": note: " not in line
    ]
    return "" if result.exit_code == 0 or (result.exit_code == 2 and len(told) == 1) else result.stderr


def faults(name: str, count: int, seed: int, work: Path) -> list[str]:
    """Each damage of one file that ended otherwise, with what was seen."""
    source, raw, found = random.Random(f"{name} {seed}"), (TINY / name).read_bytes(), []
    shutil.copytree(TINY, work / "model")
    for _ in range(count):
        content, said = damaged(raw, source)
        (work / "model" / name).write_bytes(content)
        if seen := outcome(work / "model", work / "out"):
            found.append(f"{name}, {said}: {seen}")
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_ends_in_one_line(name: str, tmp_path: Path) -> None:
    assert not faults(name, 60, 0, tmp_path)


@pytest.mark.parametrize("name", covering(FILES, ["config.json", "tokenizer.json"]))
def test_a_few_of_these_in_every_run_of_the_tests(name: str, tmp_path: Path) -> None:
    assert not faults(name, 2, 1, tmp_path)


def test_damage_is_seeded_and_always_changes_the_file() -> None:
    for name in FILES:
        raw = (TINY / name).read_bytes()
        first, second = ([damaged(raw, source) for _ in range(20)] for source in (random.Random(3), random.Random(3)))
        assert first == second and len({said for _, said in first}) > 10
        assert all(content != raw for content, _ in first)
