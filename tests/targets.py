"""Small random-weight targets whose greedy outputs vary, and heads that are right most of the time."""

import copy
import os
from collections.abc import Iterable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from fastvlm_bench.checks.plain_passes import read
from fastvlm_bench.drafts.imitation_head import Draft
from fastvlm_bench.models.layers import decoder_layers

PROMPT = "\nDescribe this image in detail. ASSISTANT:"
LAYERS = 5
RECORDED = os.environ.get("TEST_ENGINE") == "graphs"
"""Whether every method of the tests has the engine `graphs` (conftest.py)."""


def random_llava(layers: int = LAYERS, seed: int = 0) -> Any:
    """A LLaVA of the embedded shape with random weights, scaled so that its outputs have many distinct tokens."""
    from transformers import LlavaForConditionalGeneration

    from fastvlm_bench.embedded.parts import build_config

    torch.manual_seed(seed)
    tokenizer = copy.deepcopy(_trained_tokenizer())
    model = LlavaForConditionalGeneration(build_config(tokenizer, layers)).eval()
    with torch.no_grad():
        for parameter in model.model.language_model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(0, 0.09)
    return model, tokenizer


@cache
def _trained_tokenizer() -> Any:
    """Training it takes longer than building a model. Callers get copies, which they may change."""
    from fastvlm_bench.embedded.parts import build_tokenizer
    from fastvlm_bench.embedded.train import tokenizer_texts

    return build_tokenizer(tokenizer_texts(0, scenes=200))


class OracleHead(nn.Module):
    """The target's own remaining layers, with a KV cache of their own. `spoiled`: the share of passes that give noise.

    A draft with random weights would never be accepted; this one meets acceptances and rejections at every exit.
    """

    attends = True
    recurs = False

    def __init__(self, model: Any, exit_layer: int, spoiled: float, seed: int = 0) -> None:
        super().__init__()
        self.layers = copy.deepcopy(nn.ModuleList(decoder_layers(model)[exit_layer:]))
        for index, layer in enumerate(self.layers):
            layer.__dict__.pop("forward", None)
            for module in layer.modules():
                if hasattr(module, "layer_idx"):
                    module.layer_idx = index
        self.spoiled, self.generator = spoiled, torch.Generator().manual_seed(seed)

    def forward(self, states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        for layer in self.layers:
            states = layer(states, *args, **kwargs)
        if torch.rand(1, generator=self.generator).item() < self.spoiled:
            return torch.randn(states.shape, generator=self.generator).to(states.dtype) * states.std()
        return states


class RecordableOracle(OracleHead):
    """Spoils what its own states say is to be spoilt. So its passes can be recorded, unlike those that draw numbers."""

    def forward(self, states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        for layer in self.layers:
            states = layer(states, *args, **kwargs)
        spoilt = (states.abs().sum(dim=-1, keepdim=True) * 97) % 1 < self.spoiled
        return torch.where(spoilt, jumbled(states), states)


def jumbled(states: Tensor) -> Tensor:
    """Noise of the size of the states, and the same for the same states."""
    return torch.sin(states * 1e3).flip(-1) * states.std() * 2**0.5


def oracle_draft(model: Any, exit_layer: int, spoiled: float = 0.25, seed: int = 0) -> Draft:
    kind = RecordableOracle if RECORDED else OracleHead
    return Draft(exit_layer, kind(model, exit_layer, spoiled, seed))  # type: ignore[arg-type]


def generate(model: Any, inputs: dict[str, Tensor], method: Any = None, count: int = 40, **options: Any) -> list[int]:
    """New token ids of greedy generation with `method`, or transformers' own loop."""
    given = {"custom_generate": method} if method is not None else {}
    ids = model.generate(**inputs, max_new_tokens=count, do_sample=False, **given, **options)
    new: list[int] = ids[0, inputs["input_ids"].shape[1] :].tolist()
    return new


def read_back(model: Any, inputs: dict[str, Any], tokens: list[int], block: int = 1) -> Tensor:
    """The plain target's logits for each token of an answer but the first, (tokens - 1, vocabulary)."""
    rows: list[Tensor] = []
    read(model, inputs, [tokens], lambda _, __, row: rows.append(row), block=block)
    return torch.stack(rows[1:])


def muted_llava(layers: int = 7, strength: float = 0.2, which: Iterable[int] | None = None) -> Any:
    """A random LLaVA whose layers `which` (default: all but the first and the last) add only `strength` of what they
    would: drafts that skip some of them are right now and then, and now and then wrong."""
    model, tokenizer = random_llava(layers)
    with torch.no_grad():
        for index in range(1, layers - 1) if which is None else which:
            layer = decoder_layers(model)[index]
            layer.self_attn.o_proj.weight.mul_(strength)
            layer.mlp.down_proj.weight.mul_(strength)
    return model, tokenizer
