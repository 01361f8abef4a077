"""The committed schemas are those of the code, every record fits them, and what is wrong does not."""

import copy
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_run import execute
from jsonschema import Draft202012Validator
from typer.testing import CliRunner

from fastvlm_bench.analysis.stopping import BUDGET, SAMPLES, WIDTH
from fastvlm_bench.checks import losslessness
from fastvlm_bench.cli.app import app
from fastvlm_bench.errors import BenchError
from fastvlm_bench.machine import conditions, stalls
from fastvlm_bench.records.record import read_meta
from fastvlm_bench.records.run_record import RunRecord, Stopped, SuiteRecord
from fastvlm_bench.records.sample_line import Losslessness, SampleLine
from fastvlm_bench.records.schema import FILES, run_schema, sample_schema, text_of
from fastvlm_bench.suites.definition import KINDS

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).parent / "golden-v1"
RUN, LINE = Draft202012Validator(run_schema()), Draft202012Validator(sample_schema())
COMMITTED = sorted(
    (ROOT / name).parent
    for name in subprocess.run(["git", "ls-files", "results/**/run.json"], cwd=ROOT, capture_output=True, text=True,
                               check=True).stdout.split()
)  # fmt: skip
"""The reference runs, the sweep's and the ablation's: those that git knows, not what a reader has measured since."""


def lines_of(folder: Path) -> Iterator[dict[str, Any]]:
    with open(folder / "samples.jsonl", encoding="ascii") as file:
        yield from map(json.loads, file)


def meta_of(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "run.json").read_bytes()))


def wrong(validator: Any, document: Any) -> list[str]:
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(document)]


@pytest.mark.parametrize("name", FILES)
def test_the_committed_schema_is_that_of_the_code(name: str) -> None:
    committed = (ROOT / "docs" / "schema" / name).read_text(encoding="utf-8")
    assert committed == text_of(FILES[name]()), "run: python -m fastvlm_bench.records.schema docs/schema"


@pytest.mark.parametrize("name", FILES)
def test_it_is_a_schema_that_describes_every_field(name: str) -> None:
    schema = FILES[name]()
    Draft202012Validator.check_schema(schema)
    for kind in (schema, *schema["$defs"].values()):
        assert kind["description"]
        for field, own in kind["properties"].items():
            assert own["description"], field


UNITS = {"_s": "seconds", "_bytes": "bytes", "_w": "watts", "joules": "joules", "tokens": "token", "_ids": "tokens"}


@pytest.mark.parametrize("name", FILES)
def test_a_field_with_a_unit_names_it(name: str) -> None:
    schema = FILES[name]()
    found = 0
    for kind in (schema, *schema["$defs"].values()):
        for field, own in kind["properties"].items():
            for ending, unit in UNITS.items():
                if field.endswith(ending):
                    found += 1
                    assert unit in own["description"], f"{field}: {own['description']}"
    assert found > 5


def test_choices_are_those_of_the_code() -> None:
    """The types stand below the rooms that make the values, so that a test must hold them together."""
    properties, sample = run_schema()["$defs"], sample_schema()["$defs"]
    outcomes = {losslessness.IDENTICAL, losslessness.NEAR_TIE, losslessness.UNSTEADY, losslessness.VIOLATION,
                losslessness.UNCHECKED}  # fmt: skip
    assert set(sample[Losslessness.__name__]["properties"]["outcome"]["enum"]) == outcomes
    assert set(properties[SuiteRecord.__name__]["properties"]["kind"]["enum"]) == set(KINDS)
    assert set(properties[Stopped.__name__]["properties"]["by"]["enum"]) == {SAMPLES, WIDTH, BUDGET}
    flags = sample_schema()["properties"]["flags"]["items"]["enum"]
    assert set(flags) == {conditions.THROTTLED, conditions.NOT_ISOLATED, stalls.STALLED}


def test_the_page_names_every_field() -> None:
    page = (ROOT / "docs" / "results-schema.md").read_text(encoding="utf-8")
    run, lines = page.split("## Run folder")[1].split("`samples.jsonl` has one line")
    for kind, text in ((RunRecord, run), (SampleLine, lines)):
        assert [name for name in kind.__annotations__ if f"`{name}`" not in text] == []


