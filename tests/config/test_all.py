"""`-m all` stands for every method that needs no option, and leaves out, with the reason, what does not fit."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fastvlm_bench.analysis.verdict import judge
from fastvlm_bench.cli.app import app
from fastvlm_bench.config import RunConfig
from fastvlm_bench.errors import UsageError
from fastvlm_bench.measuring.control_arm import measured_specs
from fastvlm_bench.method_spec import GROUPS, METHODS
from fastvlm_bench.records.record import read_run


def labels(*methods: str) -> list[str]:
    return [spec.label for spec in RunConfig(methods=methods).specs]


def test_every_method_is_in_it_or_needs_an_option() -> None:
    chosen = labels("all")
    assert chosen[0] == "standard"
    needing = {name for name, kind in METHODS.items() if kind.needed}
    assert set(chosen) == set(METHODS) - needing - {"control"}
    places = [list(GROUPS).index(METHODS[name].group) for name in chosen]
    assert places == sorted(places)


def test_what_is_named_beside_it_is_not_doubled_and_not_optional() -> None:
    config = RunConfig(methods=("all", "fastvlm:gamma=3", "control"))
    assert {"fastvlm", "fastvlm:gamma=3", "control", "prompt-lookup"} <= set(labels(*config.methods))
    optional = {spec.label for spec in config.specs if config.optional(spec)}
    assert "fastvlm:gamma=3" not in optional and "standard" not in optional and "prompt-lookup" in optional
    assert not any(map(RunConfig(methods=("prompt-lookup",)).optional, RunConfig(methods=("prompt-lookup",)).specs))


def test_it_survives_the_record() -> None:
    config = RunConfig(methods=("all",), gamma=4)
    again = RunConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config and again.sha256() == config.sha256() and again.specs == config.specs


def test_a_begun_run_goes_on_with_what_it_began_with() -> None:
    config = RunConfig(methods=("all",))
    recorded = [{"label": "standard", "spec": "standard"}, {"label": "prompt-lookup", "spec": "prompt-lookup"}]
    assert [spec.label for spec in measured_specs(config, "float32", recorded)] == ["standard", "prompt-lookup"]


@pytest.mark.slow
def test_it_measures_what_fits_and_says_what_does_not(tmp_path: Path) -> None:
    arguments = [
        "run",
        "-s",
        "coco-caption",
        "--limit",
        "5",
        "--max-new-tokens",
        "6",
        "--warmup",
        "0",
        "--threads",
        "1",
    ]
    result = CliRunner().invoke(app, [*arguments, "-m", "all", "--out", str(tmp_path), "--draft", str(tmp_path)])
    assert result.exit_code == 0, result.output
    run = read_run(next(path for path in tmp_path.iterdir() if path.is_dir()))
    left_out = {each["label"]: each["reason"] for each in run.meta["left_out"]}
    measured = {line["method"] for line in run.lines}
    assert measured | set(left_out) == set(labels("all")) and not measured & set(left_out)
    assert {"standard", "prompt-lookup", "layerskip", "hf-prompt-lookup"} <= measured
    assert "fastvlm" in left_out and str(tmp_path) in left_out["fastvlm"], "there is no draft in that folder"
    verdict = judge(run)
    assert verdict.status == "VALID", "a loop of transformers that fails touches no other method"
    foreign = [notice.message for notice in verdict.warnings if notice.name == "ForeignLoop"]
    failed = {line["method"] for line in run.lines if line["error"]}
    assert failed <= {"hf-prompt-lookup"} and bool(foreign) == bool(failed)
    assert all(f"left out: {label}: " in result.output for label in left_out)


def test_named_methods_are_refused_where_they_do_not_fit(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["run", "--limit", "5", "--out", str(tmp_path), "-m", "hf-mtp"])
    assert result.exit_code == 2 and "leave hf-mtp out" in result.output
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("method", ["eagle3:draft=x,topk=2", "eagle:draft=x,topk=2,nodes=5"])
def test_trees_are_refused_in_batches_before_anything_is_read(tmp_path: Path, method: str) -> None:
    arguments = ["run", "--limit", "5", "--out", str(tmp_path), "-m", "standard", "-m", method]
    result = CliRunner().invoke(app, [*arguments, "--batch-size", "4"])
    assert result.exit_code == 2 and "drafts a tree" in result.output and "topk=1" in result.output
    single = CliRunner().invoke(app, arguments)
    assert single.exit_code == 2 and "drafts a tree" not in single.output, (
        "one at a time it is the head that is missing"
    )
    assert not list(tmp_path.iterdir())


def test_a_method_that_needs_an_option_says_which() -> None:
    for name, kind in METHODS.items():
        if kind.needed:
            with pytest.raises(UsageError, match=f"method '{name}' needs {kind.needed[0]}=…"):
                RunConfig(methods=(name,))
