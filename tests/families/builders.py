"""One small random-weight build of each family, from the family's own configuration classes. Nothing is downloaded.

The inputs are built directly as tensors, as the family's processor would give them: this proves the engine on the
architecture, not the processor. `FAMILIES` maps a family's name to its builder.
"""

import copy
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from families.decoder_only import (
    fast_vlm,
    gemma3,
    glm4v,
    idefics2,
    idefics3,
    internvl,
    llava,
    llava_next,
    llava_onevision,
    mistral3,
    paligemma,
    paligemma2,
    pixtral,
    qwen2_5_vl,
    qwen2_vl,
    qwen3_vl,
    smolvlm,
)
from families.others import (
    aya_vision,
    blip2,
    blip2_t5,
    florence2,
    gemma4,
    instructblip,
    instructblip_t5,
    kosmos2,
    lfm2_vl,
    llama4,
    mllama,
)
from families.recurrent import glm5_next, inkling, lfm3_vl, minicpmv4_6, nemotron_h_omni, qwen3_5, qwen3_5_moe
from families.shapes import Built
from torch import Tensor

FAMILIES: dict[str, Callable[[], Built]] = {
    f.__name__: f
    for f in (
        llava, qwen2_vl, qwen2_5_vl, qwen3_vl, llava_next, llava_onevision, idefics3, smolvlm, paligemma, paligemma2,
        gemma3, internvl, idefics2, mistral3, pixtral, mllama, blip2, blip2_t5, instructblip,
        instructblip_t5, aya_vision, glm4v, lfm2_vl, gemma4, llama4, kosmos2, florence2, fast_vlm,
        qwen3_5, qwen3_5_moe, minicpmv4_6, nemotron_h_omni, glm5_next, lfm3_vl, inkling,
    )
}  # fmt: skip
SEVERAL_STREAMS = ("glm5_next",)
"""Families whose layers hand on several streams of states, so that no head can be trained on them."""


def randomise(model: Any, seed: int) -> Any:
    """Random weights of such a size that the layers, not the last token's embedding, decide on the next token."""
    generator = torch.Generator().manual_seed(seed)
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, torch.nn.Embedding)}
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if parameter.ndim >= 2:
                small = id(parameter) in embeddings and type(model).__name__ in SCALED
                parameter.normal_(0, 0.02 if small else 0.17, generator=generator)
            elif "norm" not in key:
                parameter.normal_(0, 0.02, generator=generator)
    return model.eval()


SCALED = (
    "PaliGemmaForConditionalGeneration", "Gemma3ForConditionalGeneration", "Kosmos2ForConditionalGeneration",
    "Florence2ForConditionalGeneration", "Blip2ForConditionalGeneration",
)  # fmt: skip
"""Models that multiply their embeddings by the square root of the width, or tie them to the LM head."""


def plain(model: Any, inputs: dict[str, Tensor], count: int, **options: Any) -> list[int]:
    """New tokens of transformers' own greedy generation; some models return the prompt with them, some do not."""
    with torch.inference_mode():
        first = model.generate(**inputs, max_new_tokens=1, do_sample=False)
        ids = model.generate(**inputs, max_new_tokens=count, do_sample=False, **options)
    new: list[int] = ids[0, first.shape[1] - 1 :].tolist()
    return new


def vary(model: Any, inputs: dict[str, Tensor], count: int) -> list[int]:
    """Give the model the first random weights whose greedy output has varied tokens; returns that output."""
    best: tuple[int, int] = (0, 0)
    for seed in range(12):
        tokens = plain(randomise(model, seed), inputs, count)
        if len(tokens) == count:
            best = max(best, (len(set(tokens)), -seed))
        if best[0] >= 11:
            return tokens
    randomise(model, -best[1])
    return plain(model, inputs, count)


MOST = 24
"""Tokens of the outputs of all families."""


def build(name: str, count: int = MOST) -> tuple[Any, dict[str, Tensor], list[int]]:
    """The family's model, inputs and plain greedy output. Each caller has a model of its own, which it may change."""
    (model, inputs, expected), random_state = _built(name)
    torch.set_rng_state(random_state)  # a head that is built next is the same one, whoever asked before
    if count > len(expected):
        raise ValueError(f"{count} tokens asked for, but the outputs have {len(expected)}: raise MOST")
    return (*copy.deepcopy((model, inputs)), expected[:count])


@cache
def _built(name: str) -> tuple[tuple[Any, dict[str, Tensor], list[int]], Tensor]:
    """Finding weights whose output varies takes up to twelve generations, and several files ask for a family."""
    torch.manual_seed(0)
    model, inputs = FAMILIES[name]()
    made = model, inputs, vary(model, inputs, MOST)
    return made, torch.get_rng_state()
