"""How long the device computes within a phase: by hand, on a CPU, and by a fake record of a GPU."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from covering import covering
from targets import generate
from torch import Tensor
from torch.autograd import DeviceType
from transformers import StoppingCriteriaList

from fastvlm_bench.decoding.hf_generate import HfGenerate
from fastvlm_bench.decoding.layerskip import LayerSkip
from fastvlm_bench.decoding.standard import Standard
from fastvlm_bench.engine import kernels
from fastvlm_bench.engine.graphs import Graphs
from fastvlm_bench.engine.kernels import FirstTokens, Kernels, busy_seconds, kernels_of, spans_of
from fastvlm_bench.engine.measure import measure
from fastvlm_bench.models.layers import vision_module

COUNT = 24


def test_seconds_by_hand() -> None:
    """Two kernels at a time count once, one that lies across a border in parts, and vision is no part of prefill."""
    spans = [("whole", 0.0, 100.0), ("prefill", 10.0, 40.0), ("vision", 12.0, 20.0), ("draft", 50.0, 60.0),
             ("verify", 60.0, 80.0), ("draft", 80.0, 82.0)]  # fmt: skip
    ran = [(12.0, 16.0), (14.0, 18.0), (25.0, 30.0), (58.0, 64.0), (81.0, 82.0), (90.0, 93.0), (200.0, 300.0)]
    found = {name: round(value * 1e6, 6) for name, value in busy_seconds(ran, spans).items()}
    assert found == {"vision_s": 6, "prefill_s": 5, "draft_s": 2 + 1, "verify_s": 4, "other_s": 3}


def event(name: str, begin: float, end: float, gpu: bool = False, children: int = 0, **more: Any) -> Any:
    kind = DeviceType.CUDA if gpu else DeviceType.CPU
    return SimpleNamespace(name=name, device_type=kind, time_range=SimpleNamespace(start=begin, end=end),
                           cpu_children=[None] * children, **more)  # fmt: skip


def test_a_gpus_own_record_counts_and_not_what_launches_it() -> None:
    events = [
        event("fastvlm_bench.whole", 0, 100), event("fastvlm_bench.verify", 10, 60),
        event("aten::mm", 11, 14, children=1), event("cudaLaunchKernel", 12, 13), event("cudaGraphLaunch", 15, 16),
        event("gemv", 20, 25, gpu=True), event("Memcpy DtoH", 30, 31, gpu=True), event("argmax", 70, 72, gpu=True),
        event("fastvlm_bench.verify", 10, 60, gpu=True), event("step", 10, 60, gpu=True, is_user_annotation=True),
    ]  # fmt: skip
    assert spans_of(events) == [("whole", 0, 100), ("verify", 10, 60)]
    assert kernels_of(events, True) == [(20, 25), (30, 31), (70, 72)]
    found = busy_seconds(kernels_of(events, True), spans_of(events))
    assert found["verify_s"] == pytest.approx(6e-6) and found["other_s"] == pytest.approx(2e-6)


def test_on_a_cpu_only_operations_that_compute_count() -> None:
    events = [event("aten::linear", 0, 9, children=2), event("aten::t", 1, 2, children=1), event("aten::mm", 3, 8),
              event("aten::as_strided", 1, 2), event("fastvlm_bench.draft", 0, 9)]  # fmt: skip
    assert kernels_of(events, False) == [(3, 8)]


@pytest.mark.parametrize("name", covering(["standard", "layerskip", "hf-generate", "graphs"], ["layerskip"]))
def test_a_watched_generation(
    llava: Any, inputs: dict[str, Tensor], name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    method: Any = {"layerskip": LayerSkip(2, gamma=3), "hf-generate": HfGenerate()}.get(name, Standard())
    if name == "graphs":
        method.engine = Graphs()
    made: list[Kernels] = []
    first = FirstTokens(inputs["input_ids"].shape[1], 6)
    options = {"do_sample": False, "stopping_criteria": StoppingCriteriaList([first])}
    for _ in range(2 if name == "graphs" else 1):  # a recorded pass is only seen when it is repeated
        trace = measure(method, llava, dict(inputs), COUNT, vision_module(llava), options,
                        phases=lambda *args: made.append(Kernels(*args)) or made[-1])  # fmt: skip
    said = generate(llava, inputs, count=COUNT)
    assert 6 <= len(trace.rows[0].token_ids) <= 9 and said[:6] == trace.rows[0].token_ids[:6]
    busy, wall = made[-1].busy, trace.phases
    assert wall is not None
    for phase in ("vision_s", "prefill_s", "verify_s"):
        assert 0 < busy[phase] < (wall[phase] or 0), phase
    assert (busy["draft_s"] > 0) == (name == "layerskip") and busy["other_s"] >= 0
    assert not llava._forward_hooks and not llava._forward_pre_hooks
    assert "profiler" not in capfd.readouterr().err


def test_on_a_gpu_passes_are_synchronised_and_its_record_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fake device: which activities are profiled, and that each border of a pass waits for what was launched."""
    asked, waits = list[Any](), list[int]()
    events = [event("fastvlm_bench.whole", 0, 100), event("fastvlm_bench.prefill", 1, 2),
              event("fastvlm_bench.verify", 10, 60), event("gemv", 20, 45, gpu=True)]  # fmt: skip

    class Fake:
        def __init__(self, activities: Any, acc_events: bool) -> None:
            asked.extend(activities)

        def __enter__(self) -> Any:
            return SimpleNamespace(events=lambda: events)

        def __exit__(self, *args: Any) -> None: ...

    clock: Any = SimpleNamespace(device="cuda:0", stamp=lambda: 0.0, synchronised=lambda: waits.append(1),
                                 between=lambda a, b: b - a)  # fmt: skip
    monkeypatch.setattr(kernels, "profile", Fake)
    model = torch.nn.Identity()
    watching = Kernels(clock, SimpleNamespace(drafting=False), model, None)
    with watching.watched():
        model(1)
        before = len(waits)
        model(2)
        assert len(waits) == before + 2
        watching.end()
        watching.end()
    assert [kind.name for kind in asked] == ["CPU", "CUDA"]
    assert watching.busy["verify_s"] == pytest.approx(25e-6)
