"""The control arm: exact in float32, all drafts accepted; and faults that only the runner can see."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from covering import covering
from targets import generate, oracle_draft
from through_runner import COUNT, outcomes, run

from fastvlm_bench.checks.losslessness import judge_output
from fastvlm_bench.decoding.control import Control
from fastvlm_bench.decoding.fastvlm import FastVLM
from fastvlm_bench.decoding.standard import Standard
from fastvlm_bench.errors import BenchError
from fastvlm_bench.measuring.runner import Runner


@pytest.fixture(scope="module")
def expected(llava: Any, inputs: dict[str, Any]) -> list[int]:
    return generate(llava, inputs, count=COUNT)


@pytest.mark.parametrize("gamma", covering([0, 1, 4, 40], [0, 4]))
def test_in_float32_it_is_standard_decoding_and_accepts_itself(
    llava: Any, inputs: dict[str, Any], expected: list[int], gamma: int
) -> None:
    method = Control(gamma=gamma)
    assert generate(llava, inputs, method, COUNT) == expected
    assert method.last is not None
    assert all(r.accepted == r.drafted <= gamma for r in method.last.rounds)
    assert len(method.last.rounds) == -(-(COUNT - 1) // (gamma + 1))


@pytest.mark.parametrize("place", [1, 3, 6])
def test_it_stops_at_eos(llava: Any, inputs: dict[str, Any], expected: list[int], place: int) -> None:
    eos = expected[place]
    wanted = generate(llava, inputs, count=COUNT, eos_token_id=eos)
    assert generate(llava, inputs, Control(gamma=4), COUNT, eos_token_id=eos) == wanted


@pytest.mark.slow  # in the default run, fastvlm passes the runner
def test_through_the_runner_it_is_identical(llava: Any, inputs: dict[str, Any]) -> None:
    assert outcomes(run(llava, inputs, Control(gamma=4))) == ["identical"] * 2


def test_in_half_precision_it_can_differ_by_near_ties_only(llava: Any, inputs: dict[str, Any]) -> None:
    """The control differs from standard decoding by rounding alone, so in bfloat16 no difference is a violation."""
    half = {"pixel_values": inputs["pixel_values"].bfloat16()}
    try:
        llava.bfloat16()
        given = {**inputs, **half}
        reference = generate(llava, given, Standard(), COUNT)
        assert generate(llava, given, Control(gamma=0), COUNT) == reference, "one token at a time repeats itself"
        method = Control(gamma=8)
        tokens = generate(llava, given, method, COUNT)
        assert judge_output(llava, given, tokens, reference, limit=COUNT)["outcome"] != "violation"
    finally:
        llava.float()


# ------------------------------------------------------------------------------------------ what the runner sees


class Mutating(Standard):
    """A method that changes the tokens of the prompt it was given."""

    def __call__(self, model: Any, input_ids: torch.Tensor, **prepared: Any) -> torch.Tensor:
        found = super().__call__(model, input_ids, **prepared)
        input_ids[0, 1] += 1
        return found


def test_a_method_that_changes_its_inputs_is_caught(llava: Any, inputs: dict[str, Any]) -> None:
    own = {name: value.clone() for name, value in inputs.items()}
    with pytest.raises(BenchError, match="a method changed its inputs on sample 0"):
        run(llava, own, Mutating())


def test_a_prompt_that_does_not_fit_fails_by_name_in_every_arm(
    llava: Any, inputs: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    length = inputs["input_ids"].shape[1]
    monkeypatch.setattr(llava.config.text_config, "max_position_embeddings", length + COUNT - 1)
    lines = run(llava, inputs, FastVLM(oracle_draft(llava, 2), gamma=4))
    assert {line["error"] for line in lines} == {
        f"too_long: prompt of {length} tokens + limit of {COUNT}, but the model has {length + COUNT - 1} positions; "
        "lower --max-new-tokens"
    }
    monkeypatch.setattr(llava.config.text_config, "max_position_embeddings", length + COUNT)
    assert outcomes(run(llava, inputs, FastVLM(oracle_draft(llava, 2), gamma=4))) == ["identical"] * 2


def test_an_eos_that_the_output_runs_past_is_an_internal_error(
    llava: Any, inputs: dict[str, Any], expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llava.generation_config, "eos_token_id", expected[4])
    real = Standard.__call__

    def past(self: Standard, model: Any, input_ids: torch.Tensor, **prepared: Any) -> torch.Tensor:
        prepared["generation_config"].eos_token_id = None
        return real(self, model, input_ids, **prepared)

    monkeypatch.setattr(Standard, "__call__", past)
    with pytest.raises(BenchError, match=r"EOS \(token \d+\) at \d+, before the end"):
        run(llava, inputs, Standard())


def test_the_warm_up_takes_different_shapes_and_survives_failures() -> None:
    seen: list[tuple[int, ...]] = []

    class Fails(Standard):
        trace, sees = None, False

        def __call__(self, *_: Any, **__: Any) -> Any:
            raise RuntimeError("out of memory")

    runner = Runner.__new__(Runner)
    runner.size, runner.prepared, runner.first_call_s = 1, {}, {}
    runner.methods = [SimpleNamespace(method=Fails(), label="standard")]  # type: ignore[list-item]
    runner.target = SimpleNamespace(model=None)  # type: ignore[assignment]
    runner.vision, runner.generation, runner.max_new_tokens = None, {}, 4
    runner.inputs = lambda sample: {"input_ids": torch.zeros(1, sample)}  # type: ignore[method-assign,assignment]
    with pytest.MonkeyPatch.context() as patch:

        def measure(method: Any, model: Any, inputs: dict[str, torch.Tensor], *_: Any, **__: Any) -> None:
            seen.append(tuple(inputs["input_ids"].shape))
            raise RuntimeError("out of memory")

        patch.setattr("fastvlm_bench.measuring.bench.measure", measure)
        suite: Any = SimpleNamespace(openings=[9, 8, 7, 5, 6, 5, 5, 5], max_new_tokens=4)
        runner.warm_up(suite, 3)
    assert seen == [(1, 5), (1, 6), (1, 7)]
