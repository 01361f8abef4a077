"""Prices of single passes are prices of the run's engine."""

from types import SimpleNamespace
from typing import Any

import pytest
from covering import covering
from targets import LAYERS, generate
from torch import Tensor

from fastvlm_bench.decoding.fastvlm import FastVLM
from fastvlm_bench.decoding.layerskip import LayerSkip
from fastvlm_bench.decoding.standard import Standard
from fastvlm_bench.drafts.heads import new_head
from fastvlm_bench.drafts.imitation_head import Draft
from fastvlm_bench.engine.graphs import Graphs
from fastvlm_bench.measuring.apart import passes_key
from fastvlm_bench.training.costs import half_way, measure_costs

POSITIONS, ATTEMPTS, COUNT = 4, 2, 24


def called(model: Any) -> list[int]:
    """A list that grows with each call of the model. The hook goes with the test's `model.watching.remove()`."""
    calls: list[int] = []
    model.watching = model.register_forward_pre_hook(lambda *_: calls.append(1))
    return calls


@pytest.mark.parametrize("kind", covering(["raw", "eagle"], ["eagle"]))
def test_of_graphs_they_are_of_recorded_passes(llava: Any, inputs: dict[str, Tensor], kind: str) -> None:
    engine, reference = Graphs(), Standard()
    head = None if kind == "raw" else new_head(kind, llava, 2)
    method = FastVLM(Draft(2, head), gamma=POSITIONS - 1)
    reference.engine = method.engine = engine
    answer = generate(llava, inputs, count=COUNT)
    target: Any = SimpleNamespace(model=llava, device=llava.device)

    def priced() -> Any:
        return measure_costs(
            target, inputs, answer, method.draft_for(llava), positions=POSITIONS, attempts=ATTEMPTS,
            methods=(reference, method), most=COUNT,
        )  # fmt: skip

    priced()
    recorded, calls = engine.recorded, called(llava)
    try:
        costs = priced()
    finally:
        llava.watching.remove()
    assert recorded >= 1 + 1 + 3, "a whole pass, a drafting one, and verifications of 1, 2 and 4 positions"
    assert engine.recorded == recorded and not engine.reasons
    assert len(calls) == 2 * (1 + ATTEMPTS), "only prompts are read by a call of the model"
    assert len(costs.verify_s) == POSITIONS and min(costs.standard_s, costs.draft_s, *costs.verify_s) > 0
    # They are the very passes of the run: neither method records its first generation anew, but for other widths.
    assert generate(llava, inputs, reference, count=COUNT) == answer and engine.recorded == recorded
    assert generate(llava, inputs, method, count=COUNT) == answer and engine.recorded <= recorded + 1


def test_passes_are_priced_in_the_middle_of_an_answer(llava: Any, inputs: dict[str, Tensor]) -> None:
    """Attention reads more there than at the prompt's end, and a whole pass pays for that in more layers."""
    target: Any = SimpleNamespace(model=llava, device=llava.device)
    answer, read = generate(llava, inputs, count=COUNT), list[tuple[int, ...]]()
    watching = llava.register_forward_pre_hook(
        lambda _, args, kwargs: read.append(kwargs["input_ids"].shape) or None, with_kwargs=True
    )
    try:
        measure_costs(target, inputs, answer, Draft(2, None), positions=POSITIONS, attempts=1)
    finally:
        watching.remove()
    prompt = inputs["input_ids"].shape[1]
    assert [shape[1] for shape in read if shape[1] > POSITIONS] == [prompt + COUNT // 2] * 4
    longer, rest, before = half_way(target, inputs, answer)
    assert (before, rest) == (COUNT // 2, answer[COUNT // 2 :]) and set(longer) == set(inputs)
    assert longer["input_ids"][0, prompt:].tolist() == answer[:before]
    assert longer["attention_mask"].shape == longer["input_ids"].shape and bool(longer["attention_mask"].all())
    assert longer["pixel_values"] is inputs["pixel_values"]
    assert half_way(target, inputs, answer[:1]) == (inputs, answer[:1], 0)


def test_a_method_that_graphs_refuses_has_prices_of_its_own(llava: Any) -> None:
    draft = Draft(LAYERS - 1, new_head("attention", llava, LAYERS - 1))
    engine, methods = Graphs(), (FastVLM(draft), FastVLM(draft, gamma=3), FastVLM(draft, gamma=5))
    for each in methods:
        each.engine = engine
    engine.gives_up(methods[2], "its passes cannot be recorded")
    keys = [passes_key(each, llava) for each in methods]
    assert keys[0] == keys[1] != keys[2]
    raw = [passes_key(each, llava) for each in (LayerSkip(2), LayerSkip(2, gamma=7), LayerSkip(3))]
    assert raw[0] == raw[1] != raw[2]
