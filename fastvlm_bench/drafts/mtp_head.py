"""The layer for multi-token prediction that Qwen3.5's checkpoints carry as `mtp.*`, which transformers leaves out.

The order of its parts is that of transformers 5.23's own `MtpLayer` (modeling_layers.py), and of vLLM's
`qwen3_5_mtp.py`: fc([norm of the embedding; norm of the state]), one decoder layer, a norm. The state it reads is the
one after the target's final norm; its own output, after its norm, is what it goes on from and what the target's LM head
reads. Positions are those of the states, as in vLLM; transformers takes those of the tokens, one further, which is the
same to rotary attention except beside an image.
"""

import copy
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.masking_utils import create_causal_mask

from fastvlm_bench.drafts.fitting import MTP_PREFIX, check_mtp
from fastvlm_bench.drafts.head_files import read_weights
from fastvlm_bench.drafts.heads import floating, unpacked
from fastvlm_bench.drafts.load_eagle import check_target, fill, placed
from fastvlm_bench.drafts.state_heads import Borrowed, StateHead
from fastvlm_bench.errors import UsageError
from fastvlm_bench.models.layers import decoder_layers, output_embeddings, owner

FULL = "full_attention"
_EXPERT = re.compile(r"(.*\.experts)\.(\d+)\.(gate_proj|up_proj|down_proj)\.weight")


class MtpHead(StateHead):
    """A copy of one of the target's own full-attention layers, with weights of its own, between two norms and one.

    UsageError where the target has no such layer.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        layers, self.config = decoder_layers(model), model.config.get_text_config(decoder=True)
        kinds = getattr(self.config, "layer_types", None) or [FULL] * len(layers)
        if FULL not in kinds:
            raise UsageError(f"{type(model).__name__} has no layer of full attention, as its mtp layer would be one")
        like = unpacked(layers[max(i for i, kind in enumerate(kinds) if kind == FULL)])
        like.__dict__.pop("forward", None)
        for module in like.modules():
            if hasattr(module, "layer_idx"):
                setattr(module, "layer_idx", 0)  # noqa: B010 - a module's own, untyped attribute
        width = output_embeddings(model).in_features
        self.layers = nn.ModuleList([like])
        norm: Any = like.input_layernorm
        self.pre_fc_norm_embedding, self.pre_fc_norm_hidden = copy.deepcopy(norm), copy.deepcopy(norm)
        self.norm = copy.deepcopy(norm)
        self.fc = nn.Linear(2 * width, width, bias=False)
        self.vocabulary = output_embeddings(model).out_features
        self._rotary = Borrowed(owner(model, layers).rotary_emb)
        self._embeddings, self._output = Borrowed(model.get_input_embeddings()), Borrowed(output_embeddings(model))

    def fuse(self, states: Sequence[Tensor]) -> Tensor:
        return states[0]

    def embed(self, tokens: Tensor) -> Tensor:
        return self._embeddings(tokens)

    def forward(
        self, embeds: Tensor, states: Tensor, positions: Tensor, cache: Any, mask: Tensor | None = None,
        fill: bool = False,
    ) -> Any:  # fmt: skip
        if mask is not None:
            raise UsageError("an mtp layer drafts for one sequence at a time; use --batch-size 1")
        joined = torch.cat([self.pre_fc_norm_embedding(embeds), self.pre_fc_norm_hidden(states)], dim=-1)
        joined = self.fc(joined)
        causal = create_causal_mask(
            config=self.config, inputs_embeds=joined, attention_mask=None, past_key_values=cache, position_ids=None
        )
        found = self.layers[0](
            joined, position_embeddings=self._rotary.module(joined, positions), attention_mask=causal,
            past_key_values=cache, position_ids=None,
        )  # fmt: skip
        return self.norm(found[0] if isinstance(found, tuple) else found)

    def logits(self, states: Tensor) -> Tensor:
        return self._output(states)


def load_mtp(folder: Path, model: Any, name: str) -> MtpHead:
    """The mtp layer in the files of the target's own checkpoint. UsageError where there is none, or not just one."""
    check_target(model, name)
    found = read_weights(folder, lambda key: key.startswith(MTP_PREFIX))
    weights = {key.removeprefix(MTP_PREFIX): value for key, value in found.items()}
    check_mtp(list(weights), name)
    head = MtpHead(model)
    fill(head, joined_experts(weights), folder)
    return placed(head, floating(decoder_layers(model)[-1]))


def joined_experts(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights with those of single experts joined into one tensor, as transformers' layers hold them."""
    found: dict[str, Tensor] = {}
    experts: dict[str, dict[tuple[str, int], Tensor]] = defaultdict(dict)
    for name, value in weights.items():
        if (match := _EXPERT.fullmatch(name)) is not None:
            experts[match[1]][match[3], int(match[2])] = value
        else:
            found[name] = value
    for place, parts in experts.items():
        numbers = sorted({number for _, number in parts})
        if len(parts) < 3 * len(numbers):
            continue  # `fill` names what is missing
        both = [torch.cat([parts["gate_proj", i], parts["up_proj", i]]) for i in numbers]
        found[f"{place}.gate_up_proj"] = torch.stack(both)
        found[f"{place}.down_proj"] = torch.stack([parts["down_proj", i] for i in numbers])
    return found
