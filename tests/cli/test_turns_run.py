"""Runs of samples with several turns and images: what each turn is asked, and how the record and reports show it."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from suites.conftest import picture
from suites.official import lines as write_lines
from through_runner import Record
from typer.testing import CliRunner

from fastvlm_bench.cli.app import app
from fastvlm_bench.decoding.build import Built
from fastvlm_bench.decoding.standard import Standard
from fastvlm_bench.engine.measure import GREEDY
from fastvlm_bench.machine.clock import Clock
from fastvlm_bench.measuring import bench
from fastvlm_bench.measuring.dialogs import Said
from fastvlm_bench.measuring.runner import Runner
from fastvlm_bench.models.load import Target, load_target
from fastvlm_bench.records.record import Run, read_run
from fastvlm_bench.suites.suite import Suite, load_suite

ROWS = [
    {"id": "talk", "images": ["1.png", "2.png"], "turns": ["What is in the image?", "And in <image 2>?", "Where?"],
     "references": [["a dog"], ["a cat"], ["left"]]},
    {"id": "alone", "image": "3.png", "prompt": "What is this?", "references": ["a dog"]},
]  # fmt: skip
LIMIT = 6


def data(folder: Path) -> Path:
    for number in (1, 2, 3):
        picture(folder / f"{number}.png", (120 + number, 90))
    write_lines(folder / "mine.jsonl", ROWS)
    return folder / "mine.jsonl"


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Suite:
    return load_suite("jsonl", data=data(tmp_path_factory.mktemp("data")))


@pytest.fixture(scope="module")
def target() -> Target:
    return load_target("tiny", device="cpu")


@pytest.fixture(scope="module")
def ran(suite: Suite, tmp_path_factory: pytest.TempPathFactory) -> Any:
    out = tmp_path_factory.mktemp("out")
    arguments = ["run", "--suite", "jsonl", "--data", suite.source, "--threads", "1", "--warmup", "0",
                 "--engine", "eager", "-m", "layerskip", "-m", "early-exit", "--max-new-tokens", str(LIMIT),
                 "--out", str(out), "--predictions-out", str(out / "told.json")]  # fmt: skip
    result = CliRunner().invoke(app, arguments, catch_exceptions=False, env={"COLUMNS": "100"})
    assert result.exit_code == 0, result.output
    return result, out, read_run(next(out.glob("*/run.json")).parent)


def by_turn(run: Run, method: str) -> dict[str, dict[str, Any]]:
    return {line["sample_id"]: line for line in run.lines if line["method"].startswith(method)}


def test_each_turn_is_asked_after_the_methods_own_answers(ran: Any, suite: Suite, target: Target) -> None:
    _, _, run = ran
    for method in ("standard", "layerskip", "early-exit"):
        own, said = by_turn(run, method), list[str]()
        assert list(own) == ["talk", "talk#2", "talk#3", "alone"]
        for sample in suite.samples[:3]:
            inputs = target.encode(*bench.shown(sample, said))
            line = own[sample.sample_id]
            assert (line["dialog"], line["turn"]) == ("talk", sample.turn)
            assert line["prompt_tokens"] == inputs["input_ids"].shape[1]
            said.append(line["text"])
        assert "dialog" not in own["alone"]
    plain, lossless = by_turn(run, "standard"), by_turn(run, "layerskip")
    assert {line["losslessness"]["outcome"] for line in lossless.values()} == {"identical"}
    assert [line["token_ids"] for line in plain.values()] == [line["token_ids"] for line in lossless.values()]


def test_the_record_says_what_a_later_turn_follows(ran: Any) -> None:
    _, _, run = ran
    recorded = run.meta["suites"][0]
    assert recorded["turns"] == "own answers, prefilled again"
    later = recorded["samples"][2]
    assert (later["dialog"], later["turn"], later["images"]) == ("talk", 3, 2)
    asked = [later["rendered"].index(text) for text in ("What is in", "{answer 1}", "And in", "{answer 2}", "Where?")]
    assert asked == sorted(asked) and later["rendered"].count("<image>") == 2


def test_the_sample_is_the_unit_of_the_ratios(ran: Any) -> None:
    result, out, run = ran
    assert "n = 2 (4 turns)" in result.stdout and "2/2" in result.stdout
    told = CliRunner().invoke(app, ["export", str(run.folder)], catch_exceptions=False).stdout
    row = next(row for row in csv.DictReader(io.StringIO(told)) if row["method"].startswith("layerskip"))
    assert [row[name] for name in ("samples", "turns", "samples_paired", "identical")] == ["2", "4", "2", "2"]
    sums = {method: [sum(line["ttft_s"] + line["decode_s"] for line in by_turn(run, method).values()
                         if line["sample_id"].startswith(sample)) for sample in ("talk", "alone")]
            for method in ("standard", "layerskip")}  # fmt: skip
    (a, b), (c, d) = sums["standard"], sums["layerskip"]
    assert float(row["e2e_speedup_geomean"]) == pytest.approx((a / c * b / d) ** 0.5)
    predictions = json.loads(next(out.glob("told-jsonl-standard*.json")).read_text())
    assert [one["question_id"] for one in predictions] == ["talk", "talk#2", "talk#3", "alone"]
    scored = CliRunner().invoke(app, ["score", "--suite", "jsonl", "--annotations", run.meta["config"]["data"],
                                      "--predictions", str(next(out.glob("told-jsonl-standard*.json"))), "--json"],
                                catch_exceptions=False)  # fmt: skip
    assert scored.exit_code == 0 and json.loads(scored.stdout)["n"] == 4


def test_reports_show_the_turns(ran: Any, tmp_path: Path) -> None:
    _, _, run = ran
    page = tmp_path / "page.html"
    for command in (["show", str(run.folder), "--sample", "talk"], ["report", str(run.folder), "--details"],
                    ["report", str(run.folder), "--html", str(page)], ["compare", str(run.folder), str(run.folder)],
                    ["export", str(run.folder), "--format", "samples-csv"]):  # fmt: skip
        result = CliRunner().invoke(app, command, catch_exceptions=False, env={"COLUMNS": "120"})
        assert result.exit_code == 0, result.output
        if command[0] == "show":
            shown = [line for line in result.stdout.splitlines() if line.startswith("turn ")]
            assert shown == ["turn 1: What is in the image?", "turn 2: And in <image 2>?", "turn 3: Where?"]
        if command[0] == "export":
            rows = list(csv.DictReader(io.StringIO(result.stdout)))
            assert {(row["dialog"], row["turn"]) for row in rows} >= {("talk", "3"), ("", "")}
    assert "turn 3, after the method" in page.read_text()


class Late(Standard):
    """Fails at the first turn of a dialog."""

    def __call__(self, model: Any, input_ids: Any, **prepared: Any) -> Any:
        raise RuntimeError("no answer")


class Wrong(Standard):
    """Says another second token than the target would."""

    def __call__(self, model: Any, input_ids: Any, **prepared: Any) -> Any:
        found = super().__call__(model, input_ids, **prepared)
        assert self.trace is not None
        tokens = self.trace.rows[0].token_ids
        tokens[1] = (tokens[1] + 1) % 100 + 10
        return found


def measured(suite: Suite, target: Target, method: Any, monkeypatch: pytest.MonkeyPatch, **given: Any) -> list[Any]:
    built = [Built("standard", Standard(), True, None, {}), Built("other", method, True, None, {})]
    generation = {**GREEDY, "min_new_tokens": LIMIT}  # whatever the embedded model says, there are tokens to compare
    runner, record = Runner(target, built, Clock(), max_new_tokens=LIMIT, generation=generation, **given), Record()
    runner.run(suite, 1, record, lambda group: None)  # type: ignore[arg-type]
    return record.lines


@pytest.mark.slow
def test_a_turn_after_other_answers_is_judged_after_these(
    suite: Suite, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Said._answer
    monkeypatch.setattr(Said, "_answer", lambda self, sample, turn, method, repeat: (
        "A red ball." if method == "other" else own(self, sample, turn, method, repeat)))  # fmt: skip
    lines = measured(suite, target, Standard(), monkeypatch)
    judged = {line["sample_id"]: line["losslessness"] for line in lines if line["method"] == "other"}
    same, own_context = {"outcome": "identical"}, {"outcome": "identical", "own_context": True}
    assert judged == {"talk": same, "talk#2": own_context, "talk#3": own_context, "alone": same}
    tokens = {(line["sample_id"], line["method"]): line["prompt_tokens"] for line in lines}
    assert tokens["talk#3", "other"] != tokens["talk#3", "standard"]
    wrong = measured(suite, target, Wrong(), monkeypatch)
    told = [line["losslessness"] for line in wrong if line["method"] == "other" and line.get("turn", 1) > 1]
    assert [(each["outcome"], each["index"], each["own_context"]) for each in told] == [("violation", 1, True)] * 2


def test_a_turn_whose_earlier_answer_is_lacking_fails_too(
    suite: Suite, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Runner, "_check_length", lambda self, suite, inputs: None)
    lines = measured(suite, target, Late(), monkeypatch)
    errors = {line["sample_id"]: line["error"] for line in lines if line["method"] == "other"}
    assert errors["talk"] == errors["alone"] == "RuntimeError: no answer"
    assert errors["talk#2"] == "turn 1 of sample talk failed, whose answer this turn follows"
    assert not any(line["error"] for line in lines if line["method"] == "standard")


@pytest.mark.slow
def test_batches_hold_one_turn_of_each_sample(suite: Suite, target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    single = measured(suite, target, Standard(), monkeypatch)
    batched = measured(suite, target, Standard(), monkeypatch, size=2)
    assert [line["sample_id"] for line in batched if line["method"] == "standard"] == [
        "talk", "alone", "talk#2", "talk#3",
    ]  # fmt: skip
    texts = [{(line["sample_id"], line["method"]): line["token_ids"] for line in lines} for lines in (single, batched)]
    assert texts[0] == texts[1]


@pytest.mark.slow
def test_a_resumed_run_remembers_what_was_said(suite: Suite, target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = measured(suite, target, Standard(), monkeypatch)
    built = [Built("standard", Standard(), True, None, {}), Built("other", Standard(), True, None, {})]
    record = Record()
    for line in whole:
        if line["sample_id"] == "talk":
            record.completed.add(("jsonl", "talk", 0))
            record.said["jsonl", "talk", line["method"], 0] = line["text"]
    generation = {**GREEDY, "min_new_tokens": LIMIT}
    runner = Runner(target, built, Clock(), max_new_tokens=LIMIT, generation=generation)
    runner.run(suite, 1, record, lambda group: None)  # type: ignore[arg-type]
    assert [(line["sample_id"], line["method"]) for line in record.lines] == [
        (line["sample_id"], line["method"]) for line in whole if line["sample_id"] != "talk"
    ]
    assert [line["token_ids"] for line in record.lines] == [
        line["token_ids"] for line in whole if line["sample_id"] != "talk"
    ]


def test_a_family_of_one_image_or_turn_is_refused_by_name(suite: Suite, target: Target) -> None:
    from fastvlm_bench.checks.longest_prompt import longest_prompt
    from fastvlm_bench.errors import UsageError

    config = SimpleNamespace(model_type="blip-2", is_encoder_decoder=True)
    processor = SimpleNamespace(chat_template=None, tokenizer=target.processor.tokenizer)
    blip = Target("blip", SimpleNamespace(config=config), processor, target.device, None)
    with pytest.raises(UsageError, match=r"^jsonl, sample talk: model 'blip' \(blip-2\) .* one image .*, not 2 images"):
        longest_prompt(blip, suite, LIMIT)


@pytest.mark.parametrize(("row", "words"), [
    ({**ROWS[0], "turns": ["What?", " "]}, "line 1.turns[1] has no text"),
    ({**ROWS[0], "images": ["1.png"]}, "line 1.turns[1] refers to <image 2>, but the sample has 1 image"),
    ({**ROWS[0], "images": ["1.png", "none.png"]}, "1 of 2 images of jsonl/data are missing"),
    ({**ROWS[0], "references": ["a dog"]}, "line 1.references must have a list of texts for each of the 3 turns"),
])  # fmt: skip
def test_faulty_samples_are_refused_in_one_line(
    refused: Callable[..., str], tmp_path: Path, row: dict[str, Any], words: str
) -> None:
    path = data(tmp_path)
    write_lines(path, [row])
    assert words in refused("run", "--suite", "jsonl", "--data", path, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()
