"""Passes and what follows from them, on a model of round numbers that can be computed by hand; and against a loop."""

import random
from dataclasses import replace

import pytest

from fastvlm_bench.predicting.devices import Device
from fastvlm_bench.predicting.passes import Drafting, Load
from fastvlm_bench.predicting.structure import Layer, Structure, Weights
from fastvlm_bench.predicting.surface import Acceptance, Surface, gain_ends, memory

LAYER = Layer(Weights(1000), kv=10, read=10, state=0, window=None, attention=40)
MODEL = Structure("model", [LAYER] * 8, beside=0, output=2000, vocabulary=100, width=20, parameters=12000, packed=8000)
SLOW_MEMORY = Device("slow", 1e3, {"bfloat16": 1e9}, 30000, "")


def load(**changes: object) -> Load:
    return replace(Load(MODEL, SLOW_MEMORY, "bfloat16", 16, batch=1, context=50), **changes)  # type: ignore[arg-type]


def test_passes_by_hand() -> None:
    standard = load().standard()
    assert standard.bytes == 8 * (1000 * 2 + 10 * 51 * 2) + 2000 * 2
    assert standard.flops == 8 * (2 * 1000 + 40 * 50) + 2 * 2000
    assert standard.seconds == pytest.approx(standard.bytes / 1e3)
    drafting = Drafting(load(), 2)
    assert drafting.draft.bytes == 2 * (2000 + 1020) + 4000
    assert drafting.verify(3).bytes == 6 * (2000 + 10 * 54 * 2) + 4000
    assert drafting.round_s(3) == pytest.approx(4 * drafting.draft.seconds + drafting.verify(3).seconds)


def test_a_peak_binds_where_products_are_dear() -> None:
    device = Device("slow products", 1e9, {"bfloat16": 1e3}, None, "")
    own = load(device=device)
    assert own.standard().seconds == pytest.approx(own.standard().flops / 1e3)


def test_windows_packing_and_reduced_vocabularies() -> None:
    windowed = replace(MODEL, layers=[replace(LAYER, window=20)] * 8)
    assert load(structure=windowed).standard().bytes == load(context=20).standard().bytes
    assert load(weight_bits=4).standard().bytes == load().standard().bytes - 8 * 1000 * 1.5
    assert Drafting(load(), 2, vocabulary=25).draft.bytes == Drafting(load(), 2).draft.bytes - 3000


def test_a_head_is_not_packed() -> None:
    """`--quantize` packs the model that is loaded; a draft's own weights stay as they were trained."""
    packed = load(weight_bits=4.5)
    with_head, bare = Drafting(packed, 2, LAYER), Drafting(packed, 2)
    assert with_head.draft.bytes - bare.draft.bytes == pytest.approx(1000 * 2 + 10 * 51 * 2)
    assert memory(with_head).draft == 1000 * 2


def test_expected_tokens_are_those_of_a_loop() -> None:
    draw = random.Random(0)

    def emitted(rates: list[float]) -> int:
        stands = 0
        while stands < len(rates) and draw.random() < rates[stands]:
            stands += 1
        return stands + 1

    for acceptance, rates in (
        (Acceptance(0.8), [0.8] * 5), (Acceptance(0.9, (0.9, 0.6)), [0.9, 0.6, 0.6, 0.6]), (Acceptance(1.0), [1.0] * 3),
    ):  # fmt: skip
        mean = sum(emitted(rates) for _ in range(40000)) / 40000
        assert acceptance.expected(len(rates)) == pytest.approx(mean, rel=0.01)
    assert Acceptance(0.8).expected(5) == pytest.approx((1 - 0.8**6) / (1 - 0.8))


def test_the_least_alpha_is_where_the_speedup_is_reached() -> None:
    surface = Surface(Drafting(load(), 2))
    least = surface.least_alpha(1.25)
    assert least is not None
    assert surface.best(Acceptance(least)).speedup >= 1.25 > surface.best(Acceptance(least - 1e-4)).speedup
    assert surface.least_alpha(50.0) is None


def test_the_gain_ends_where_products_bind() -> None:
    """With no KV to read, verifying γ + 1 positions is free only until products take longer than memory."""
    bare = replace(MODEL, layers=[replace(LAYER, kv=0, read=0, attention=0)] * 8)
    drafting = Drafting(load(structure=bare, device=Device("balanced", 1e3, {"bfloat16": 64e3}, None, "")), 2)
    end = gain_ends(drafting, Acceptance(0.8))
    assert end is not None and 2 < end <= 64
    assert Surface(drafting.sized(end)).best(Acceptance(0.8)).speedup <= 1
    assert Surface(drafting.sized(end - 1)).best(Acceptance(0.8)).speedup > 1
    assert gain_ends(drafting, Acceptance(0.8), end - 1) is None
    assert gain_ends(drafting, Acceptance(0.0)) == 1


def test_packed_memory_counts_each_parameter_once() -> None:
    """Layers that share their weights read them eight times a pass and hold them once."""
    shared = replace(MODEL, parameters=5000, packed=1000)
    held = memory(Drafting(load(structure=shared, weight_bits=4.5), 2))
    assert held.weights == 1000 * 4.5 / 8 + 4000 * 2
    assert memory(Drafting(load(structure=shared), 2)).weights == 5000 * 2


def test_memory_is_weights_and_kv() -> None:
    held = memory(Drafting(load(), 2, LAYER))
    assert (held.weights, held.draft) == (24000, 2000)
    assert (held.kv, held.draft_kv) == (8 * 10 * 50 * 2, 10 * 50 * 2)
    assert held.batch == 0 and memory(Drafting(load(context=1), 2, LAYER)).batch == 22
