"""Each family, built small with random weights: greedy identity with transformers' `generate` in float32."""

from typing import Any

import pytest
import torch
import transformers as hf
from covering import covering
from families import proof
from families.builders import FAMILIES, build, plain, randomise
from families.half import measure_half
from families.others import blip2_t5, gemma4, llama4
from families.proof import GAMMAS, Scripted
from families.shapes import IMAGE, LAYERS

from fastvlm_bench.checks.losslessness import judge_output
from fastvlm_bench.checks.self_check import self_check
from fastvlm_bench.decoding.fastvlm import FastVLM
from fastvlm_bench.decoding.layerskip import LayerSkip
from fastvlm_bench.decoding.standard import Standard
from fastvlm_bench.drafts.heads import new_head
from fastvlm_bench.drafts.imitation_head import Draft
from fastvlm_bench.engine.session import placeholders
from fastvlm_bench.errors import UsageError
from fastvlm_bench.models.layers import decoder_layers
from fastvlm_bench.models.t5 import shares_position_bias

FAST = ("blip2_t5",)
"""An encoder-decoder; `decoding` has plain decoders, sliding windows, and cross-attention."""
COUNT = 19
SHORT = 8
"""Tokens where next to nothing that is drafted stands: each is a round."""
NO_ATTENTION_HEAD = {"mllama": (1, 3)}
"""Exits whose next layer looks at the image only: its copy makes no head, and is refused."""


@pytest.fixture(scope="module", params=covering(FAMILIES, FAST))
def family(request: pytest.FixtureRequest) -> Any:
    model, inputs, expected = build(request.param, COUNT)
    assert len(expected) == COUNT and len(set(expected)) >= 8, f"outputs prove little: {expected}"
    return model, inputs, expected


def decode(model: Any, inputs: dict[str, Any], method: Any, count: int = COUNT, **options: Any) -> list[int]:
    return proof.decode(model, inputs, method, count, **options)


def test_identity(family: Any) -> None:
    model, inputs, expected = family
    assert decode(model, inputs, Standard()) == expected
    accepted = rejected = 0
    for exit_layer in range(1, LAYERS):
        for gamma in GAMMAS:
            method = Scripted(expected, exit_layer, gamma=gamma)
            assert decode(model, inputs, method) == expected, f"exit {exit_layer}, gamma {gamma}"
            accepted += sum(r.accepted for r in method.last.rounds)
            rejected += sum(r.tested - r.accepted for r in method.last.rounds)
        raw = decode(model, inputs, LayerSkip(exit_layer, gamma=4), SHORT)
        assert raw == expected[:SHORT], f"raw exit {exit_layer}"
    assert accepted > 50 and rejected > 20


def test_perfect_draft(family: Any) -> None:
    model, inputs, expected = family
    method = Scripted(expected, 2, 0.0, gamma=5)
    assert decode(model, inputs, method) == expected
    # 18 tokens follow the first, 6 in a round. Random weights may choose an image placeholder, which is never drafted.
    said = sum(token in placeholders(model) for token in expected[1:])
    assert 3 <= len(method.last.rounds) <= 3 + said


@pytest.mark.slow  # in the default run, heads that attend follow plain decoders
def test_attention_head(family: Any, request: pytest.FixtureRequest) -> None:
    model, inputs, expected = family
    refused = NO_ATTENTION_HEAD.get(request.node.callspec.params["family"], ())
    for exit_layer in range(1, LAYERS):
        draft = Draft(exit_layer, new_head("attention", model, exit_layer))
        if exit_layer in refused:
            with pytest.raises(UsageError, match="use --method standard"):
                self_check(model, inputs, exit_layer, draft)
            continue
        assert self_check(model, inputs, exit_layer, draft).difference < 1e-4
        assert decode(model, inputs, FastVLM(draft, gamma=3), SHORT) == expected[:SHORT], f"exit {exit_layer}"


def test_eos_inside_a_draft(family: Any) -> None:
    model, inputs, expected = family
    for place in (1, 4, 9):
        eos = expected[place]
        wanted = plain(model, inputs, COUNT, eos_token_id=eos)
        for spoiled in (0.0, 0.3):
            method = Scripted(expected, 2, spoiled, gamma=6)
            assert decode(model, inputs, method, eos_token_id=eos) == wanted
            assert method.last.stop == "eos"


