"""Seeded damage to what data sets and other tools write: it is read, or refused in one line; no number changes unsaid.

A file that is read after all may have other texts: then its fingerprint differs, so that no two runs of the two files
pass for runs of one data set. Results of other tools may have other numbers: then a number or a text was put in the
place of one, or a note or a warning says what is odd.
"""

import dataclasses
import json
import math
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fuzz.test_checkpoint_files import damaged
from results.test_audit import answers
from results.test_audit_faults import lmms, serve
from suites.as_tables import coco, write_table
from suites.conftest import VQA_ANSWERS, VQA_QUESTIONS, picture
from suites.conftest import data as data_fixture

from fastvlm_bench.analysis.audit import audit
from fastvlm_bench.errors import UsageError
from fastvlm_bench.suites.catalogue import suites_folder
from fastvlm_bench.suites.suite import load_suite

__all__ = ["data"]
data = data_fixture
Damage = Callable[[bytes, random.Random], tuple[bytes, str]]


def outcome(read: Callable[[], Any]) -> tuple[Any, str]:
    """(what was read, "") or (None, the line of a refusal); any other end is a fault and fails the test."""
    try:
        return read(), ""
    except UsageError as error:
        line = str(error)
        assert line.strip() and len(line.splitlines()) == 1, f"a refusal of several lines: {line!r}"
        assert not re.search(r"Traceback|object at 0x", line), line
        return None, line


def in_lines(raw: bytes, source: random.Random) -> tuple[bytes, str]:
    """Damage to one line of a JSON lines file, or to which lines there are."""
    lines = raw.splitlines(keepends=True)
    at = source.randrange(len(lines))
    if source.random() < 0.15:
        return b"".join(lines[:at] + lines[at + 1 :]), f"without line {at}"
    if source.random() < 0.15:
        return b"".join([*lines, lines[at]]), f"line {at} twice"
    content, said = damaged(lines[at].rstrip(b"\n"), source)
    return b"".join([*lines[:at], content, b"\n", *lines[at + 1 :]]), f"line {at}, {said}"


def in_bytes(raw: bytes, source: random.Random) -> tuple[bytes, str]:
    at = source.randrange(len(raw))
    if source.random() < 0.3:
        return raw[:at], f"cut after {at} bytes"
    bit = 1 << source.randrange(8)
    return raw[:at] + bytes([raw[at] ^ bit]) + raw[at + 1 :], f"bit {bit} of byte {at}"


TOML_VALUES = ("0", "-1", '""', '"x"', "[]", "{}", "true", '"../../x"', '"{nothing}"', "1e9", "nan", '["a", 1]', "")


def in_toml(raw: bytes, source: random.Random) -> tuple[bytes, str]:
    """A key with another value, without its line, twice, or in another table; else damaged bytes."""
    lines = raw.decode().splitlines()
    keyed = [n for n, line in enumerate(lines) if re.match(r"\w+ = ", line)]
    at, how = source.choice(keyed), source.random()
    key = lines[at].partition(" = ")[0]
    if how < 0.5:
        value = source.choice(TOML_VALUES)
        lines[at], said = f"{key} = {value}", f"{key} = {value}"
    elif how < 0.7:
        del lines[at]
        said = f"without {key}"
    elif how < 0.8:
        lines.insert(at, lines[at])
        said = f"{key} twice"
    elif how < 0.9:
        lines.insert(source.randrange(len(lines)), f'unknown_{key} = "x"')
        said = f"unknown_{key}"
    else:
        return in_bytes(raw, source)
    return "\n".join(lines).encode(), said


# ------------------------------------------------------------------------------------------ data sets


