"""The search finds the sub-layers that add nothing, goes on where it stopped, and writes a set that decodes."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from targets import muted_llava
from training.conftest import answers, some_samples

import fastvlm_bench.training.skip_search as searching
from fastvlm_bench.analysis.prediction import PassCosts
from fastvlm_bench.decoding.draft_verify import DraftVerify
from fastvlm_bench.drafts.skip_set import SKIP, SkipManifest, SkipSet, choose_skip_set, load_skip_set
from fastvlm_bench.embedded.parts import build_processor
from fastvlm_bench.engine.measure import measure
from fastvlm_bench.errors import UsageError
from fastvlm_bench.models.load import Target
from fastvlm_bench.training.answers import Example
from fastvlm_bench.training.choosing import Choosing
from fastvlm_bench.training.display import Display
from fastvlm_bench.training.folder import TrainingFolder
from fastvlm_bench.training.prediction import Checked
from fastvlm_bench.training.skip_costs import SkipCosts, advise, along, measure_skip_costs
from fastvlm_bench.training.skip_search import SkipSearch
from fastvlm_bench.training.skip_settings import SkipSettings

IDLE = (2, 3)
COSTS = SkipCosts(1.0, 0.07, 0.07, 0.15, [1.0 + 0.02 * i for i in range(17)])
"""Seconds that no machine measured, so that the search does not depend on one."""


@pytest.fixture(scope="module")
def idle_target() -> Target:
    model, tokenizer = muted_llava(6, 0.0, IDLE)
    with torch.no_grad():
        model.get_output_embeddings().weight[model.config.image_token_index] = 0
    return Target("idle", model, build_processor(tokenizer), torch.device("cpu"), None)


@pytest.fixture(scope="module")
def told(idle_target: Target, tmp_path_factory: pytest.TempPathFactory) -> list[Example]:
    return answers(idle_target, some_samples(3), 14, tmp_path_factory.mktemp("answers") / "answers.jsonl")


def searched(target: Target, told: list[Example], out: Path, evaluations: int, **options: Any) -> SkipManifest:
    class Given:
        def collect(self, _: Any) -> Any:
            return told[:2], [], told[2:]

    settings = SkipSettings(out=str(out), suites=("describe",), evaluations=evaluations, **options)
    folder = TrainingFolder(out)
    folder.open(settings)
    try:
        return SkipSearch(settings, target, Given(), folder, Display(quiet=True)).run()  # type: ignore[arg-type]
    finally:
        folder.close()


@pytest.fixture
def fixed_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    def given(target: Target, example: Example) -> Any:
        return measure_skip_costs(target, example)[0], COSTS

    monkeypatch.setattr(searching, "measure_skip_costs", given)


@pytest.mark.slow
@pytest.mark.usefixtures("fixed_costs")
def test_it_finds_what_adds_nothing_and_goes_on_where_it_stopped(
    idle_target: Target, told: list[Example], tmp_path: Path
) -> None:
    whole = searched(idle_target, told, tmp_path / "whole", 60)
    assert set(IDLE) <= set(whole.attention) & set(whole.mlp)
    searched(idle_target, told, tmp_path / "halves", 20)
    halves = searched(idle_target, told, tmp_path / "halves", 60)
    assert halves == whole and halves.search["evaluations"] == 60
    assert whole.advice["speedup"] > 1 and 0 < whole.validation["noise"] <= 1
    assert load_skip_set(tmp_path / "whole", idle_target.model) == whole
    assert choose_skip_set(tmp_path / "whole", model="idle") == tmp_path / "whole"

    inputs = told[0].inputs(idle_target)
    method = DraftVerify(tmp_path / "whole", gamma=4, target=idle_target)
    (row,) = measure(method, idle_target.model, inputs, 14).rows
    assert tuple(row.token_ids) == told[0].answer
    assert method.drafter is not None and method.drafter["name"] == "whole" and len(method.drafter["sha256"]) == 64


@pytest.mark.usefixtures("fixed_costs")
def test_a_spent_budget_ends_it_between_two_generations(
    idle_target: Target, told: list[Example], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(searching, "GENERATION", 4)
    found = searched(idle_target, told, tmp_path / "set", 10**5, budget=1e-9)
    assert found.search["evaluations"] == 4


def test_what_a_set_would_draft_is_what_it_drafts(idle_target: Target, told: list[Example]) -> None:
    """Along the text, the block of a set is right exactly where a draft of one token, after each prefix, would be."""
    example, skips = told[0], SkipSet.of_layers([1, 3])
    (checked,) = along(idle_target, Choosing(idle_target), example, [skips])
    nothing, idle = along(idle_target, Choosing(idle_target), example, [SkipSet(), SkipSet.of_layers(IDLE)])
    assert len(checked.right) == len(example.answer) - 1
    assert all(nothing.right) and all(idle.right) and not all(checked.right)
    method = DraftVerify(skips, gamma=len(example.answer))
    (row,) = measure(method, idle_target.model, example.inputs(idle_target), 14).rows
    first = row.rounds[0]
    assert first.accepted == next(i for i, right in enumerate(checked.right) if not right)


def test_the_price_of_a_set() -> None:
    skips = SkipSet(frozenset([1, 2]), frozenset([2, 3]))
    assert COSTS.of(skips).draft_s == pytest.approx(1 - 0.15 - 0.07 - 0.07)
    assert COSTS.of(SkipSet()).draft_s == COSTS.standard_s
    assert COSTS.of(SkipSet.of_layers(range(1, 30))).draft_s > 0


def test_the_advice_counts_the_pass_that_ends_in_doubt() -> None:
    """A draft that is always unsure costs one pass a round and gains nothing. The last token is never drafted."""
    costs = PassCosts(1.0, 0.1, [1.0] * 20)
    sure = advise([Checked([True] * 40, [0.9] * 40, False)], costs)
    assert sure.speedup == pytest.approx(40 / ((40 - 3) * 0.1 + 3), rel=0.05)
    unsure = [Checked([False] * 40, [0.01] * 40, False)]
    best = advise(unsure, costs)
    assert best.speedup == pytest.approx(40 / (39 * 0.1 + 40)) and best.stop_below > 0


@pytest.mark.slow
def test_measured_costs(idle_target: Target, told: list[Example]) -> None:
    units, costs = measure_skip_costs(idle_target, told[0])
    assert len(units) == 2 * 4 and len(costs.verify_s) == 17
    assert 0 < costs.layer_s < costs.standard_s and costs.attention_s >= 0 and costs.mlp_s >= 0


def test_settings(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--budget is -1"):
        SkipSettings(out=str(tmp_path), suites=("describe",), budget=-1)
    with pytest.raises(UsageError, match="evaluations is 0"):
        SkipSettings(out=str(tmp_path), suites=("describe",), evaluations=0)


def test_sets_that_do_not_fit_are_refused_in_one_line(idle_target: Target, tmp_path: Path) -> None:
    from fastvlm_bench.drafts.imitation_head import describe_target

    good = SkipManifest([1], [2], **describe_target(idle_target.model))

    def refused(**changes: Any) -> str:
        (tmp_path / SKIP).write_text(json.dumps(dataclasses.asdict(dataclasses.replace(good, **changes))))
        with pytest.raises(UsageError) as error:
            load_skip_set(tmp_path, idle_target.model)
        assert "\n" not in str(error.value)
        return str(error.value)

    assert "weights_sha256" in refused(target_weights_sha256="0" * 64)
    assert "layers 9 (set) is not 6" in refused(target_layers=9)
    assert "layer 5 may not be skipped" in refused(attention=[5])
    assert "layer 0 may not" in refused(mlp=[0])
    for text in ("{", "[]", '{"attention": []}', json.dumps({**dataclasses.asdict(good), "attention": ["a"]})):
        (tmp_path / SKIP).write_text(text)
        with pytest.raises(UsageError, match="not a skip set"):
            load_skip_set(tmp_path, idle_target.model)