def test_mlp_head(family: Any) -> None:
    model, inputs, expected = family
    for exit_layer in (1, 3):
        draft = Draft(exit_layer, new_head("mlp", model, exit_layer))
        assert decode(model, inputs, FastVLM(draft, gamma=3), SHORT) == expected[:SHORT]


def test_self_check(family: Any) -> None:
    model, inputs, _ = family
    for exit_layer in range(1, LAYERS):
        assert self_check(model, inputs, exit_layer).difference < 1e-4


def test_t5_lends_no_bias_to_blocks_that_have_their_own() -> None:
    """The bias is handed on only where the first block alone has a table of positions; UMT5's blocks each have one."""
    model, _ = blip2_t5()
    shape = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 2, "num_heads": 2, "vocab_size": 32}
    assert shares_position_bias(decoder_layers(model)) and shares_position_bias(
        hf.MT5Model(hf.MT5Config(**shape)).decoder.block
    )
    assert not shares_position_bias(hf.UMT5Model(hf.UMT5Config(**shape)).decoder.block)


def test_the_decoder_of_an_encoder_decoder_is_gated() -> None:
    """BLIP-2's `get_decoder` returns its whole text model, whose encoder comes first and may have as many layers."""
    model, _ = blip2_t5()
    assert decoder_layers(model) is model.language_model.decoder.block


def test_kv_sharing_past_the_donor_is_refused() -> None:
    model, inputs = gemma4(shared=2)
    randomise(model, 0)
    assert self_check(model, inputs, 1).difference < 1e-4
    with pytest.raises(UsageError, match="use an exit layer of at most 1, or --method standard"):
        self_check(model, inputs, 2)


def test_a_head_of_unlike_layers_is_refused() -> None:
    """Llama 4's second layer is chunked and its third is not: a twig head would fail once the chunk is full."""
    model, inputs = llama4()
    randomise(model, 0)
    assert self_check(model, inputs, 3, Draft(3, new_head("twig", model, 3))).difference < 1e-4
    with pytest.raises(UsageError, match="a head of 2 layers cannot follow exit 1, because layers 1 to 2 look back"):
        self_check(model, inputs, 1, Draft(1, new_head("twig", model, 1)))


def test_drafting_stops_at_an_image_placeholder() -> None:
    """A head that would draft a placeholder drafts nothing; the output stays the target's."""
    model, inputs, expected = build("llava", COUNT)

    class Placeholders(Scripted):
        def __init__(self) -> None:
            super().__init__([IMAGE] * COUNT, 2, 0.0, gamma=3)

    method = Placeholders()
    assert decode(model, inputs, method) == expected
    assert not any(r.drafted for r in method.last.rounds)


@pytest.mark.parametrize("name", covering(["llava", "florence2", "blip2_t5"], ["blip2_t5"]))
def test_a_wrong_token_is_judged_where_it_stands(name: str) -> None:
    """An encoder-decoder's answer follows a start token, not the prompt: its positions count from there."""
    model, inputs, expected = build(name, COUNT)
    wrong = list(expected)
    wrong[5] = next(token for token in range(20, 60) if token not in expected)
    found = judge_output(model, inputs, wrong, expected, limit=COUNT)
    assert found["outcome"] == "violation" and found["index"] == 5
    assert found["token"] == wrong[5] and found["expected"] == expected[5] and found["gap"] > found["epsilon"]


@pytest.mark.slow
def test_half_precision_is_counted_beside_its_own_noise() -> None:
    """In float32 no token changes: not with drafts, not in the control, not in standard decoding in blocks."""
    model, inputs, _ = build("llava")
    exits = (1, LAYERS - 1)
    found = measure_half(model, [inputs], exits)
    assert found.speculative == {"identical": len(exits) * len(GAMMAS)}
    assert found.control == {"identical": len(GAMMAS)}
    assert (
        found.turned == 0
        and found.positions == proof.COUNT - 1
        and found.block_difference < 1e-4 > found.exit_difference
    )
    found = measure_half(model.to(torch.bfloat16), [{k: v.to(torch.bfloat16) if v.is_floating_point() else v
                                                     for k, v in inputs.items()}], exits)  # fmt: skip
    assert "violation" not in found.speculative | found.control
    assert found.block_difference > 1e-3, "bfloat16 rounds a block unlike single tokens"
