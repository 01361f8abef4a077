"""Exports are read back with the readers that people use, and every column is documented."""

import csv
import dataclasses
import io
import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas
import pytest

from fastvlm_bench import metrics
from fastvlm_bench.analysis.summary import Row, summarise
from fastvlm_bench.errors import UsageError
from fastvlm_bench.report.columns import SOURCES, columns, row_dict
from fastvlm_bench.report.export import (
    FORMATS,
    export_runs,
    rows_csv,
    rows_latex,
    rows_markdown,
    run_json,
    run_markdown,
    save,
)
from fastvlm_bench.report.sample_export import SAMPLE_COLUMNS, samples_csv

ROOT = Path(__file__).parents[2]
TEXTS = (
    "None", "n/a", "null", "=1+1", 'say "hi", twice', "two\nlines", "cr\rhere", "crlf\r\nhere", " space ",
    "é 日本 😀",
)  # fmt: skip


def read(path: Path) -> pandas.DataFrame:
    return pandas.read_csv(path, dtype=str, keep_default_na=False, lineterminator="\n")


def test_every_column_is_documented() -> None:
    text = (ROOT / "docs" / "measuring.md").read_text("utf-8")
    rows, samples = text.split("### Rows")[1].split("### Samples")
    documented = set(re.findall(r"`([\w<>]+)`", rows))
    for metric, kind in metrics.METRICS.items():
        parts = [name.replace("@", "_at_") for name in kind.parts]
        own = {name.replace("<metric>", metric) for name in documented if "<metric>" in name}
        documented |= own | {name.replace("<part>", part) for name in own for part in parts}
    names = [column.name for column in columns()]
    assert [name for name in names if name not in documented] == []
    assert len(set(names)) == len(names)
    table = {
        cell
        for line in rows.splitlines()
        if line.startswith("| `")
        for cell in re.findall(r"`(\w+)`", line.split("|")[1])
    }
    assert table - set(names) == set()
    documented = set(re.findall(r"`([\w<>]+)`", samples))
    assert [name for name in SAMPLE_COLUMNS if name not in documented] == []


def test_every_field_of_a_row_is_a_column_and_its_group_stands_in_the_file_of_its_name() -> None:
    found: list[str] = []
    for field in dataclasses.fields(Row):
        kind: Any = field.type
        if dataclasses.is_dataclass(kind):
            assert kind.__module__ == f"fastvlm_bench.analysis.{field.name}"
            found += [f"{field.name}.{own.name}" for own in dataclasses.fields(kind)]
        else:
            found.append(field.name)
    derived = {"speedup.decode_speedup_verdict", "speedup.e2e_speedup_verdict"}
    assert sorted(SOURCES) == sorted({*found, *derived})


def test_rows_survive_pandas(fake: SimpleNamespace, tmp_path: Path) -> None:
    rows = summarise(fake.run(suites=[fake.suite(n=6, source='a, "b"\nc'), fake.suite("vqa-v2", n=6)]))
    save(tmp_path / "rows.csv", rows_csv(rows))
    frame = read(tmp_path / "rows.csv")
    assert list(frame.columns) == [column.name for column in columns()]
    assert list(frame["source"]) == ['a, "b"\nc'] * 2 + ["embedded (rendered scenes)"] * 2
    assert rows[1].speedup.decode_speedup_geomean is not None
    assert float(frame["decode_speedup_geomean"][1]) == rows[1].speedup.decode_speedup_geomean.value
    assert float(frame["decode_speedup_geomean_low"][1]) == rows[1].speedup.decode_speedup_geomean.low
    assert list(frame["lossless"]) == ["true"] * 4
    accepted = [float(share) for share in frame["acceptance_by_position"][1].split(";")]
    assert accepted == list(rows[1].acceptance.acceptance_by_position)
    assert frame["quality_vqa_accuracy"][0] == "" and frame["quality_vqa_accuracy"][2] != ""
    assert frame["decode_speedup_geomean"][0] == "" and frame["identical"][1] == "6"
    assert frame["quality_bleu4_delta"][1] == "0.0" and frame["quality_bleu4_verdict"][1] == "identical"


def test_samples_survive_pandas_and_csv(fake: SimpleNamespace, tmp_path: Path) -> None:
    def change(line: dict[str, Any]) -> dict[str, Any]:
        return {**line, "text": TEXTS[int(line["sample_id"])]}

    run = fake.run(suites=[fake.suite(n=len(TEXTS))], change=change)
    text = samples_csv(run)
    save(tmp_path / "samples.csv", text)
    assert (tmp_path / "samples.csv").read_bytes() == text.encode("utf-8")
    frame = read(tmp_path / "samples.csv")
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert list(frame["text"]) == [row["text"] for row in rows] == [text for text in TEXTS for _ in range(2)]
    assert list(frame["sample_id"][:3]) == ["000", "000", "001"]
    assert list(frame.columns) == [*SAMPLE_COLUMNS, *(f"score_{metric}" for metric in metrics.names())]
    line = run.lines[1]
    row = rows[1]
    assert (row["method"], row["repeat"], row["identical"], row["error"]) == ("fastvlm", "0", "true", "")
    assert row["token_ids"].split() == [str(token) for token in line["token_ids"]]
    assert float(row["e2e_s"]) == line["ttft_s"] + line["decode_s"]
    assert int(row["emitted"]) == int(row["tokens"]) - 1 == len(line["token_ids"]) - 1
    assert int(row["rounds"]) == len(line["rounds"])
    assert row["score_vqa_accuracy"] == "" and 0 <= float(row["score_rouge_l"]) <= 1


