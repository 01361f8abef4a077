"""Recorded passes of each family give the tokens that eager ones give, or the engine says why it leaves them eager."""

from typing import Any

import pytest
from covering import covering
from families.builders import FAMILIES, build
from families.proof import Scripted, decode
from families.shapes import LAYERS

from fastvlm_bench.decoding import hf_generate
from fastvlm_bench.decoding.hf_generate import HfGenerate
from fastvlm_bench.decoding.layerskip import LayerSkip
from fastvlm_bench.decoding.standard import Standard
from fastvlm_bench.engine.graphs import Graphs
from fastvlm_bench.engine.measure import measure

COUNT = 19
NO_SLOTS = "keeps LinearAttention"
EAGER = {
    "mllama": "attends to its image in layers of their own", "blip2_t5": "not of its text alone",
    "instructblip_t5": "not of its text alone", "florence2": "not of its text alone",
    "kosmos2": "depends on the numbers in a tensor", "paligemma2": "'dict' object has no attribute 'ndim'",
    "qwen3_5": NO_SLOTS, "qwen3_5_moe": NO_SLOTS, "minicpmv4_6": NO_SLOTS, "lfm2_vl": NO_SLOTS, "lfm3_vl": NO_SLOTS,
    "nemotron_h_omni": NO_SLOTS, "glm5_next": NO_SLOTS, "inkling": NO_SLOTS,
}  # fmt: skip
"""Family -> a part of the reason why its passes are not recorded."""
GROWING = {"kosmos2": "must match the size", "paligemma2": "no attribute 'ndim'", "inkling": "must match the size"}
"""Family -> a part of the reason why transformers' own loop has no static cache."""
FAST = ("qwen2_vl",)
"""Positions of three axes; `decoding` has plain ones, and what is left to eager passes."""


@pytest.mark.parametrize("family", covering(FAMILIES, FAST))
def test_identity(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs, expected = build(family, COUNT)
    engine = Graphs()

    def said(method: Any, **options: Any) -> list[int]:
        method.engine = engine
        return decode(model, inputs, method, COUNT, **options)

    assert said(Standard()) == expected
    for exit_layer in range(1, LAYERS):
        method = Scripted(expected, exit_layer, gamma=(1, 3, 6)[exit_layer % 3])
        assert said(method) == expected, f"exit {exit_layer}"
        assert said(method) == expected, f"exit {exit_layer}, once more"
    assert said(LayerSkip(2, gamma=4)) == expected
    for place in (1, 4):
        ended = Scripted(expected, 2, 0.0, gamma=6)
        assert said(ended, eos_token_id=expected[place]) == expected[: expected.index(expected[place]) + 1]
    if family in EAGER:
        assert engine.recorded == 0 and all(EAGER[family] in reason for reason in engine.reasons), engine.reasons
    else:
        assert engine.recorded > 0 and not engine.reasons, engine.reasons
    monkeypatch.setattr(hf_generate, "STATIC_ON", {"cpu"})  # as on a GPU
    hf, engine = HfGenerate(), Graphs()
    hf.engine = engine
    assert measure(hf, model, dict(inputs), COUNT).rows[0].token_ids == expected
    failed = [GROWING.get(family, "no reason is known") in reason for reason in engine.reasons]
    assert failed == [True] * (family in GROWING), engine.reasons
