"""`--report-to` and the Hub's YAML: what arrives is what the rows say, in the real libraries, offline."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from huggingface_hub import eval_result_entries_to_yaml, parse_eval_result_entries
from typer.testing import CliRunner

from fastvlm_bench.analysis.summary import summarise
from fastvlm_bench.cli.app import app
from fastvlm_bench.errors import UsageError, WriteFailed
from fastvlm_bench.records.record import read_run
from fastvlm_bench.report import trackers
from fastvlm_bench.report.columns import row_dict
from fastvlm_bench.report.eval_results import eval_results

GOLDEN = Path(__file__).parent / "golden-v1"


def command(*words: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A process of its own: both libraries keep state and settings in theirs."""
    here = {**os.environ, **environment, "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.run([sys.executable, "-m", "fastvlm_bench", *words], cwd=folder, capture_output=True, text=True,
                          check=False, env=here)  # fmt: skip


def read(code: str, folder: Path, **environment: str) -> Any:
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True,
                          env={**os.environ, **environment})  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


READ_WANDB = """
import json, struct
from wandb.proto import wandb_internal_pb2 as pb

data, place, whole, name, summary, config = open({path!r}, "rb").read(), 7, b"", "", {{}}, {{}}
while place + 7 <= len(data):  # blocks of 32 KiB, as in LevelDB's log; a record may be in parts
    left = 32768 - place % 32768
    if left < 7:
        place += left
        continue
    _, size, kind = struct.unpack("<IHB", data[place : place + 7])
    whole += data[place + 7 : place + 7 + size]
    place += 7 + size
    if kind in (1, 4):
        record = pb.Record()
        record.ParseFromString(whole)
        whole = b""
        if record.HasField("summary"):
            summary |= {{"/".join(u.nested_key) or u.key: json.loads(u.value_json) for u in record.summary.update}}
        if record.HasField("run"):
            name = record.run.display_name
            config |= {{u.key: json.loads(u.value_json) for u in record.run.config.update}}
print(json.dumps([name, summary, config]))
"""
"""What an offline run of Weights & Biases has written: its name, summary and settings."""


def needs(name: str) -> None:
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not here: pip install -c constraints.txt -e '.[{name}]'")


@pytest.mark.slow
def test_mlflow_keeps_the_numbers_the_settings_and_the_tables(tmp_path: Path) -> None:
    needs("mlflow")
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true"}
    done = command("report", str(GOLDEN), "--report-to", "mlflow", folder=tmp_path, **quiet)
    assert done.returncode == 0, done.stderr
    told = read(
        "import json, mlflow\nmlflow.set_tracking_uri('file:mlruns')\nclient = mlflow.MlflowClient()\n"
        "(experiment,) = client.search_experiments(filter_string=\"name = 'fastvlm-bench'\")\n"
        "(run,) = client.search_runs([experiment.experiment_id])\n"
        "print(json.dumps([run.info.run_name, run.data.metrics, run.data.params, "
        "[f.path for f in client.list_artifacts(run.info.run_id)]]))",
        tmp_path, MLFLOW_ALLOW_FILE_STORE="true", **quiet,
    )  # fmt: skip
    golden = read_run(GOLDEN)
    name, values, parameters, files = told
    assert name == golden.run_id and values == pytest.approx(trackers.numbers(summarise(golden)))
    assert parameters["model.id"] == golden.meta["model"]["id"]
    assert sorted(files) == ["rows.csv", "run.json", "samples.csv", "summary.md"]


@pytest.mark.slow
def test_wandb_keeps_the_numbers_the_settings_and_the_tables(tmp_path: Path) -> None:
    needs("wandb")
    done = command("report", str(GOLDEN), "--report-to", "wandb", folder=tmp_path, WANDB_MODE="offline")
    assert done.returncode == 0, done.stderr
    (record,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    told = read(READ_WANDB.format(path=str(record)), tmp_path)
    golden = read_run(GOLDEN)
    name, summary, config = told
    assert name == golden.run_id and config["model"]["id"] == golden.meta["model"]["id"]
    expected = trackers.numbers(summarise(golden))
    assert {key: summary[key] for key in expected} == pytest.approx(expected)
    tables = sorted(path.name.split("_")[0] for path in record.parent.glob("files/media/table/*.table.json"))
    assert tables == ["rows", "samples"]


def test_every_number_arrives_under_a_name_that_both_take(fake: SimpleNamespace) -> None:
    labels = ("fastvlm:a=1", "fastvlm:a:1", "fastvlm:draft=/x/y")
    methods = [fake.method("standard"), *({**fake.method("fastvlm"), "label": label} for label in labels)]
    rows = summarise(fake.run(methods=methods))
    found = trackers.numbers(rows)
    counted = sum(isinstance(value, bool | int | float) for row in rows for value in row_dict(row).values())
    assert len(found) == counted, "labels that become alike must not overwrite each other"
    assert all(name.count("/") == 2 and not set(name) & set(":=,") for name in found)


def test_a_tracker_that_fails_costs_no_result(
    fake: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: Any) -> None:
        raise ConnectionError("no route to host\nsecond line")

    monkeypatch.setitem(trackers.TRACKERS, "wandb", broken)
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: object())
    with pytest.raises(WriteFailed, match="no route to host; the records are kept"):
        trackers.report_to("wandb", fake.run())
    (send,) = trackers.senders(["wandb"])
    send(fake.run())
    told = capsys.readouterr().err
    assert "no route to host" in told and "report run --report-to wandb" in told and told.count("\n") == 1


