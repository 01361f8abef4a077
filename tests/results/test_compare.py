"""Runs side by side: who may stand there, what the ratios are, and what happens with --force."""

import gc
import io
import json
from dataclasses import fields
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from weakref import ref

import pytest
from covering import covering
from rich.console import Console

from fastvlm_bench.analysis import comparison
from fastvlm_bench.analysis.comparison import (
    CONFIG_IDENTITY,
    HARDWARE,
    MODEL_IDENTITY,
    SUITE_IDENTITY,
    VERSIONS,
    Comparison,
    compare,
    identity,
)
from fastvlm_bench.analysis.statistics import Estimate
from fastvlm_bench.config import RunConfig
from fastvlm_bench.errors import IncompatibleRuns, UsageError
from fastvlm_bench.records.record import Run, read_meta, read_run
from fastvlm_bench.report.compare import print_comparison

pytestmark = pytest.mark.usefixtures("quick_bounds")

REFERENCE_RUN = max((Path(__file__).parents[2] / "results").glob("*-tiny-describe-*"))


def rounded(estimate: Estimate | None) -> Estimate | None:
    """The estimate without the rounding errors of logarithms in its last places."""
    return estimate and Estimate(*(round(x, 12) if isinstance(x, float) else x for x in vars(estimate).values()))


def timed(seconds: float) -> Any:
    """A function that makes a line's decoding take `seconds`, and its prefill 1 s."""
    return lambda line: {**line, "decode_s": seconds, "ttft_s": 1.0, "vision_s": None, "prefill_s": 1.0}


def two(fake: SimpleNamespace, *, second: tuple[str, ...] = ("standard", "fastvlm"), **meta: Any) -> list[Run]:
    suites = [fake.suite(n=8)]
    return [
        fake.run(suites=suites, change=timed(3.0), meta={"run_id": "first"}),
        fake.run(suites=suites, change=timed(1.0), labels=second, seed=1, meta={"run_id": "second", **meta}),
    ]


def test_ratios_are_against_the_same_arm_of_the_first_run(fake: SimpleNamespace) -> None:
    found = compare(two(fake))
    assert [(r.row.run_id, r.row.method, r.against) for r in found.rows] == [
        ("first", "standard", ""), ("second", "standard", "standard"),
        ("first", "fastvlm", ""), ("second", "fastvlm", "fastvlm"),
    ]  # fmt: skip
    assert found.rows[0].decode is None and found.rows[0].identical is None
    assert rounded(found.rows[1].decode) == Estimate(3.0, 3.0, 3.0, 8)
    assert found.rows[1].e2e == Estimate(2.0, 2.0, 2.0, 8)
    assert (found.rows[1].identical, found.rows[1].compared) == (8, 8)
    assert {q.verdict for q in found.rows[1].quality} == {"identical"}
    assert found.forced == () and found.notes == ()


def test_another_gamma_is_what_one_compares(fake: SimpleNamespace) -> None:
    rows = compare(two(fake, second=("standard", "fastvlm:gamma=2"))).rows
    other = next(row for row in rows if row.row.method == "fastvlm:gamma=2")
    assert other.against == "fastvlm" and rounded(other.decode) == Estimate(3.0, 3.0, 3.0, 8)


def test_an_ambiguous_counterpart_is_none(fake: SimpleNamespace) -> None:
    rows = compare(two(fake, second=("standard", "early-exit"))).rows
    alone = next(row for row in rows if row.row.method == "early-exit")
    assert (alone.against, alone.decode, alone.compared) == ("", None, 0)


def test_outputs_and_quality_across_runs(fake: SimpleNamespace) -> None:
    def worse(line: dict[str, Any]) -> dict[str, Any]:
        if line["sample_id"] != "000":
            return line
        return {**line, "text": "nothing alike", "token_ids": [1000, *line["token_ids"][1:]]}

    suites = [fake.suite(n=8)]
    rows = compare([fake.run(suites=suites), fake.run(suites=suites, change=worse, meta={"run_id": "b"})]).rows
    later = [row for row in rows if row.row.run_id == "b"]
    assert [(row.identical, row.compared) for row in later] == [(7, 8)] * 2
    assert all(q.delta is not None and q.delta.value < 0 for row in later for q in row.quality)


