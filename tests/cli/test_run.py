"""`run` on the embedded model, as a stranger would use it; what it records, and going on after an interruption."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from forked import Child
from transformers import AutoModelForImageTextToText, AutoProcessor
from typer.testing import CliRunner

from fastvlm_bench.cli.app import app
from fastvlm_bench.drafts.manifest import read_manifests
from fastvlm_bench.measuring import bench, williams
from fastvlm_bench.models.names import TINY
from fastvlm_bench.records.record import Run, read_run
from fastvlm_bench.report.one_screen import short_labels
from fastvlm_bench.suites.suite import load_suite, open_image

FEW = ("run", "--limit", "4", "--threads", "1", "--warmup", "1")
BRIEF = (*FEW, "--suite", "coco-caption", "--limit", "2", "--warmup", "0")
MANY = ("run", "--limit", "40", "--threads", "1", "--max-new-tokens", "8")


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One run of methods of each kind on two suites, through the command line."""
    out = tmp_path_factory.mktemp("results")
    arguments = [
        *FEW, "--limit", "2", "--warmup", "0", "--max-new-tokens", "8", "--suite", "coco-caption", "--suite", "vqav2",
        "--out", str(out), "--csv", str(out / "table.csv"),
    ]  # fmt: skip
    for method in ("fastvlm", "fastvlm:head=mlp", "layerskip", "early-exit", "hf-generate"):
        arguments += ["--method", method]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False, env={"COLUMNS": "100"})
    assert result.exit_code == 0, result.output
    return result, out, read_run(next(out.glob("*/run.json")).parent)


def test_table(ran: Any) -> None:
    result, _, run = ran
    assert "2/2" in result.stdout and "embedded (rendered scenes)" in result.stdout
    lines = [line for line in result.stdout.splitlines() if not line.startswith("records: ")]  # a path is not broken
    assert max(map(len, lines)) <= 100
    for label in short_labels([method["label"] for method in run.meta["methods"]]):
        assert label in result.stdout


def test_record(ran: Any) -> None:
    _, _, run = ran
    assert run.meta["status"] == "success" and run.meta["verdict"]["status"] in ("VALID", "INVALID")
    assert len(run.lines) == 2 * 2 * 6 and not any(line["error"] for line in run.lines)
    assert run.meta["model"]["weights_sha256"] and run.meta["environment"]["threads"] == 1
    by_key: dict[tuple[str, str], dict[str, list[int]]] = {}
    for line in run.lines:
        by_key.setdefault((line["suite"], line["sample_id"]), {})[line["method"]] = line["token_ids"]
    for tokens in by_key.values():
        for method in ("fastvlm", "fastvlm:head=mlp", "layerskip", "hf-generate"):
            assert tokens[method] == tokens["standard"]


def test_orders_are_those_of_the_design(ran: Any) -> None:
    _, _, run = ran
    check_orders(run)


def check_orders(run: Run) -> None:
    """The recorded places are those that seed, suite and number of the sample give, whatever happened in between."""
    labels = [method["label"] for method in run.meta["methods"]]
    assert run.meta["order"] == williams.NAME
    for suite in run.meta["suites"]:
        for number, sample in enumerate(suite["samples"]):
            own = [x for x in run.lines if (x["suite"], x["sample_id"]) == (suite["name"], sample["sample_id"])]
            for repeat in {line["repeat"] for line in own}:
                turn = sorted((line["order"], line["method"]) for line in own if line["repeat"] == repeat)
                places = williams.order(len(labels), number, run.meta["config"]["seed"], suite["name"], repeat)
                assert [label for _, label in turn] == [labels[i] for i in places]


def test_plain_transformers_gives_the_recorded_tokens(ran: Any) -> None:
    """The checkpoint loads without any code of ours, and plain `generate` gives the very token ids of the records."""
    _, _, run = ran
    processor = AutoProcessor.from_pretrained(TINY)
    model = AutoModelForImageTextToText.from_pretrained(TINY, dtype=torch.float32).eval()
    for suite in run.meta["suites"]:
        for sample in load_suite(suite["name"], limit=2).samples:
            chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": sample.prompt}]}]
            text = processor.apply_chat_template(chat, add_generation_prompt=True)
            inputs = processor(text=text, images=open_image(sample), return_tensors="pt")
            ids = model.generate(**inputs, max_new_tokens=suite["max_new_tokens"], do_sample=False)
            new = ids[0, inputs["input_ids"].shape[1] :].tolist()
            for line in run.lines:
                if (line["suite"], line["sample_id"]) == (suite["name"], sample.sample_id) and line[
                    "method"
                ] != "early-exit":
                    assert line["token_ids"] == new


def test_custom_generate_for_users() -> None:
    """README: `model.generate(**inputs, custom_generate=FastVLM.from_pretrained(draft))`."""
    given: dict[str, Any] = {"max_new_tokens": 8, "do_sample": False}
    from fastvlm_bench import FastVLM
    from fastvlm_bench.models.load import load_target
    from fastvlm_bench.models.names import TINY_DRAFTS

    target = load_target("tiny", device="cpu")
    sample = load_suite("describe", limit=1).samples[0]
    inputs = target.encode(open_image(sample), sample.prompt)
    plain = target.model.generate(**inputs, **given)
    for folder in (folder for folder, told in read_manifests(TINY_DRAFTS).items() if told.head != "medusa"):
        method = FastVLM.from_pretrained(folder, gamma=5)
        assert torch.equal(plain, target.model.generate(**inputs, **given, custom_generate=method))


