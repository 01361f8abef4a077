"""In half precision `control` is measured beside the methods: in a run, a resumed one, and in tables."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cut_run import cut_run

from fastvlm_bench.config import RunConfig
from fastvlm_bench.measuring.control_arm import measured_specs
from fastvlm_bench.records.record import read_run

ASKED = ("run", "--limit", "2", "--threads", "1", "--max-new-tokens", "6", "--warmup", "0", "--dtype", "bf16")


def labels(config: RunConfig, dtype: str = "bfloat16", recorded: Any = ()) -> list[str]:
    return [str(spec) if spec.name == "control" else spec.label for spec in measured_specs(config, dtype, recorded)]


@pytest.mark.parametrize(
    ("options", "dtype", "last"),
    [
        ({}, "bfloat16", "control:gamma=10"),
        ({}, "float16", "control:gamma=10"),
        ({"gamma": 4}, "bfloat16", "control:gamma=4"),
        ({"methods": ("layerskip",)}, "bfloat16", "control:gamma=10"),
        ({}, "float32", "fastvlm"),
        ({"control": False}, "bfloat16", "fastvlm"),
        ({"temperature": 0.7}, "bfloat16", "fastvlm"),
        ({"methods": ("hf-generate",)}, "bfloat16", "hf-generate"),
        ({"methods": ("early-exit",)}, "bfloat16", "early-exit"),
        ({"methods": ("fastvlm", "control:gamma=2", "layerskip")}, "bfloat16", "layerskip"),
    ],
)
def test_when_it_is_added(options: dict[str, Any], dtype: str, last: str) -> None:
    assert labels(RunConfig(**options), dtype)[-1] == last


def test_a_run_that_has_begun_goes_on_with_its_own_methods() -> None:
    """One begun before there was a control by default, or before the model's dtype was known."""
    old = [{"label": "standard", "spec": "standard"}, {"label": "fastvlm", "spec": "fastvlm:gamma=10"}]
    assert "control:gamma=10" not in labels(RunConfig(), recorded=old)
    new = [*old, {"label": "control", "spec": "control:gamma=10"}]
    assert labels(RunConfig(), recorded=new)[-1] == "control:gamma=10"
    assert labels(RunConfig(), recorded=[{"label": "standard"}, {"label": "fastvlm"}])[-1] == "control:gamma=10"


@pytest.mark.slow
def test_run_resume_and_compare(call: Callable[..., Any], tmp_path: Path) -> None:
    first = call(*ASKED, "-m", "fastvlm:gamma=4", "-o", tmp_path / "out")
    assert first.exit_code == 0, first.output
    assert "control is measured beside the methods" in first.stderr and "control" in first.stdout
    (folder,) = (tmp_path / "out").iterdir()
    run = read_run(folder)
    assert [method["label"] for method in run.meta["methods"]] == ["standard", "fastvlm:gamma=4", "control"]
    assert {line["losslessness"]["outcome"] for line in run.lines if line["method"] == "control"} <= {
        "identical", "near-tie",
    }  # fmt: skip

    cut_run(folder, 4)  # the second sample lacks two of its three methods
    again = call(*ASKED, "-m", "fastvlm:gamma=4", "-o", tmp_path / "out", "--resume", folder)
    assert again.exit_code == 0, again.output
    resumed = read_run(folder)
    assert sorted((x["sample_id"], x["method"]) for x in resumed.lines) == sorted(
        (x["sample_id"], x["method"]) for x in run.lines
    )
    left_out = call(*ASKED, "-m", "fastvlm:gamma=4", "-o", tmp_path / "without", "--no-control")
    assert left_out.exit_code == 0 and "control" not in left_out.stdout
    (other,) = (tmp_path / "without").iterdir()
    compared = call("compare", folder, other)
    assert compared.exit_code == 0 and "control" in compared.stdout, compared.output
