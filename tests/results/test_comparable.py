"""`compare` without arguments: which runs it shows, which it leaves out, and what it says about them."""

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from fastvlm_bench.analysis.comparable import SHOWN, Comparable, compare_newest, find_comparable
from fastvlm_bench.cli.app import app
from fastvlm_bench.errors import UsageError
from fastvlm_bench.report.compare import print_comparison

pytestmark = pytest.mark.usefixtures("quick_bounds")

ROOT = Path(__file__).parents[2]
Write = Callable[..., None]


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return tmp_path / "results"


@pytest.fixture
def write(fake: SimpleNamespace) -> Write:
    """Writes a run of one suite, measured on a day of January."""

    def write(name: str, day: int, suite: str = "coco-caption", **meta: Any) -> None:
        own = {"run_id": Path(name).name, "started_at": f"2026-01-{day:02d}T00:00:00Z", **meta}
        fake.write(f"results/{name}", suites=[fake.suite(suite, n=3, metrics=[])], meta=own)

    return write


def ids(found: Comparable) -> list[str]:
    return [run.run_id for run in found.runs]


def test_the_newest_two_among_others(write: Write, results: Path) -> None:
    write("oldest", 1)
    write("other", 5, model={"dtype": "bfloat16"})
    write("new", 7)
    write("elsewhere", 9, environment={"cpu": "Other"})
    found = find_comparable(results)
    assert (ids(found), found.of_suites) == (["new", "oldest"], False)
    assert found.left_out == (
        "elsewhere: differs from new in cpu: Example CPU / Other",
        "other: differs from new in model dtype: float32 / bfloat16",
    )


def test_a_sweep_is_left_out_with_the_command_that_shows_it(write: Write, results: Path) -> None:
    write("a", 1)
    write("b", 2)
    for size in (1, 2, 4):
        write(f"sweep/size-{size}", 3 + size, config={"batch_size": size})
    found = find_comparable(results)
    assert ids(found) == ["b", "a"]
    assert found.left_out == (
        f"sweep: a sweep over batch sizes, which `fastvlm-bench batches {results / 'sweep'}` shows",
    )


def test_runs_in_a_folder_of_their_own_are_runs(write: Write, results: Path) -> None:
    write("a", 1)
    write("mine/b", 2)
    assert ids(find_comparable(results)) == ["b", "a"]


def test_runs_of_different_suites_stand_side_by_side_where_nothing_else_fits(write: Write, results: Path) -> None:
    write("captions", 1)
    write("questions", 2, suite="vqav2")
    write("half", 3, suite="pope", model={"dtype": "float16"})
    found = find_comparable(results)
    assert (ids(found), found.of_suites) == (["questions", "captions"], True)
    assert found.left_out == ("half: differs from questions in model dtype: float32 / float16",)
    shown = compare_newest(results)
    assert [(row.row.suite, row.run, row.against) for row in shown.rows] == [
        ("vqav2", 0, ""), ("vqav2", 0, ""), ("coco-caption", 1, ""), ("coco-caption", 1, "")
    ]  # fmt: skip


def test_the_same_suites_go_before_different_ones(write: Write, results: Path) -> None:
    write("a", 1)
    write("b", 2)
    write("questions", 3, suite="vqav2")
    found = find_comparable(results)
    assert (ids(found), found.of_suites) == (["b", "a"], False)
    assert found.left_out[0].startswith("questions: differs from b in suites: coco-caption / vqav2")


def test_a_suite_of_other_samples_does_not_join_a_set_of_suites(
    write: Write, results: Path, fake: SimpleNamespace
) -> None:
    write("captions", 2)
    write("questions", 3, suite="vqav2")
    fake.write("results/longer", suites=[fake.suite(n=4, metrics=[])],
               meta={"run_id": "longer", "started_at": "2026-01-01T00:00:00Z"})  # fmt: skip
    found = find_comparable(results)
    assert ids(found) == ["questions", "captions"]
    assert found.left_out[0].startswith("longer: differs from captions in coco-caption samples: 3 (")


def damage_samples(folder: Path) -> None:
    (folder / "samples.jsonl").write_bytes(b"nonsense\n")


def remove_samples(folder: Path) -> None:
    (folder / "samples.jsonl").unlink()


def empty_samples(folder: Path) -> None:
    (folder / "samples.jsonl").write_bytes(b"")


def damage_run(folder: Path) -> None:
    (folder / "run.json").write_bytes(b"{")