def test_csv_and_exports(ran: Any, call: Callable[..., Any]) -> None:
    _, out, run = ran
    assert len((out / "table.csv").read_text().splitlines()) == 1 + 2 * 6
    assert len((out / "table-samples.csv").read_text().splitlines()) >= 1 + 2 * 2 * 6
    for kind, piece in (
        ("csv", "decode_speedup_geomean"),
        ("latex", "\\toprule"),
        ("markdown", "| "),
        ("json", '"rows"'),
    ):
        result = call("export", run.folder, "--format", kind)
        assert result.exit_code == 0 and piece in result.stdout
    assert "2/2" in call("report", run.folder).stdout


def test_json_prints_only_json(call: Callable[..., Any], tmp_path: Path) -> None:
    result = call(*BRIEF, "--limit", "1", "--warmup", "1", "--max-new-tokens", "4", "--json", "--out", tmp_path)
    assert result.exit_code == 0 and result.stderr == ""
    found = json.loads(result.stdout)
    assert {row["method"] for row in found["rows"]} == {"standard", "fastvlm"}


@pytest.mark.slow
def test_compare(ran: Any, call: Callable[..., Any], tmp_path: Path) -> None:
    _, _, run = ran
    for gamma in ("2", "4"):
        assert call(*BRIEF, "--max-new-tokens", "4", "--gamma", gamma, "--out", tmp_path).exit_code == 0
    result = call("compare", "--results", tmp_path)
    assert result.exit_code == 0, result.output
    other = call(*BRIEF, "--max-new-tokens", "5", "--out", tmp_path / "other")
    assert other.exit_code == 0
    folders = [next((tmp_path / "other").glob("*/run.json")).parent, next(tmp_path.glob("*/run.json")).parent]
    result = call("compare", *folders)
    assert result.exit_code == 4 and "max_new_tokens" in result.stderr and "5" in result.stderr
    assert call("compare", "--force", *folders).exit_code == 0


def test_resume_refuses_another_configuration(ran: Any, refused: Callable[..., str]) -> None:
    _, out, run = ran
    line = refused(*FEW, "--out", out, "--resume", run.folder, "--gamma", "3")
    assert "gamma" in line and "another configuration" in line


def begun(out: Path, *options: str) -> tuple["subprocess.Popen[str]", Path]:
    """A run in a process of its own that has recorded three samples and goes on; its folder."""
    process = subprocess.Popen(
        [sys.executable, "-m", "fastvlm_bench.cli.app", *MANY, "--out", str(out), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "100"},
    )
    return process, three_samples(out, lambda: process.poll() is None)


def three_samples(out: Path, goes_on: Callable[[], bool]) -> Path:
    """The folder of a run by two methods, once its record holds three samples."""
    while not (lines := [p for p in out.glob("*/samples.jsonl") if p.read_text().count("\n") >= 6]):
        if not goes_on():
            said = " ".join(path.read_text(encoding="utf-8") for path in sorted(out.parent.glob("std*.txt")))
            pytest.fail(f"the run ended early: {' '.join(said.split())[-400:]}")
        time.sleep(0.02)
    return lines[0].parent


@pytest.mark.slow
@pytest.mark.parametrize("wait_s", [0.0, 0.05, 0.4])
def test_interrupted_twice(tmp_path: Path, wait_s: float, call: Callable[..., Any]) -> None:
    """A second Ctrl-C while the first is being answered ends at once; what was measured is there all the same."""
    process, folder = begun(tmp_path)
    process.send_signal(signal.SIGINT)
    time.sleep(wait_s)
    process.send_signal(signal.SIGINT)
    stderr = process.communicate(timeout=60)[1]
    assert process.returncode == 130 and "Traceback" not in stderr, stderr
    before = (folder / "samples.jsonl").read_text()
    assert before.count("\n") >= 6
    result = call(*MANY, "--out", tmp_path, "--resume", folder)
    assert result.exit_code == 0, result.output
    assert (folder / "samples.jsonl").read_text().startswith(before) and len(read_run(folder).lines) == 80


@pytest.mark.slow  # test_kept_work.py has signals, and test_sweep.py a run that goes on, in the default run
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_then_resumed(
    tmp_path: Path, number: int, code: int, call: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C keeps all finished samples and prints the partial table; --resume measures the rest.

    The run waits within its fourth sample for the signal, however busy the machine is.
    """
    out, own = tmp_path / "results", bench.measure
    arguments = ["run", "--limit", "5", "--threads", "1", "--warmup", "0", "--max-new-tokens", "6", "--out", str(out)]

    def waits(*given: Any, **options: Any) -> Any:
        if any(path.read_text().count("\n") >= 6 for path in out.glob("*/samples.jsonl")):
            time.sleep(600)
        return own(*given, **options)

    monkeypatch.setattr(bench, "measure", waits)
    monkeypatch.setenv("COLUMNS", "100")
    with Child(lambda: app(arguments), tmp_path) as child:
        folder = three_samples(out, child.goes_on)
        child.signal(number)
        ended, stdout, stderr = child.wait()
    assert ended == code, stderr
    run = read_run(folder)
    assert run.meta["status"] == "interrupted" and len(run.lines) == 6
    assert "Traceback" not in stderr and f"--resume {folder}" in stderr
    assert "interrupted" in stdout and "coco-caption" in stdout
    monkeypatch.setattr(bench, "measure", own)
    result = call(*arguments, "--resume", folder)
    assert result.exit_code == 0, result.output
    whole = read_run(folder)
    assert whole.meta["status"] == "success" and len(whole.lines) == 10
    check_orders(whole)
    assert whole.lines[: len(run.lines)] == run.lines
