"""What `run` measures apart from the samples explains them: costs of single passes, and α without the stop in doubt."""

import contextlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from fastvlm_bench.analysis.prediction import PassCosts, draft_passes, predicted_speedup
from fastvlm_bench.analysis.summary import summarise
from fastvlm_bench.cli.app import app
from fastvlm_bench.measuring import apart as apart_module
from fastvlm_bench.records.record import read_run


def test_rounds_are_priced_by_hand() -> None:
    costs = PassCosts(1.0, 0.1, [0.9, 1.0, 1.2])
    rounds = [[2, 2, 2, 3, 9.0, 9.0], [2, 1, 0, 1, 9.0, 9.0], [0, 0, 0, 1, 9.0, 9.0], [2, 2, 2, 2, 9.0, 9.0]]
    # Drafts and one pass after them; in doubt at once, one pass in vain; an EOS that stands needs none after it.
    assert [draft_passes(r[0], r[2], r[3]) for r in rounds] == [3, 3, 1, 2]
    assert predicted_speedup(rounds, costs) == pytest.approx(7 / ((3 + 3 + 1 + 2) * 0.1 + 1.2 + 1.2 + 0.9 + 1.0))
    assert predicted_speedup([], costs) is None


def test_a_plain_pass_is_priced_as_one_and_nothing_else_is() -> None:
    costs = PassCosts(1.0, 0.1, [0.9, 1.0, 1.2])
    plain, doubted, coarse = [0, 0, 0, 1, 0.0, 9.0], [0, 0, 0, 1, 9.0, 9.0], [2, 2, 2, 3, 0.0, 9.0]
    assert predicted_speedup([plain] * 3, costs) == 1.0
    assert predicted_speedup([doubted], costs) == pytest.approx(1 / (0.1 + 0.9)), "its draft pass was in vain"
    assert predicted_speedup([coarse], costs) == pytest.approx(3 / (0.3 + 1.2)), "a coarse clock makes no plain pass"


@pytest.mark.slow
def test_run_measures_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apart_module, "SHARE", 1)
    weak = "fastvlm:head=mlp,gamma=4"
    methods = ["-m", f"{weak},stop_below=0.7", "-m", f"{weak},stop_below=0", "-m", "hf-generate"]
    told = CliRunner().invoke(app, ["run", "--suite", "coco-caption", "--limit", "5", "--threads", "1", "--warmup", "0",
                                    "--details", "--out", str(tmp_path), *methods])  # fmt: skip
    assert told.exit_code == 0, told.output
    (folder,) = tmp_path.iterdir()
    run = read_run(folder)
    assert [entry["method"] for entry in run.meta["costs"]] == [methods[1], methods[3]]
    for entry in run.meta["costs"]:
        assert len(entry["verify_s"]) == 5 and min(entry["standard_s"], entry["draft_s"], *entry["verify_s"]) > 0
        assert entry["draft_s"] < entry["standard_s"]
    (apart,) = run.meta["without_stop"]
    by_method = {row.method: row for row in summarise(run)}
    never = by_method[methods[3]]
    # The same five samples by the same rounds, once apart and once as an arm of their own.
    assert (apart["method"], apart["samples"]) == (methods[1], 5)
    assert apart["accepted"] / apart["tested"] == never.acceptance.alpha == never.acceptance.alpha_without_stop
    stopped = by_method[methods[1]]
    assert stopped.acceptance.alpha_without_stop == never.acceptance.alpha
    assert stopped.acceptance.alpha is not None and never.acceptance.alpha is not None
    assert stopped.acceptance.alpha > never.acceptance.alpha, "doubtful drafts are selected away"
    for row in (stopped, never):
        assert row.costs.predicted_decode_speedup is not None and row.costs.measured_over_predicted is not None
    assert by_method["hf-generate"].costs.predicted_decode_speedup is None
    assert "processes" not in told.output and "within one process" in " ".join(told.output.split())


def test_several_processes_are_named(fake: SimpleNamespace) -> None:
    from fastvlm_bench.report.sentences import conclusion
    from fastvlm_bench.report.terminal import scope_of_intervals

    def change(line: dict[str, object]) -> dict[str, object]:
        return {**line, "invocation": line["repeat"]}

    run = fake.run(repeats=3, change=change)
    rows = summarise(run)
    assert "the 3 processes" in scope_of_intervals(rows)
    assert "between 3 processes" in conclusion(run, rows[1])


@pytest.mark.parametrize(("samples", "decoded"), [(4, 0), (5, 1), (24, 4), (1000, 20)])
def test_no_more_than_a_fifth_of_the_samples_is_decoded_apart(samples: int, decoded: int) -> None:
    trace = SimpleNamespace(
        rows=[SimpleNamespace(rounds=[SimpleNamespace(drafted=3, tested=2, accepted=1, emitted=2)])]
    )
    method = SimpleNamespace(stops=True, never_stopping=contextlib.nullcontext)
    seen: list[int] = []

    def decode(built: Any, suite: Any, prepared: Any, seed: int) -> Any:
        seen.append(prepared)
        return trace

    runner: Any = SimpleNamespace(size=1, seed=0, methods=[SimpleNamespace(label="fastvlm", method=method)],
                                  prepare=lambda one: one[0], decode=decode)  # fmt: skip
    suite: Any = SimpleNamespace(name="mine", openings=list(range(samples)))
    found = apart_module.acceptance_without_stop(runner, suite)
    assert seen == list(range(decoded)) and [entry["tested"] for entry in found] == [2 * decoded] * bool(decoded)