def in_batches(line: dict[str, Any]) -> dict[str, Any]:
    number, row = divmod(int(line["sample_id"]), 4)
    seconds = {name: 4 * line[name] for name in ("ttft_s", "decode_s")}
    return {**line, "batch": {"id": number, "size": 4, "row": row, **seconds}}


def in_turns(line: dict[str, Any]) -> dict[str, Any]:
    number, turn = divmod(int(line["sample_id"]), 3)
    return {**line, "dialog": f"talk {number}", "turn": turn}


@pytest.mark.parametrize(("repeats", "kind"), covering(
    product((1, 2), (dict, in_batches, in_turns)), [(2, dict), (1, in_batches), (1, in_turns)]
))  # fmt: skip
def test_of_the_first_run_as_much_is_kept_as_the_others_are_compared_with(
    fake: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, repeats: int, kind: Any
) -> None:
    """Whatever of its lines is left out, the comparison is the same: of repeats, failures, batches and turns."""

    def other(line: dict[str, Any]) -> dict[str, Any]:
        odd = int(line["sample_id"]) % 5
        text = f"{line['text']} twice" if odd == 1 else line["text"]
        return {**kind(line), "text": text, "error": "broken" if odd == 4 else None, "invocation": odd % 2}

    suite = fake.suite(n=12, metrics=["bleu4", "rouge_l"])
    if kind is in_turns:
        for sample in suite["samples"]:
            sample |= {name: in_turns(sample)[name] for name in ("dialog", "turn")}
    runs = [fake.run(suites=[suite], repeats=2, change=kind),
            fake.run(suites=[suite], repeats=repeats, change=other, seed=3)]  # fmt: skip
    light = compare(runs)
    assert any(row.compared for row in light.rows)
    monkeypatch.setattr(comparison, "packed", lambda arms: arms)
    assert light.rows == compare(runs).rows and light.verdicts == compare(runs).verdicts


def test_runs_without_lines_are_read_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    folder, held = REFERENCE_RUN.parent / "demo", list[ref[Run]]()

    def read(path: Path, meta: dict[str, Any]) -> Run:
        gc.collect()
        assert not any(one() for one in held), "another run's lines are still there"
        run = read_run(path, meta)
        held.append(ref(run))
        return run

    whole = compare([read_run(folder)] * 3)
    monkeypatch.setattr(comparison, "read_run", read)
    found = compare([Run(folder, read_meta(folder), [])] * 3)
    assert len(held) == 3 and found.rows == whole.rows and not any(run.lines for run in found.runs)


def test_unequal_repeats_still_pair(fake: SimpleNamespace) -> None:
    suites = [fake.suite(n=8)]
    found = compare([fake.run(suites=suites, change=timed(3.0)),
                     fake.run(suites=suites, change=timed(1.0), repeats=3, meta={"run_id": "b"})])  # fmt: skip
    later = [row for row in found.rows if row.row.run_id == "b"]
    assert [(rounded(row.decode), row.identical) for row in later] == [(Estimate(3.0, 3.0, 3.0, 8), 8)] * 2


@pytest.mark.parametrize(
    ("meta", "field"),
    [
        ({"model": {"weights_sha256": "cd" * 32}}, "model weights_sha256: abababab / cdcdcdcd"),
        ({"model": {"dtype": "bfloat16"}}, "model dtype: float32 / bfloat16"),
        ({"model": {"device": "cuda"}}, "model device: cpu / cuda"),
        ({"model": {"attention": "eager"}}, "model attention: sdpa / eager"),
        ({"environment": {"cpu": "Other"}}, "cpu: Example CPU / Other"),
        ({"environment": {"gpu": "H100"}}, "gpu: None / H100"),
        ({"environment": {"threads": 1}}, "threads: 2 / 1"),
        ({"config": {"temperature": 0.5}}, "config temperature: None / 0.5"),
    ],
)
def test_refusal_names_the_field_and_both_values(fake: SimpleNamespace, meta: dict[str, Any], field: str) -> None:
    runs = two(fake, **meta)
    with pytest.raises(IncompatibleRuns) as caught:
        compare(runs)
    assert f"first and second ({field}" in str(caught.value) and "--force" in str(caught.value)
    assert caught.value.exit_code == 4
    assert compare(runs, force=True).forced == (f"first and second ({field})",)


