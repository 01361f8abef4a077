"""CONTRIBUTING's recipe, followed to the letter: a method and a metric of one file each, used without another edit."""

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fastvlm_bench.method_spec import METHODS
from fastvlm_bench.metrics import METRICS
from fastvlm_bench.records.record import Run, read_run

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), flags=re.S)
FILES = dict(zip(("lookup.py", "words.py"), BLOCKS, strict=True))
FEW = ("run", "--threads", "1", "--warmup", "0", "--limit", "2", "--max-new-tokens", "16", "--quiet")


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Path]:
    """A folder with both files of the recipe. Afterwards the tool knows nothing of them."""
    folder = tmp_path / "mine"
    folder.mkdir()
    for name, text in FILES.items():
        (folder / name).write_text(text, encoding="utf-8")
    yield folder
    for kind in (METHODS, METRICS):
        kind._added.clear()


def only(folder: Path) -> Run:
    return read_run(next(folder.glob("*/run.json")).parent)


def test_both_are_found_in_every_command(
    call: Callable[..., Any], own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASTVLM_BENCH_PLUGINS", str(own))
    assert "drafts what followed the last token before" in call("methods").stdout
    assert re.search(r"^words +words: words of an answer \(words, lower is better\)$", call("metrics").stdout, re.M)
    result = call(*FEW, "-m", "lookup:gamma=4", "--metric", "words", "--details", "--out", tmp_path / "results")
    assert result.exit_code == 0, result.output
    run = only(tmp_path / "results")
    assert {line["method"] for line in run.lines} == {"standard", "lookup:gamma=4"}
    assert run.meta["methods"][1]["name"] == "lookup" and run.meta["methods"][1]["options"] == {"gamma": 4}
    assert sum(r[0] for line in run.lines for r in line["rounds"]) > 0, "nothing was drafted"
    by = {(line["sample_id"], line["method"]): line["token_ids"] for line in run.lines}
    assert all(ids == by[sample, "standard"] for (sample, _), ids in by.items())
    assert run.meta["suites"][0]["metrics"][-1] == "words" and "words ↓" in result.stdout
    assert "words ↓" in call("report", "--details", run.folder).stdout
    (_, row) = csv.DictReader(io.StringIO(call("export", run.folder).stdout))
    texts = [line["text"] for line in run.lines if line["method"] == "lookup:gamma=4"]
    assert float(row["quality_words"]) == sum(len(text.split()) for text in texts) / len(texts)
    samples = list(csv.DictReader(io.StringIO(call("export", run.folder, "-f", "samples-csv").stdout)))
    assert float(samples[0]["score_words"]) == len(samples[0]["text"].split())
    for form in ("latex", "markdown"):
        assert "words (words)" in call("export", run.folder, "-f", form).stdout
    monkeypatch.delenv("FASTVLM_BENCH_PLUGINS")
    without = call("report", "--details", run.folder)
    assert without.exit_code == 0 and "unknown metric 'words'" in " ".join(without.stdout.split())


@pytest.mark.slow
def test_both_by_their_paths_in_batches_too(call: Callable[..., Any], own: Path, tmp_path: Path) -> None:
    label, out = f"{own / 'lookup.py'}:gamma=3", tmp_path / "results"
    options = (*FEW, "-m", label, "--metric", own / "words.py", "--batch-size", "3", "--out", out)
    assert call(*options).exit_code == 0
    run = only(out)
    assert run.meta["methods"][1]["name"] == "lookup" and len(run.meta["methods"][1]["file_sha256"]) == 64
    by = {(line["sample_id"], line["method"]): line["token_ids"] for line in run.lines}
    assert all(ids == by[sample, "standard"] for (sample, _), ids in by.items())
    assert call(*options, "--resume", run.folder).exit_code == 0


def test_less_is_better(own: Path, fake_texts: tuple[list[str], list[str]]) -> None:
    """The verdict follows the metric's direction."""
    from fastvlm_bench.analysis.quality import difference

    name = METRICS.add(own / "words.py")
    short, long = fake_texts
    described = {"samples": [{"references": ["x"]}] * len(short)}
    references, images = [["x"]] * len(short), [str(i) for i in range(len(short))]
    assert difference(name, described, short, long, references, images).verdict == "better"
    assert difference(name, described, long, short, references, images).verdict == "worse"


@pytest.fixture
def fake_texts() -> tuple[list[str], list[str]]:
    return [" ".join(["a"] * (2 + i % 3)) for i in range(40)], [" ".join(["a"] * (5 + i % 4)) for i in range(40)]


def test_score_takes_a_further_metric(call: Callable[..., Any], own: Path, tmp_path: Path) -> None:
    annotations, predictions = tmp_path / "a.json", tmp_path / "p.json"
    annotations.write_text(json.dumps({"images": [{"id": 1, "file_name": "1.jpg"}, {"id": 2, "file_name": "2.jpg"}],
                                       "annotations": [{"id": i, "image_id": i, "caption": "a red dog"}
                                                       for i in (1, 2)]}))  # fmt: skip
    predictions.write_text(json.dumps([{"image_id": 1, "caption": "a dog"}, {"image_id": 2, "caption": "a red dog x"}]))
    result = call("score", "--suite", "coco-caption", "--annotations", annotations, "--predictions", predictions,
                  "--metric", own / "words.py", "--json")  # fmt: skip
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["metrics"]["words"] == 3.0


@pytest.mark.parametrize(("words", "says"), [
    (("-m", "lokup"), "unknown method 'lokup': one of standard, "),
    (("--metric", "wrods"), "unknown metric 'wrods': one of anls, "),
    (("-m", "nothing.py"), "there is no file nothing.py; name a file of a method, or one of standard"),
    (("--metric", str(ROOT / "fastvlm_bench" / "metrics" / "ptb_tokenizer.py")), "declares no metric"),
])  # fmt: skip
def test_unknown_names_are_refused(refused: Callable[..., str], words: tuple[str, ...], says: str) -> None:
    assert says in refused("run", *words)


def test_a_name_that_is_taken(refused: Callable[..., str], own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (own / "fastvlm.py").write_text(FILES["lookup.py"])
    assert "there is a method 'fastvlm' already" in refused("run", "-m", own / "fastvlm.py")
    monkeypatch.setenv("FASTVLM_BENCH_PLUGINS", str(own))
    assert "there is a method 'fastvlm' already" in refused("methods")
    monkeypatch.setenv("FASTVLM_BENCH_PLUGINS", str(own / "nothing"))
    assert "FASTVLM_BENCH_PLUGINS is" in refused("methods")


CHECKS = ("test_documentation.py", "results/test_export.py", "metrics/test_metric_names.py",
          "config/test_method_spec.py")  # fmt: skip
NAMES = ("described or names_its_files or documented or names_and_labels or canonical_form or refusals or "
         "group_stands or bad_input or tree")  # fmt: skip


@pytest.mark.slow
def test_in_the_package_the_checks_of_the_documentation_pass_without_another_edit(own: Path, tmp_path: Path) -> None:
    """A copy of the package gets both files, and nothing else."""
    copy = tmp_path / "copy"
    shutil.copytree(ROOT / "fastvlm_bench", copy / "fastvlm_bench",
                    ignore=shutil.ignore_patterns("checkpoint", "__pycache__", "*.safetensors"))  # fmt: skip
    for name in ("docs", "tests"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in (*ROOT.glob("*.md"), ROOT / "pyproject.toml", ROOT / "Makefile", ROOT / "LICENSE"):
        shutil.copy(path, copy)
    for name in ("suites", "results"):
        (copy / name).symlink_to(ROOT / name)
    shutil.copy(own / "lookup.py", copy / "fastvlm_bench" / "decoding")
    shutil.copy(own / "words.py", copy / "fastvlm_bench" / "metrics")
    checks = [str(copy / "tests" / name) for name in CHECKS]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-rN", "-k", NAMES, *checks]
    done = subprocess.run(command, cwd=copy, env={**os.environ, "PYTHONPATH": str(copy)}, capture_output=True,
                          text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    listed = subprocess.run([sys.executable, "-m", "fastvlm_bench", "methods"], cwd=copy, capture_output=True,
                            env={**os.environ, "PYTHONPATH": str(copy)}, text=True, check=True).stdout  # fmt: skip
    assert re.search(r"^  lookup +drafts what followed", listed, re.M)