def test_trackers_are_checked_before_anything_is_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for words, said in ((["wanbd"], "did you mean 'wandb'"), (["mlflow"], "'fastvlm-bench[mlflow]'")):
        monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: None)
        with pytest.raises(UsageError) as refused:
            trackers.check_trackers(words)
        assert said in str(refused.value)
    result = CliRunner().invoke(app, ["run", "--report-to", "nowhere", "--out", str(tmp_path)])
    assert result.exit_code == 2 and not list(tmp_path.iterdir())


def test_the_hub_reads_the_yaml(fake: SimpleNamespace) -> None:
    run = fake.run()
    rows = summarise(run)
    entries = parse_eval_result_entries(yaml.safe_load(eval_results(run, rows, "owner/set@abc")))
    _, row = rows
    told = {entry.task_id: entry.value for entry in entries}
    assert told["coco-caption_bleu4"] == pytest.approx(100 * row.quality[0].value, rel=1e-5)  # type: ignore[operator]
    speedup = row.speedup.decode_speedup_geomean
    assert speedup is not None
    assert told["coco-caption_decode_speedup_geomean"] == pytest.approx(speedup.value, rel=1e-5)
    assert len(told) == len(entries) == len(row.quality) + 2
    assert {(entry.dataset_id, entry.dataset_revision) for entry in entries} == {("owner/set", "abc")}
    assert all("fastvlm against standard" in str(entry.notes) and run.run_id in str(entry.notes) for entry in entries)
    text = eval_results(run, rows, "owner/set", "standard")
    assert yaml.safe_load(text) == eval_result_entries_to_yaml(parse_eval_result_entries(yaml.safe_load(text)))
    assert "speedup" not in text


def test_both_have_the_verdict_of_the_records_and_the_failed_samples(
    fake: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not the one that was stored, which may be older than a rule, or than what was added to the records."""

    def change(line: dict[str, Any]) -> dict[str, Any]:
        bad = (line["method"], line["sample_id"]) == ("fastvlm", "001")
        return dict(fake.failed(line)) if bad else line

    stored = {"verdict": {"status": "VALID", "reasons": []}}
    for run, status in ((fake.run(change=change, meta=stored), "INVALID"), (fake.run(), "VALID")):
        rows = summarise(run)
        entries = parse_eval_result_entries(yaml.safe_load(eval_results(run, rows, "owner/set")))
        assert all(str(entry.notes).endswith(f", {status}") for entry in entries)
        assert all(("n=39 (1 of 40 failed)" in str(entry.notes)) == (status == "INVALID") for entry in entries)
        assert ("INVALID: coco-caption, fastvlm: 1 of 40" in capsys.readouterr().err) == (status == "INVALID")
        assert trackers.settings(run, rows)["verdict"] == status


@pytest.mark.parametrize("dataset", ["/", "a/", "/b", "a/b/c", "a b/c", "a/b@", "a/b\n", "a", "a/b@ x", "../x"])
def test_what_is_no_id_is_no_data_set(dataset: str, fake: SimpleNamespace) -> None:
    run = fake.run(suites=[fake.suite(n=2)])
    with pytest.raises(UsageError, match="--dataset OWNER/NAME"):
        eval_results(run, summarise(run), dataset)


def test_where_nothing_was_measured_there_is_nothing_to_publish(fake: SimpleNamespace) -> None:
    run = fake.run(change=fake.failed)
    with pytest.raises(UsageError, match="nothing was measured"):
        eval_results(run, summarise(run), "owner/set")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "--dataset OWNER/NAME"),
        (["--dataset", "nowhere"], "'nowhere'"),
        (["--dataset", "a/b", "--method", "fastvml"], "fastvlm"),
        (["--dataset", "a/b", str(GOLDEN)], "one run"),
    ],
)
def test_what_the_yaml_needs_is_said(words: list[str], said: str) -> None:
    done = CliRunner().invoke(app, ["export", str(GOLDEN), "--format", "eval-results", *words])
    assert done.exit_code == 2 and said in str(done.output) + str(done.exception)
    other = CliRunner().invoke(app, ["export", str(GOLDEN), "--dataset", "a/b"])
    assert other.exit_code == 2