def strip_suite(folder: Path) -> None:
    meta = json.loads((folder / "run.json").read_bytes())
    del meta["suites"][0]["sha256"], meta["seal"], meta["sealed"]
    (folder / "run.json").write_text(json.dumps(meta))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (damage_samples, "line 1 is corrupt"),
        (remove_samples, "samples.jsonl is gone"),
        (empty_samples, "it has 0 lines, and run.json sealed"),
        (damage_run, "is not JSON"),
        (strip_suite, "its run.json is damaged (KeyError: 'sha256')"),
    ],
)
def test_a_damaged_run_is_left_out_and_named(
    write: Write, results: Path, damage: Callable[[Path], None], said: str
) -> None:
    for day, name in enumerate(("a", "b", "newest"), start=1):
        write(name, day)
    damage(results / "newest")
    found = find_comparable(results)
    assert ids(found) == ["b", "a"]
    (sentence,) = found.left_out
    assert sentence.startswith("newest: ") and said in sentence


def test_many_left_out_are_counted(write: Write, results: Path) -> None:
    write("a", 1)
    write("b", 2)
    for number in range(SHOWN + 2):
        write(f"same-{number:02d}", 3 + number, environment={"cpu": "Other", "gpu": f"GPU {number}"})
    found = find_comparable(results)
    assert len(found.left_out) == SHOWN + 1 and found.left_out[-1] == "2 more runs"


def test_a_reason_of_several_runs_is_said_once(write: Write, results: Path) -> None:
    write("x", 1, model={"dtype": "float16"})
    write("y", 2, model={"dtype": "float16"})
    write("a", 3)
    write("b", 4)
    found = find_comparable(results)
    assert ids(found) == ["b", "a"]
    assert found.left_out == ("y, x: differs from b in model dtype: float32 / float16",)


def one_run(write: Write) -> None:
    write("only", 1)


def one_run_and_a_sweep(write: Write) -> None:
    write("only", 1)
    write("sweep/one", 2, config={"batch_size": 1})
    write("sweep/two", 2, config={"batch_size": 2})


def a_sweep(write: Write) -> None:
    write("sweep/one", 2, config={"batch_size": 1})
    write("sweep/two", 2, config={"batch_size": 2})


def two_models(write: Write) -> None:
    write("first", 1)
    write("second", 2, model={"weights_sha256": "cd" * 32})


@pytest.mark.parametrize(
    ("prepare", "said"),
    [
        (lambda write: None, ["has no run to compare;", "fastvlm-bench run"]),
        (one_run, ["only one run to compare, only;", "fastvlm-bench report"]),
        (one_run_and_a_sweep, ["only one run to compare, only (left out: sweep: ", "fastvlm-bench batches"]),
        (a_sweep, ["has no run to compare (left out: sweep: ", "fastvlm-bench batches"]),
        (two_models, ["no two of the 2 runs", "newest, second, and first differ in model weights_sha256: cdcdcdcd /",
                      "--force"]),
    ],
)  # fmt: skip
def test_nothing_to_compare_is_one_line_with_the_remedy(
    write: Write, results: Path, prepare: Callable[[Write], None], said: list[str]
) -> None:
    prepare(write)
    with pytest.raises(UsageError) as caught:
        find_comparable(results)
    assert all(piece in str(caught.value) for piece in said), str(caught.value)
    assert "\n" not in str(caught.value)
    result = CliRunner().invoke(app, ["compare", "--results", str(results)])
    assert result.exit_code == 2 and result.stderr == f"fastvlm-bench: {caught.value}\n"


@pytest.mark.parametrize("width", [80, 120])
def test_a_fresh_clone_has_something_to_show(tmp_path: Path, width: int) -> None:
    """Of the committed results the newest ones that fit: three suites of one model and machine."""
    for run in (ROOT / "results").glob("2026*/**/run.json"):
        copied = tmp_path / "results" / run.parent.relative_to(ROOT / "results")
        copied.mkdir(parents=True)
        meta = json.loads(run.read_bytes())
        for suite in meta["suites"]:  # a few samples of each are as good, and sooner read
            suite["samples"] = suite["samples"][:3]
        meta["totals"] = {}
        for of_the_whole in ("sealed", "seal"):
            meta.pop(of_the_whole, None)
        (copied / "run.json").write_text(json.dumps(meta))
        with open(run.with_name("samples.jsonl"), "rb") as lines:
            (copied / "samples.jsonl").write_bytes(b"".join(next(lines) for _ in range(3 * len(meta["methods"]))))
    shutil.copytree(ROOT / "results" / "ablation", tmp_path / "results" / "ablation")
    stream = io.StringIO()
    found = compare_newest(tmp_path / "results")
    print_comparison(found, Console(width=width, file=stream, _environ={}))
    text = stream.getvalue()
    words = " ".join(text.split())
    assert max(map(len, text.splitlines())) <= width and "…" not in text
    assert "of different suites" in words and "FORCED" not in words
    suites = [(suite["name"], suite["version"]) for run in found.runs for suite in run.meta["suites"]]
    assert len(suites) == len(set(suites)) == 3
    assert all(f"{name} {version} · split embedded" in words for name, version in suites)
    assert "fastvlm-bench batches" in words and "left out: ablation/" in words
    assert "vs A" not in words and "Δ A" not in words