@pytest.mark.parametrize("folder", [*COMMITTED, GOLDEN], ids=lambda folder: folder.name)
def test_committed_runs_fit(folder: Path) -> None:
    """Lines at even distances; the slow test below reads all of them."""
    assert wrong(RUN, meta_of(folder)) == []
    lines = (folder / "samples.jsonl").read_text(encoding="ascii").splitlines()
    for line in lines[:: max(1, len(lines) // 6)]:
        assert wrong(LINE, json.loads(line)) == []


def test_there_are_committed_runs_to_check() -> None:
    assert sum("ablation" in folder.parts for folder in COMMITTED) >= 2
    assert sum("-batches-" in str(folder) for folder in COMMITTED) >= 3
    assert sum(folder.parent == ROOT / "results" for folder in COMMITTED) >= 3


@pytest.mark.slow
@pytest.mark.parametrize("folder", COMMITTED, ids=lambda folder: folder.name)
def test_every_committed_line_fits(folder: Path) -> None:
    """With the ends of its lists: whole lists are read by the test above."""
    for number, line in enumerate(lines_of(folder), start=1):
        short = dict(line)
        if line["error"] is None:
            short |= {"rounds": [*line["rounds"][:1], *line["rounds"][-1:]], "token_ids": line["token_ids"][-2:]}
        assert LINE.is_valid(short), f"line {number}: {wrong(LINE, short)}"


def test_a_fresh_run_fits(fake: SimpleNamespace, tmp_path: Path) -> None:
    def change(line: dict[str, Any]) -> dict[str, Any]:
        return dict(fake.failed(line)) if line["sample_id"] == "001" else line

    fake.write("run", suites=[fake.suite(n=3), fake.suite("vqav2", n=2)], change=change, repeats=2)
    assert wrong(RUN, meta_of(tmp_path / "run")) == []
    lines = list(lines_of(tmp_path / "run"))
    assert sum(line["error"] is not None for line in lines) == 8
    assert [problem for line in lines for problem in wrong(LINE, line)] == []


def test_lines_of_the_real_loop_fit(tmp_path: Path) -> None:
    execute(tmp_path / "run", 3)
    lines = list(lines_of(tmp_path / "run"))
    assert len(lines) == 6 and {"losslessness", "flags", "invocation"} <= set(lines[0])
    assert [problem for line in lines for problem in wrong(LINE, line)] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        ["--suite", "coco-caption", "--phases", "--energy", "1", "--refine", "--until-width", "0.5"],
        ["--suite", "vqav2", "--temperature", "0.7", "--budget", "20"],
        ["--suite", "nocaps", "--batch-size", "2"],
    ],
    ids=lambda options: options[2],
)
def test_runs_with_the_rare_fields_fit(options: list[str], tmp_path: Path) -> None:
    common = ["--limit", "2", "--warmup", "1", "--threads", "1", "--out", str(tmp_path)]
    result = CliRunner().invoke(app, ["run", *options, *common], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    (folder,) = tmp_path.iterdir()
    assert wrong(RUN, meta_of(folder)) == []
    assert [problem for line in lines_of(folder) for problem in wrong(LINE, line)] == []


def changed(document: dict[str, Any], place: str, value: Any) -> dict[str, Any]:
    """A copy with the field at "a.0.b" set, or removed where value is `Ellipsis`."""
    document = copy.deepcopy(document)
    *path, last = [int(part) if part.isdigit() else part for part in place.split(".")]
    inner: Any = document
    for part in path:
        inner = inner[part]
    if value is ...:
        del inner[last]
    else:
        inner[last] = value
    return document


LINE_FAULTS: list[tuple[str, Any]] = [
    ("v", 2), ("seq", -1), ("seq", "0"), ("suite", None), ("repeat", 0.5), ("token_ids", ["1"]), ("token_ids", None),
    ("text", 7), ("text", None), ("stop", "timeout"), ("ttft_s", -0.1), ("ttft_s", "1"), ("ttft_s", None),
    ("decode_s", ...), ("rounds", None), ("rounds.0", [0, 0, 0, 1, 0.0]), ("rounds.0.0", 0.5), ("rounds.0.5", None),
    ("rounds.0", [0, 0, 0, 1, 0.0, 0.0, 0]), ("memory.peak_rss_bytes", 1.5), ("memory.unknown", 1), ("error", ...),
    ("error", "out_of_memory: but measured"), ("crc32", "xyz"), ("crc32", ...), ("method", ...), ("unknown", 1),
]  # fmt: skip
RUN_FAULTS: list[tuple[str, Any]] = [
    ("schema_version", 2), ("status", "done"), ("suites.0.sha256", "short"), ("suites.0.samples.0.references", "a"),
    ("suites.0.samples.0.sample_id", 7), ("suites.0.max_new_tokens", 0), ("suites.0.kind", "video"),
    ("model.weights_sha256", ...), ("model.layers", "24"), ("methods.0.lossless", "yes"), ("methods.0.label", ...),
    ("methods.0.options", ...), ("methods", []), ("reference", None), ("environment.threads", 0),
    ("started_at", "today"),
    ("verdict", {"status": "GOOD", "reasons": []}), ("warnings", [{"name": "X"}]), ("totals.lines", -1),
    ("config", ...), ("config.repeats", {}), ("unknown", 1), ("error", ...),
]  # fmt: skip


@pytest.mark.parametrize(("place", "value"), LINE_FAULTS)
def test_a_faulty_line_does_not_fit(place: str, value: Any) -> None:
    line = next(lines_of(GOLDEN))
    assert wrong(LINE, line) == [] and wrong(LINE, changed(line, place, value))


@pytest.mark.parametrize(("place", "value"), RUN_FAULTS)
def test_a_faulty_run_does_not_fit(place: str, value: Any) -> None:
    meta = meta_of(GOLDEN)
    assert wrong(RUN, meta) == [] and wrong(RUN, changed(meta, place, value))


def test_a_failed_line_carries_nothing_measured(fake: SimpleNamespace) -> None:
    line = next(lines_of(GOLDEN))
    failed = fake.failed(line)
    assert wrong(LINE, failed) == []
    for name in ("token_ids", "text", "decode_s", "rounds"):
        assert wrong(LINE, {**failed, name: line[name]})


def test_a_run_that_ended_before_its_model_was_loaded_fits() -> None:
    meta = meta_of(GOLDEN) | {"model": {"id": "tiny"}, "methods": [{"label": "standard"}], "environment": {}}
    assert wrong(RUN, {**meta, "status": "error", "error": "no memory"}) == []
    assert wrong(RUN, {**meta, "status": "success"})


def command(*arguments: str) -> Any:
    return subprocess.run([sys.executable, "-m", "fastvlm_bench.records.schema", *arguments], cwd=ROOT,
                          capture_output=True, text=True, check=False)  # fmt: skip


def test_the_command_writes_both(tmp_path: Path) -> None:
    assert command(str(tmp_path)).returncode == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(FILES)
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (ROOT / "docs" / "schema" / name).read_bytes()


@pytest.mark.parametrize(("arguments", "said"), [(["nowhere"], "nowhere is not a folder"), ([], "give one folder")])
def test_a_wrong_folder_is_one_line(arguments: list[str], said: str) -> None:
    done = command(*arguments)
    assert done.returncode == 2 and said in done.stderr and len(done.stderr.splitlines()) == 1


def test_the_schema_asks_for_all_that_the_reader_asks_for(fake: SimpleNamespace, tmp_path: Path) -> None:
    fake.write("run", suites=[fake.suite(n=1)])
    meta = {key: value for key, value in meta_of(tmp_path / "run").items() if key not in ("seal", "sealed")}
    refused = []
    for name in meta:
        (tmp_path / "run" / "run.json").write_text(json.dumps(changed(meta, name, ...)))
        try:
            read_meta(tmp_path / "run")
        except BenchError:
            refused.append(name)
    assert refused and set(refused) <= set(run_schema()["required"])
