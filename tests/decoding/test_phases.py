"""Phases: every pass falls into one, they add up to the whole, and on a GPU only events are used."""

from types import SimpleNamespace
from typing import Any

import pytest
from covering import covering
from fake_stream import FakeStream
from targets import generate, oracle_draft

from fastvlm_bench.decoding.early_exit import EarlyExit
from fastvlm_bench.decoding.fastvlm import FastVLM
from fastvlm_bench.decoding.hf_generate import HfGenerate
from fastvlm_bench.decoding.standard import Standard
from fastvlm_bench.engine.measure import measure
from fastvlm_bench.engine.phases import Phases
from fastvlm_bench.machine.clock import Clock, FakeClock
from fastvlm_bench.models.layers import decoder_layers, vision_module

COUNT = 12


@pytest.mark.parametrize("name", covering(["standard", "fastvlm", "early-exit", "hf-generate"], ["fastvlm"]))
def test_the_phases_add_up_and_leave_the_output_alone(llava: Any, inputs: dict[str, Any], name: str) -> None:
    clock = FakeClock(0)
    method: Any = {
        "standard": Standard(clock=clock), "fastvlm": FastVLM(oracle_draft(llava, 2), gamma=3, clock=clock),
        "early-exit": EarlyExit(oracle_draft(llava, 2), clock=clock), "hf-generate": HfGenerate(clock=clock),
    }[name]  # fmt: skip
    vision: Any = vision_module(llava)
    slow = [*(layer.mlp for layer in decoder_layers(llava)), next(m for m in vision.modules() if m is not vision)]
    hooks = [module.register_forward_hook(lambda *_: clock.advance(1.0)) for module in slow]
    try:
        trace = measure(method, llava, inputs, COUNT, vision, phases=True)
    finally:
        for hook in hooks:
            hook.remove()
    told = trace.phases
    assert told is not None
    found = {key.removesuffix("_s"): value for key, value in told.items()}
    assert all(value >= 0 for value in found.values())
    (row,) = trace.rows
    assert sum(found.values()) == pytest.approx(trace.ttft_s + trace.decode_s)
    assert found["other"] == pytest.approx(0.0), "time passes within the model alone"
    assert found["vision"] > 0 and found["prefill"] > 0 and trace.vision_s == found["vision"]
    assert (found["draft"] > 0) == (name in ("fastvlm", "early-exit"))
    assert (found["verify"] > 0) == (name != "early-exit")
    if name != "early-exit":
        assert row.token_ids == generate(llava, inputs, count=COUNT)
    assert not llava._forward_hooks and not llava._forward_pre_hooks
    plain = measure(method, llava, inputs, COUNT)
    assert plain.phases is None
    grown = inputs["input_ids"].shape[1] + COUNT - 1
    layers, config = len(llava.model.language_model.layers), llava.config.text_config
    whole = 2 * 4 * layers * grown * config.num_key_value_heads * config.head_dim
    if name in ("standard", "hf-generate"):
        assert plain.cache_bytes == whole


def test_on_a_gpu_nothing_waits_and_events_are_read_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two passes of a fake model, 2 and 3 ms, in a stream that the host runs ahead of."""
    stream = FakeStream()
    hooks: dict[str, list[Any]] = {"before": [], "after": []}

    def register(kind: str, hook: Any) -> Any:
        hooks[kind].append(hook)
        return SimpleNamespace(remove=lambda: hooks[kind].remove(hook))

    model: Any = SimpleNamespace(
        register_forward_pre_hook=lambda hook: register("before", hook),
        register_forward_hook=lambda hook: register("after", hook),
    )
    stream.install(monkeypatch)
    clock = Clock("cuda:0")
    phases = Phases(clock, SimpleNamespace(), model, None)
    with phases.watched():
        for milliseconds in (2.0, 3.0):
            for hook in hooks["before"]:
                hook()
            stream.now += milliseconds
            for hook in hooks["after"]:
                hook()
            stream.now += 0.5
    assert hooks == {"before": [], "after": []} and set(stream.log) == {"record"}
    clock.synchronised()
    told = phases.seconds()
    assert told["vision_s"] is None and told["prefill_s"] == pytest.approx(0.002)
    assert told["verify_s"] == pytest.approx(0.003) and told["other_s"] == pytest.approx(0.001)
    assert stream.log.index("read") > stream.log.index("wait")