def jsonl(root: Path) -> Path:
    rows = [{"id": f"s{n}", "image": f"{n}.png", "prompt": f"What is {n}?", "references": [f"a{n}", "b"]}
            for n in range(4)]  # fmt: skip
    for n in range(4):
        picture(root / f"{n}.png")
    (root / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root / "mine.jsonl"


def table(root: Path) -> Path:
    hub = root / "hub"
    return write_table(hub / "data" / "val-00000-of-00001.parquet", coco("2014")(root), row_group_size=2)


READERS: dict[str, tuple[Callable[[Path], Path], Damage, Callable[[Path], Any]]] = {
    "captions": (lambda root: root / "annotations/captions_val2014.json", damaged,
                 lambda root: load_suite("coco-caption", split="val2014", data=root)),
    "karpathy": (lambda root: root / "dataset_coco.json", damaged,
                 lambda root: load_suite("coco-caption", split="karpathy-test", data=root)),
    "questions": (lambda root: root / VQA_QUESTIONS, damaged,
                  lambda root: load_suite("vqav2", split="val2014", data=root)),
    "answers": (lambda root: root / VQA_ANSWERS, damaged,
                lambda root: load_suite("vqav2", split="val2014", data=root)),
    "jsonl": (jsonl, in_lines, lambda root: load_suite("jsonl", data=root / "mine.jsonl")),
    "parquet": (table, in_bytes, lambda root: load_suite("coco-caption", split="val2014", data=root / "hub")),
}  # fmt: skip
"""kind -> (makes the file, damages it, reads the suite)"""


def texts(suite: Any) -> list[Any]:
    return [(s.sample_id, s.image_id, s.prompt, s.references) for s in suite.samples]


def data_faults(kind: str, count: int, seed: int, root: Path) -> Iterator[str]:
    make, damage, read = READERS[kind]
    file, source = make(root), random.Random(f"{kind} {seed}")
    raw, whole = file.read_bytes(), read(root)
    for _ in range(count):
        content, said = damage(raw, source)
        file.write_bytes(content)
        try:
            found, refused = outcome(lambda: read(root))
        except Exception as error:  # what a user would see as a traceback
            yield f"{kind}, {said}: {type(error).__name__}: {error}"
            continue
        if not refused and texts(found) != texts(whole) and found.sha256 == whole.sha256:
            yield f"{kind}, {said}: other texts with the same fingerprint"


@pytest.mark.slow
@pytest.mark.parametrize("kind", READERS)
def test_damaged_data(kind: str, data: Path) -> None:
    assert not list(data_faults(kind, 150, 0, data))


@pytest.mark.parametrize("kind", READERS)
def test_a_little_damaged_data_in_every_run_of_the_tests(kind: str, data: Path) -> None:
    assert not list(data_faults(kind, 6, 1, data))


# ------------------------------------------------------------------------------------------ suite files


def suite_faults(name: str, count: int, seed: int, folder: Path, root: Path) -> Iterator[str]:
    source, raw = random.Random(f"{name} {seed}"), (suites_folder() / f"{name}.toml").read_bytes()
    for _ in range(count):
        content, said = in_toml(raw, source)
        (folder / "mine.toml").write_bytes(content)
        for options in ({"data": root}, {}):
            try:
                outcome(lambda options=options: load_suite("mine", **options))
            except Exception as error:
                yield f"{name}, {said}: {type(error).__name__}: {error}"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FASTVLM_BENCH_SUITES", str(tmp_path / "suites"))
    (tmp_path / "suites").mkdir()
    return tmp_path / "suites"


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(path.stem for path in suites_folder().glob("*.toml")))
def test_damaged_suite_files(name: str, folder: Path, data: Path) -> None:
    assert not list(suite_faults(name, 60, 0, folder, data))


@pytest.mark.parametrize("name", ["vqav2", "coco-caption"])
def test_a_few_damaged_suite_files(name: str, folder: Path, data: Path) -> None:
    assert not list(suite_faults(name, 8, 1, folder, data))


# ------------------------------------------------------------------------------------------ results of other tools


def rows_of(tool: str) -> list[Any]:
    if tool == "answers":
        return answers((1.0, 2.0, 1.0, 8.0))
    if tool == "vllm":
        return [serve()]
    return [lmms(n, token_counts=[{"output_tokens": n + 1}]) for n in range(4)]


def numbers(node: Any) -> Iterator[float]:
    if isinstance(node, dict):
        for value in node.values():
            yield from numbers(value)
    elif isinstance(node, list | tuple):
        for value in node:
            yield from numbers(value)
    elif isinstance(node, float):
        yield node


def foreign_faults(tool: str, count: int, seed: int, root: Path) -> Iterator[str]:
    source = random.Random(f"{tool} {seed}")
    file, other = root / "other.jsonl", root / "baseline.jsonl"
    raw = "".join(json.dumps(row) + "\n" for row in rows_of(tool)).encode()
    other.write_bytes(raw)
    for _ in range(count):
        content, said = in_lines(raw, source)
        file.write_bytes(content)
        try:
            found, refused = outcome(lambda: audit([other, file]))
        except Exception as error:
            yield f"{tool}, {said}: {type(error).__name__}: {error}"
            continue
        if not refused and not all(map(math.isfinite, numbers(dataclasses.asdict(found)))):
            yield f"{tool}, {said}: a number that is not finite"
        if not refused and found.methods[0].whole.samples < found.samples and not found.methods[0].warnings:
            yield f"{tool}, {said}: fewer samples, and no warning"


@pytest.mark.slow
@pytest.mark.parametrize("tool", ["answers", "vllm", "lmms"])
def test_damaged_results_of_other_tools(tool: str, tmp_path: Path) -> None:
    assert not list(foreign_faults(tool, 200, 0, tmp_path))


@pytest.mark.parametrize("tool", ["answers", "vllm", "lmms"])
def test_a_few_damaged_results(tool: str, tmp_path: Path) -> None:
    assert not list(foreign_faults(tool, 10, 1, tmp_path))


def test_damage_is_seeded() -> None:
    for damage, raw in ((in_lines, b'{"a": 1}\n{"a": 2}\n'), (in_bytes, b"some bytes"), (in_toml, b'a = 1\nb = "c"')):
        first, second = ([damage(raw, source) for _ in range(20)] for source in (random.Random(2), random.Random(2)))
        assert first == second and len({said for _, said in first}) > 4 and any(made != raw for made, _ in first)