def test_failed_samples_have_empty_cells(fake: SimpleNamespace) -> None:
    def change(line: dict[str, Any]) -> dict[str, Any]:
        return fake.failed(line, "out_of_memory: 3, GiB") if line["sample_id"] == "001" else line

    rows = list(csv.DictReader(io.StringIO(samples_csv(fake.run(suites=[fake.suite(n=3)], change=change)), newline="")))
    failed = [row for row in rows if row["error"]]
    assert len(failed) == 2 and failed[0]["error"] == "out_of_memory: 3, GiB"
    for name in ("tokens", "text", "decode_s", "e2e_s", "rounds", "drafted", "draft_s", "identical", "score_bleu4"):
        assert failed[0][name] == ""


def test_a_lone_surrogate_does_not_stop_the_export(tmp_path: Path) -> None:
    save(tmp_path / "x.csv", "a\ud800b\n")
    assert (tmp_path / "x.csv").read_bytes() == b"a?b\n"


def test_latex_is_escaped_and_balanced(fake: SimpleNamespace) -> None:
    run = fake.run(suites=[fake.suite(n=6)], labels=("standard", "fastvlm:gamma=6,exit_layer=2"))
    run.meta["model"]["id"] = r"a_b & 50% of $x #1 {y} \z ~^<>"
    text = rows_latex(summarise(run))
    assert r"a\_b \& 50\% of \$x \#1 \{y\} \textbackslash{}z \textasciitilde{}\textasciicircum{}\textless{}" in text
    body = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len(body) == 3
    columns_ = re.search(r"\\begin\{tabular\}\{([lr]+)\}", text)
    assert columns_ is not None
    assert {len(re.split(r"(?<!\\)&", line)) for line in body} == {len(columns_[1])}
    assert r"\toprule" in text and r"\midrule" in text and r"\bottomrule" in text
    assert not re.search(r"(?<!\\)_", "".join(body))
    assert "BLEU-4 (0-100)" in body[0] and "peak tensors" not in body[0]


def test_markdown_is_one_table_with_escaped_cells(fake: SimpleNamespace) -> None:
    run = fake.run(suites=[fake.suite(n=6)])
    run.meta["model"]["id"] = "a|b_c*d<e"
    lines = rows_markdown(summarise(run)).splitlines()
    assert len(lines) == 4
    assert {len(re.split(r"(?<!\\)\|", line)) for line in lines} == {len(re.split(r"(?<!\\)\|", lines[0]))}
    assert r"| a\|b\_c\*d&lt;e |" in lines[2]


def test_named_columns_are_kept_even_if_empty_and_unknown_ones_refused(fake: SimpleNamespace) -> None:
    rows = summarise(fake.run(suites=[fake.suite(n=6, metrics=[])]))
    assert rows_markdown(rows, ["method", "peak_allocated_bytes"]).splitlines()[2] == "| standard |  |"
    with pytest.raises(KeyError):
        rows_markdown(rows, ["nonsense"])


def test_json_has_no_nan_and_no_samples(fake: SimpleNamespace) -> None:
    run = fake.run(suites=[fake.suite(n=6)])
    document = json.loads(run_json(run), parse_constant=pytest.fail)
    assert "samples" not in document["suites"][0]
    assert [row["method"] for row in document["rows"]] == ["standard", "fastvlm"]
    assert set(document["rows"][0]) == {column.name for column in columns()}
    assert document["verdict"]["status"] == "VALID"
    assert [notice["name"] for notice in document["warnings"]] == ["TooFewSamples", "EmbeddedData"][::-1]


def test_summary_markdown_tells_the_verdict(fake: SimpleNamespace) -> None:
    good = run_markdown(fake.run(suites=[fake.suite(n=6)]))
    assert "## VALID" in good and "**EmbeddedData**" in good and "| tiny |" in good
    assert "- the run is interrupted" in run_markdown(fake.run(suites=[fake.suite(n=6)], status="interrupted"))


def test_row_dict_is_flat(fake: SimpleNamespace) -> None:
    for row in summarise(fake.run(suites=[fake.suite(n=6)])):
        for value in row_dict(row).values():
            assert value is None or isinstance(value, str | int | float | bool | tuple)


@pytest.mark.parametrize("form", FORMATS)
def test_several_runs_in_one_export(fake: SimpleNamespace, form: str) -> None:
    runs = [fake.run(suites=[fake.suite(n=6)], meta={"run_id": name}) for name in ("one", "two")]
    single, both = export_runs(runs[:1], form), export_runs(runs, form)
    if form == "json":
        assert json.loads(single)["run_id"] == "one"
        assert [document["run_id"] for document in json.loads(both)] == ["one", "two"]
        return
    assert both.startswith(single.splitlines()[0])
    rows = {"samples-csv": 12, "contexts-csv": 4}.get(form, 2)
    assert len(both.splitlines()) == len(single.splitlines()) + rows
    if "csv" in form:
        assert {row["run_id"] for row in csv.DictReader(io.StringIO(both, newline=""))} == {"one", "two"}


def test_unknown_format_lists_the_known_ones(fake: SimpleNamespace) -> None:
    with pytest.raises(UsageError, match="unknown format 'markdwn'; did you mean 'markdown'.; choose one of: csv, s"):
        export_runs([fake.run(suites=[fake.suite(n=2)])], "markdwn")


def test_stored_results_open_without_torch_pandas_and_rich() -> None:
    code = ("import sys, fastvlm_bench.report.compare, fastvlm_bench.report.export, fastvlm_bench.report.terminal\n"
            "heavy = 'torch', 'transformers', 'pandas', 'rich', 'numpy', 'scipy'\n"
            "print([name for name in heavy if name in sys.modules])")  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"
