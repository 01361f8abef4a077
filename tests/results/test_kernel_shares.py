"""The device's share of each phase in rows, table and warning."""

from types import SimpleNamespace
from typing import Any

import pytest

from fastvlm_bench.analysis.summary import summarise
from fastvlm_bench.analysis.verdict import judge
from fastvlm_bench.report.breakdown import time_columns

WALL = {"vision_s": None, "prefill_s": 0.2, "draft_s": 0.0, "verify_s": 1.0, "other_s": 0.3}
BUSY = {"vision_s": 0.0, "prefill_s": 0.1, "draft_s": 0.0, "verify_s": 0.6, "other_s": 0.05}


def told(verify_s: float = 0.6, suite: str = "vqav2") -> list[dict[str, Any]]:
    common = {"suite": suite, "sample_id": "1", "tokens": 16}
    drafting = {**WALL, "draft_s": 0.5}, {**BUSY, "draft_s": 0.4}
    return [{**common, "method": "standard", "wall": WALL, "busy": {**BUSY, "verify_s": verify_s}},
            {**common, "method": "fastvlm", "wall": drafting[0], "busy": drafting[1]}]  # fmt: skip


def warned(run: Any) -> list[str]:
    return [notice.message for notice in judge(run).warnings if notice.name == "EagerReference"]


def test_shares_of_each_phase(fake: SimpleNamespace) -> None:
    suite = fake.run().meta["suites"][0]["name"]
    run = fake.run(meta={"kernels": told(suite=suite)})
    standard, fastvlm = (row.phases for row in summarise(run)[:2])
    assert (standard.kernels_prefill, standard.kernels_verify) == (pytest.approx(0.5), pytest.approx(0.6))
    assert standard.kernels_draft is None and fastvlm.kernels_draft == pytest.approx(0.8)
    assert standard.kernels_e2e == pytest.approx(0.75 / 1.5)
    assert summarise(fake.run())[0].phases.kernels_e2e is None
    shown = {cells.header: cells.cells for cells in time_columns(summarise(run)[:2])}
    assert shown["kernels,\n% of verify"][0].startswith("60")
    assert not any("kernels" in cells.header for cells in time_columns(summarise(fake.run())[:2]))


def test_a_launch_bound_reference_is_warned_of_under_eager_alone(fake: SimpleNamespace) -> None:
    name, config = fake.run().meta["suites"][0]["name"], fake.run().meta["config"]
    graphs = {**config, "engine": "graphs"}
    (said,) = warned(fake.run(meta={"kernels": told(suite=name)}))
    assert "kernels take 60% of the passes of standard" in said and "--engine graphs" in said
    assert not warned(fake.run(meta={"kernels": told(0.81, name)})) and not warned(fake.run())
    assert not warned(fake.run(meta={"kernels": told(suite=name), "config": graphs, "engine": {"passes": 9}}))
    (said,) = warned(fake.run(meta={"kernels": told(suite=name), "config": graphs, "engine": {"passes": 0}}))
    assert "cannot be recorded" in said