@pytest.mark.parametrize("name", ["version", "split", "sha256", "prompt", "max_new_tokens"])
def test_suites_must_be_the_same(fake: SimpleNamespace, name: str) -> None:
    runs = [fake.run(suites=[fake.suite(n=8)]), fake.run(suites=[fake.suite(n=8, **{name: 41})])]
    with pytest.raises(IncompatibleRuns, match=rf"coco-caption {name}: .* / 41"):
        compare(runs)


def test_samples_must_be_the_same_and_all_differences_are_listed(fake: SimpleNamespace) -> None:
    runs = [fake.run(suites=[fake.suite(n=8)]),
            fake.run(suites=[fake.suite(n=6)], meta={"model": {"dtype": "bfloat16"}})]  # fmt: skip
    with pytest.raises(IncompatibleRuns, match=r"samples: 8 \(sha256 \w{8}\) / 6 \(sha256 \w{8}\); .*dtype"):
        compare(runs)
    forced = compare(runs, force=True)
    assert [row.compared for row in forced.rows] == [0, 6, 0, 6]


def test_methods_draft_and_commit_are_not_identity(fake: SimpleNamespace) -> None:
    method = fake.method("fastvlm", options={"gamma": 2}, draft={"exit_layer": 9})
    a = fake.run(suites=[fake.suite(n=8)])
    b = fake.run(suites=[fake.suite(n=8)], methods=[fake.method("standard"), method], repeats=2,
                 meta={"environment": {"commit": "f" * 40}})  # fmt: skip
    assert identity(a) == identity(b)
    notes = compare([a, b]).notes
    assert len(notes) == 1 and f"differ in commit: {'0' * 40} / {'f' * 40}" in notes[0]
    c = fake.run(suites=[fake.suite(n=8)], meta={"environment": {"commit": "f" * 40}})
    (note,) = compare([a, b, c]).notes  # of all runs that differ alike
    assert note.startswith(f"{a.run_id} and {b.run_id}, {c.run_id} differ in commit: ")


def test_fewer_than_two_runs(fake: SimpleNamespace) -> None:
    with pytest.raises(UsageError, match="needs two runs, not 1"):
        compare([fake.run(suites=[fake.suite(n=2)])])


def test_runs_of_other_engines_are_not_compared_unless_forced(fake: SimpleNamespace) -> None:
    """An older record does not name its engine: there was one, eager."""
    a, b = two(fake)
    b.meta["config"]["engine"] = "eager"
    assert "engine" not in a.meta["config"] and compare([a, b]).forced == ()
    b.meta["config"]["engine"] = "graphs"
    with pytest.raises(IncompatibleRuns, match="engine: eager / graphs"):
        compare([a, b])
    assert compare([a, b], force=True).forced == ("first and second (engine: eager / graphs)",)


def test_identity_looks_only_at_what_records_have(fake: SimpleNamespace) -> None:
    """A name that no record has would be equal everywhere, and keep nothing apart."""
    assert set(CONFIG_IDENTITY) <= {field.name for field in fields(RunConfig)}
    run = json.loads((REFERENCE_RUN / "run.json").read_bytes())
    assert set(MODEL_IDENTITY) <= set(run["model"])
    assert set(SUITE_IDENTITY) <= set(run["suites"][0])
    assert {*HARDWARE, *VERSIONS} <= set(run["environment"])


def shown(comparison: Comparison, width: int) -> str:
    stream = io.StringIO()
    print_comparison(comparison, Console(width=width, file=stream, _environ={}))
    return stream.getvalue()


@pytest.mark.parametrize("width", [80, 100])
def test_printed_comparison(fake: SimpleNamespace, width: int) -> None:
    text = shown(compare(two(fake)), width)
    assert max(map(len, text.splitlines())) <= width and "…" not in text
    assert "A = first" in text and "B: fastvlm" in text and "3.00× [3.00, 3.00]" in text and "8/8" in text
    assert "FORCED" not in text


def test_forced_comparison_is_marked(fake: SimpleNamespace) -> None:
    text = shown(compare(two(fake, model={"dtype": "bfloat16"}), force=True), 100)
    assert "FORCED: these runs are not comparable" in text and "n = 8 · FORCED" in text
