"""A head's rotary positions are those of the target's own family: of one axis, of three, in runs or in turns."""

from typing import Any

import pytest
import torch
from covering import covering
from families.builders import build
from state_heads import head_config, save_head

from fastvlm_bench.drafts.eagle_layers import Rotary, layer_config
from fastvlm_bench.drafts.formats import HeadFormat, read_format

POSITIONS = torch.tensor([[0, 1, 2, 2, 2, 2, 5], [0, 1, 2, 2, 3, 3, 5], [0, 1, 2, 3, 2, 3, 5]])[:, None]


def rotary(head: HeadFormat) -> Rotary:
    return Rotary(layer_config(head), head.sections, bool(head.rope.get("mrope_interleaved")))


AXES = [("qwen2_vl", [2, 2, 2]), ("qwen2_5_vl", [1, 3, 2]), ("qwen3_vl", [2, 2, 2]), ("qwen3_5", [2, 2, 2])]


@pytest.mark.parametrize(("family", "sections"), covering(AXES, AXES[1:3]))
def test_three_axes(family: str, sections: list[int], tmp_path: Any) -> None:
    model, _, _ = build(family)
    own: Any = model.model.language_model.rotary_emb
    own.mrope_section = sections
    interleaved = family.startswith("qwen3")
    rope = {"rope_type": "default", "mrope_section": sections, "mrope_interleaved": interleaved}
    head = read_format(save_head(tmp_path / "head", head_config(model, rope_scaling=rope, head_dim=12), {}), "eagle3")
    states = torch.zeros(1, POSITIONS.shape[-1], 48)
    for mine, wanted in zip(rotary(head)(states, POSITIONS), own(states, POSITIONS), strict=True):
        torch.testing.assert_close(mine[:, 0], wanted)
    # Where the axes agree, as in text, it is plain rotary embedding.
    same = POSITIONS[:1].expand(3, -1, -1)
    for mine, wanted in zip(rotary(head)(states, same), rotary(head)(states, POSITIONS[0]), strict=True):
        assert torch.equal(mine, wanted)


@pytest.mark.parametrize("rope", [
    {"rope_theta": 5e5},
    {"rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                                         "high_freq_factor": 4.0, "original_max_position_embeddings": 64}},
    {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}},
])  # fmt: skip
def test_one_axis_as_llama_has_it(rope: dict[str, Any], tmp_path: Any) -> None:
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    model, _, _ = build("llava")
    head = read_format(save_head(tmp_path / "head", {**head_config(model), **rope}, {}), "eagle3")
    shape = {"hidden_size": 48, "num_attention_heads": 4, "max_position_embeddings": 512}
    own = LlamaRotaryEmbedding(LlamaConfig(**shape, **rope))
    states = torch.zeros(1, 7, 48)
    for mine, wanted in zip(rotary(head)(states, POSITIONS[0]), own(states, POSITIONS[0]), strict=True):
        torch.testing.assert_close(mine[:, 0], wanted)
