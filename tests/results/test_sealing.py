"""Altered records: what changes a number of a finished run is named, with exit code 6; older records stay readable."""

import hashlib
import json
import random
import zlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from fastvlm_bench.cli.app import app
from fastvlm_bench.errors import BenchError, CorruptRecord
from fastvlm_bench.records import document_frequencies
from fastvlm_bench.records.record import RunWriter, read_meta, read_run
from fastvlm_bench.records.storage import seal

META, SAMPLES, FREQUENCIES = "run.json", "samples.jsonl", document_frequencies.FILE


@pytest.fixture
def folder(fake: SimpleNamespace, tmp_path: Path) -> Path:
    """A finished run of 4 samples, with document frequencies beside it."""
    meta, lines = fake.made(suites=[fake.suite(n=4)])
    path: Path = tmp_path / "run"
    with RunWriter.create(path, meta) as writer:
        for line in lines:
            writer.append(line)
        document_frequencies.write(path, {"coco-caption": [("", ["a red circle"])]}, {"coco-caption": ["a red circle"]})
        writer.finish("success", totals={"lines": 8, "failed": 0, "new_tokens": 1})
    return path


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    meta = json.loads((folder / META).read_bytes())
    change(meta)
    (folder / META).write_text(json.dumps(meta))


def cut(folder: Path, count: int) -> None:
    lines = (folder / SAMPLES).read_bytes().splitlines(keepends=True)
    (folder / SAMPLES).write_bytes(b"".join(lines[: len(lines) - count]))


def add_line(folder: Path) -> None:
    last = json.loads((folder / SAMPLES).read_bytes().splitlines()[-1])
    with open(folder / SAMPLES, "ab") as file:
        file.write(seal({**last, "seq": last["seq"] + 1}))


def forge_line(folder: Path) -> None:
    """Another time in the first line, with the right CRC."""
    first, *others = (folder / SAMPLES).read_bytes().splitlines(keepends=True)
    (folder / SAMPLES).write_bytes(seal({**json.loads(first), "decode_s": 9.0}) + b"".join(others))


@pytest.mark.parametrize(
    ("alter", "named"),
    [
        (lambda f: edit(f, lambda m: m["suites"][0]["samples"][0]["references"].append("x")),
         "suites.coco-caption.samples does not fit"),
        (lambda f: edit(f, lambda m: m["suites"][0].update(metrics=["bleu4"])), "suites.coco-caption.metrics"),
        (lambda f: edit(f, lambda m: m["config"].update(margin=9)), "config.margin"),
        (lambda f: edit(f, lambda m: m["environment"].update(dirty=True)), "environment.dirty"),
        (lambda f: edit(f, lambda m: m["costs"][0].update(draft_s=9)), "costs"),
        (lambda f: edit(f, lambda m: m.pop("costs")), "costs"),
        (lambda f: edit(f, lambda m: m.update(energy={})), "energy"),
        (lambda f: edit(f, lambda m: m.pop("seal")), "its seal is damaged"),
        (lambda f: edit(f, lambda m: m.pop("sealed")), "sealed"),
        (lambda f: edit(f, lambda m: m["seal"].update(sha256="0" * 64)), "its seal is damaged"),
        (lambda f: edit(f, lambda m: m["seal"].update(files=None)), "its seal is damaged"),
        (lambda f: cut(f, 2), "it has 6 lines, and run.json sealed 8"),
        (lambda f: cut(f, 8), "it has 0 lines"),
        (add_line, "it has 9 lines, and run.json sealed 8"),
        (forge_line, "samples.jsonl was altered after it was written: its content"),
        (lambda f: (f / SAMPLES).unlink(), "samples.jsonl is gone"),
        (lambda f: (f / FREQUENCIES).unlink(), f"{FREQUENCIES} is gone"),
        (lambda f: (f / FREQUENCIES).write_text("{}"), f"{FREQUENCIES} was altered"),
    ],
)  # fmt: skip
def test_what_was_altered_is_named_with_exit_code_6(folder: Path, alter: Callable[[Path], object], named: str) -> None:
    alter(folder)
    with pytest.raises(CorruptRecord) as caught:
        read_run(folder)
    assert named in str(caught.value) and "\n" not in str(caught.value)
    for command in (["report", str(folder)], ["export", str(folder)], ["compare", str(folder), str(folder)]):
        done = CliRunner().invoke(app, command)
        assert (done.exit_code, done.stderr) == (6, f"fastvlm-bench: {caught.value}\n")


@pytest.mark.parametrize("name", [META, SAMPLES, FREQUENCIES])
def test_no_flipped_bit_changes_what_is_read(folder: Path, name: str) -> None:
    """Most are refused. Those that are not lie where JSON means the same: in spaces, or in the case of a digit."""
    whole, source = (folder / name).read_bytes(), random.Random(name)
    before = read_run(folder)
    for _ in range(150):
        place = source.randrange(len(whole))
        flipped = bytearray(whole)
        flipped[place] ^= 1 << source.randrange(8)
        (folder / name).write_bytes(flipped)
        try:
            after = read_run(folder)
        except BenchError as error:
            assert name in str(error)
        else:
            assert (after.lines, after.meta) == (before.lines, before.meta), place


def test_a_run_that_is_being_measured_may_grow_but_not_shrink(fake: SimpleNamespace, tmp_path: Path) -> None:
    meta, lines = fake.made(suites=[fake.suite(n=4)])
    path = tmp_path / "run"
    with RunWriter.create(path, meta) as writer:
        for line in lines[:4]:
            writer.append(line)
        writer.update(costs=[])
        writer.append(lines[4])
    assert len(read_run(path).lines) == 5
    cut(path, 1)
    assert len(read_run(path).lines) == 4
    cut(path, 1)
    for read in (read_run, lambda folder: RunWriter.resume(folder, meta["config_sha256"])):
        with pytest.raises(CorruptRecord, match="it has 3 lines, and run.json sealed 4"):
            read(path)


def test_a_record_without_a_seal_is_read_as_it_always_was(folder: Path) -> None:
    edit(folder, lambda m: (m.pop("seal"), m.pop("sealed"), m["config"].update(margin=9)))
    run = read_run(folder)
    assert not run.sealed and run.meta["config"]["margin"] == 9
    cut(folder, 2)
    with pytest.raises(CorruptRecord, match=r"has 6 lines that count, and totals in run\.json has 8"):
        read_run(folder)


def test_the_seal_is_what_the_documentation_says(folder: Path) -> None:
    meta = read_meta(folder)
    own = {key: value for key, value in meta.items() if key != "seal"}
    text = json.dumps(own, sort_keys=True, separators=(",", ":")).encode()
    assert meta["seal"]["sha256"] == hashlib.sha256(text).hexdigest()
    assert set(meta["seal"]["files"]) == {SAMPLES, FREQUENCIES}
    costs = json.dumps(own["costs"], sort_keys=True, separators=(",", ":")).encode()
    assert meta["seal"]["fields"]["costs"] == f"{zlib.crc32(costs):08x}"
    assert {name.split(".")[0] for name in meta["seal"]["fields"]} == set(own)
