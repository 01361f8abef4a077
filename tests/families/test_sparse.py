"""Sparse attention with tied index scores: the model itself chooses otherwise when it reads several tokens at once.

In float32, without any method: which of equal scores are selected depends on how many there are. So no method that
verifies in blocks can be lossless on such a model, and none is to blame. A fault of the gate is still one.
"""

from typing import Any

import pytest
import torch
from families.builders import plain, randomise
from families.proof import Scripted, decode
from families.recurrent import glm5_next
from targets import read_back

from fastvlm_bench.checks.losslessness import judge_output
from fastvlm_bench.checks.rounding import rounding
from fastvlm_bench.checks.self_check import Plain, said, self_check
from fastvlm_bench.decoding.control import Control
from fastvlm_bench.engine.layer_gate import LayerGate, Mode

COUNT = 14
TIED = {"index_topk": 8, "index_n_heads": 2}


def made(seed: int, **options: int) -> tuple[Any, dict[str, Any]]:
    torch.manual_seed(0)
    model, inputs = glm5_next(**options)
    return randomise(model, seed), inputs


def judged(model: Any, inputs: dict[str, Any], method: Any, reference: list[int]) -> dict[str, Any]:
    tokens = decode(model, inputs, method, COUNT)
    passes = [done.emitted for done in method.last.rounds]
    return judge_output(model, inputs, tokens, reference, limit=COUNT, passes=passes)


@pytest.mark.slow  # it guards the builders of the tests, not the tool
def test_the_familys_instance_selects_for_real() -> None:
    model, inputs = made(0)
    everything, _ = made(0, index_topk=512)
    everything.load_state_dict(model.state_dict())
    assert plain(model, inputs, COUNT) != plain(everything, inputs, COUNT)


@pytest.fixture(scope="module")
def unsteady() -> tuple[Any, dict[str, Any], list[int]]:
    model, inputs = made(2, **TIED)
    reference = plain(model, inputs, COUNT)
    single, blocks = (read_back(model, inputs, reference, size) for size in (1, COUNT))
    largest = float(single.abs().max())
    assert float((single - blocks).abs().max()) > 10 * rounding(torch.float32) * largest, "nothing is tied"
    return model, inputs, reference


@pytest.mark.slow
def test_the_models_own_doing_is_no_violation_and_not_called_a_near_tie(
    unsteady: tuple[Any, dict[str, Any], list[int]],
) -> None:
    model, inputs, reference = unsteady
    for method in (Control(gamma=3), Scripted(reference, 1, gamma=3)):
        each = judged(model, inputs, method, reference)
        assert each["outcome"] == "unsteady"
        assert each["epsilon"] < each["gap"] <= each["block_noise"] + 1e-4


@pytest.mark.slow
def test_a_fault_of_the_gate_is_still_a_violation(
    unsteady: tuple[Any, dict[str, Any], list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, inputs, reference = unsteady
    real = LayerGate._gated

    def mutant(self: LayerGate, index: int, forward: Any) -> Any:
        inner = real(self, index, forward)

        def scaled(states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            result = inner(states, *args, **kwargs)
            if self.mode is not Mode.VERIFY or index != 3:
                return result
            return result * 0.8 if isinstance(result, torch.Tensor) else (result[0] * 0.8, *result[1:])

        return scaled

    monkeypatch.setattr(LayerGate, "_gated", mutant)
    assert judged(model, inputs, Scripted(reference, 1, gamma=3), reference)["outcome"] == "violation"


def test_the_self_check_lets_such_a_model_in_and_says_how_far_its_own_blocks_lie() -> None:
    model, inputs = made(0, **TIED)
    plain_passes = Plain(model, inputs)
    for exit_layer in (1, 4):
        found = self_check(model, inputs, exit_layer, plain=plain_passes)
        assert found.difference > 10 * rounding(torch.float32), "nothing is tied in these tokens"
        assert found.difference <= 1.01 * found.own and "the model's own blocks: 8e-02" in said(found)
