"""The package in Python: `fb.load_run`, `fb.run`, `fb.compare`; the notebook of docs/ is executed."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import fastvlm_bench as fb
from fastvlm_bench.errors import BenchError, IncompatibleRuns, UsageError
from fastvlm_bench.records.record import read_run

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).parent / "golden-v1"


def test_the_import_brings_nothing_heavy_and_reading_no_torch() -> None:
    heavy = ("torch", "transformers", "pandas", "numpy", "matplotlib", "jinja2")
    code = (
        "import sys\nimport fastvlm_bench as fb\n"
        f"assert not (found := [m for m in {heavy!r} if m in sys.modules]), found\n"
        f"run = fb.load_run({str(GOLDEN)!r})\n"
        "assert 'pandas' not in sys.modules\nlen(run.rows), len(run.samples), len(run.rounds), repr(run)\n"
        "assert 'torch' not in sys.modules\n"
        "assert {'load_run', 'run', 'compare', 'FastVLM'} <= set(dir(fb))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_rounds_are_those_of_the_record() -> None:
    loaded = fb.load_run(GOLDEN)
    lines = [line for line in read_run(GOLDEN).lines if line["error"] is None]
    told = loaded.rounds
    names = ["drafted", "tested", "accepted", "emitted", "draft_s", "verify_s"]
    assert told[names].to_numpy().tolist() == [list(map(float, r[:6])) for line in lines for r in line["rounds"]]
    for (sample, method, repeat), own in told.groupby(["sample_id", "method", "repeat"]):
        (line,) = [x for x in lines if (x["sample_id"], x["method"], x["repeat"]) == (sample, method, repeat)]
        assert own["round"].tolist() == list(range(len(line["rounds"])))
        assert own["first_token"].iloc[0] == 1
        assert own["first_token"].iloc[-1] + own["emitted"].iloc[-1] == len(line["token_ids"])
    assert {str(told[name].dtype) for name in ("draft_s", "verify_s")} == {"Float64"}
    assert {str(told[name].dtype) for name in ("round", "drafted", "repeat", "invocation")} == {"Int64"}
    assert {str(told[name].dtype) for name in ("sample_id", "method")} == {"string"}


def test_every_table_has_nullable_types(fake: SimpleNamespace) -> None:
    run = fb.LoadedRun(fake.run(change=lambda line: fake.failed(line) if line["sample_id"] == "003" else line))
    for table in (run.rows, run.samples, run.rounds):
        assert {str(dtype) for dtype in table.dtypes} <= {"string", "Int64", "Float64", "boolean"}
    assert run.samples[run.samples.sample_id == "003"].decode_s.isna().all()
    assert "003" not in set(run.rounds.sample_id)


def test_comparing_puts_runs_side_by_side(fake: SimpleNamespace) -> None:
    slow, fast = (fb.LoadedRun(fake.run(slower=slower, seed=seed)) for seed, slower in enumerate((2.0, 1.0)))
    found = fb.compare([slow, fast])
    assert len(found.rows) == len(slow.rows) + len(fast.rows)
    other = found.rows[found.rows.against.notna()]
    assert len(other) == 2 and (other.decode_speedup_over_first > 1.8).all()
    assert (other.decode_speedup_over_first_low < other.decode_speedup_over_first).all()
    assert (other.identical_with_first == other.compared_with_first).all()
    elsewhere = fb.LoadedRun(fake.run(meta={"model": {"dtype": "bfloat16"}}))
    with pytest.raises(IncompatibleRuns, match="bfloat16"):
        fb.compare([slow, elsewhere])
    assert any("bfloat16" in text for text in fb.compare([slow, elsewhere], force=True).notes)


def test_run_measures_and_returns_the_same_kind(tmp_path: Path) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    run = fb.run(suite="coco-caption", methods="fastvlm:gamma=4", limit=2, warmup=0, threads=1, out=str(tmp_path),
                 max_new_tokens=4, engine="eager", quiet=True)  # fmt: skip
    assert run.rows.method.tolist() == ["standard", "fastvlm:gamma=4"] and len(run.samples) == 4
    assert run.folder.parent == tmp_path and fb.load_run(run.folder).rows.equals(run.rows)
    (command,) = run.record.meta["command"]
    assert command.startswith("fastvlm_bench.run(suite='coco-caption'") and "limit=2" in command
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"limits": 3}, ["limits", "did you mean", "limit"]),
        ({"suite": "coco"}, ["coco"]),
        ({"methods": ["fastvml"]}, ["fastvml", "fastvlm"]),
        ({"json": True}, ["json"]),
        ({"limit": 0}, ["limit"]),
    ],
)
def test_bad_input_is_one_line(options: dict[str, Any], words: list[str], tmp_path: Path) -> None:
    with pytest.raises(UsageError) as refused:
        fb.run(out=str(tmp_path), **options)
    assert all(word in str(refused.value) for word in words) and "\n" not in str(refused.value)


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="not a run folder"):
        fb.load_run(tmp_path)


@pytest.mark.slow
def test_the_notebook_runs_and_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    notebook = nbformat.read(ROOT / "docs" / "reference-runs.ipynb", as_version=4)
    nbformat.validate(notebook)
    assert not any(cell.get("outputs") for cell in notebook.cells), "outputs are not committed: they would go stale"
    nbclient.NotebookClient(notebook, timeout=120, resources={"metadata": {"path": ROOT / "docs"}}).execute()
    drawn = [output for cell in notebook.cells for output in cell.get("outputs", [])
             if "image/png" in output.get("data", {})]  # fmt: skip
    assert len(drawn) == 2 and "fastvlm" in json.dumps(notebook.cells[3].outputs)
