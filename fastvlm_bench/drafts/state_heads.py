"""Heads that draft from states of the target's own passes: what a loop needs of one, and EAGLE-1, 2 and 3.

Entry p of a head's cache belongs to position p of the text. It is made of the target's state there and of the embedding
of the token that follows, p + 1, and predicts token p + 2. Beyond what the target has read, the head's own output at
p - 1 takes the place of the target's state at p. Positions are those of the states, as in vLLM.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from fastvlm_bench.drafts.eagle_layers import Layer, Rotary, layer_config
from fastvlm_bench.drafts.formats import HeadFormat

LAST = -1
"""The number of the state that leaves the target's final norm. Others are numbered as in `formats.py`."""
NEVER = -1e30
"""The logit of an id that a head cannot draft. Its probability is exactly 0, unless every other id is forbidden too: so
it is a number, not minus infinity, of which no distribution could be made."""


class StateHead(nn.Module):
    """The base of these heads. reads: numbers of the target's states that it reads.

    ids: the target's id of each id that it drafts, (draft vocabulary,); None where they are the same. vocabulary: how
    many ids the target has. merged: what it reads of an image is what the target embeds there; otherwise it is the
    embedding of the placeholder as a word.
    """

    reads: tuple[int, ...] = (LAST,)
    ids: Tensor | None = None
    vocabulary = 0
    merged = True
    own_embeddings = False
    takes_slots = False  # whether its layers may read a cache of a fixed size under a mask

    def fuse(self, states: Sequence[Tensor]) -> Tensor:
        """One state for each position, (rows, k, width), of those that the head reads."""
        raise NotImplementedError

    def embed(self, tokens: Tensor) -> Tensor:
        """The embeddings of tokens, (rows, k) -> (rows, k, width)."""
        raise NotImplementedError

    def forward(
        self, embeds: Tensor, states: Tensor, positions: Tensor, cache: Any, mask: Tensor | None = None,
        fill: bool = False,
    ) -> Any:  # fmt: skip
        """The head's own states, (rows, k, width), from which it goes on and which `logits` takes.

        positions: (rows, k), or (3, rows, k) where the target's have three axes. mask: as in `eagle_layers.Attention`.
        fill: only the cache is needed, so that nothing is returned.
        """
        raise NotImplementedError

    def logits(self, states: Tensor) -> Tensor:
        """(rows, k, draft vocabulary)."""
        raise NotImplementedError

    def new_cache(self) -> DynamicCache:
        """An empty cache for the head's layers."""
        cache = DynamicCache()
        cache.layers = [DynamicLayer() for _ in range(self.depth)]
        return cache

    @property
    def depth(self) -> int:
        """How many layers have a cache."""
        return 1

    def spread(self, logits: Tensor) -> Tensor:
        """Logits over the target's ids, float32, in which an id that the head does not know is never drawn."""
        if self.ids is None:
            return logits
        whole = torch.full((*logits.shape[:-1], self.vocabulary), NEVER, device=logits.device)
        whole[..., self.ids] = logits.float()
        return whole

    def target_ids(self, drafted: Tensor) -> Tensor:
        """The target's ids of drafted ids."""
        return drafted if self.ids is None else self.ids[drafted]

    @property
    def weight_bytes(self) -> int:
        """Bytes that the head adds to the target. What it takes from the target is not counted."""
        return sum(p.numel() * p.element_size() for p in self.parameters())


class Borrowed:
    """Holds a module of the target, so that it is no part of the head that uses it."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __call__(self, given: Tensor) -> Tensor:
        found: Tensor = self.module(given)
        return found


class Eagle(StateHead):
    """What EAGLE heads share. has: names of the weights in the head's files. embeddings: the target's own."""

    takes_slots = True

    def __init__(self, head: HeadFormat, has: frozenset[str], embeddings: nn.Module, vocabulary: int) -> None:
        super().__init__()
        self.config, self.vocabulary = layer_config(head), vocabulary
        self.rotary = Rotary(self.config, head.sections, bool(head.rope.get("mrope_interleaved")))
        self.own_embeddings = "embed_tokens.weight" in has
        if self.own_embeddings:
            self.embed_tokens: Any = nn.Embedding(head.vocabulary, head.width)
        else:
            self.embed_tokens = Borrowed(embeddings)

        def named(index: int) -> frozenset[str]:
            before = f"layers.{index}."
            return frozenset(name.removeprefix(before) for name in has if name.startswith(before))

        count = self.config.num_hidden_layers
        joins, normed = head.kind == "eagle3", "norm_before_residual" in head.flags
        self.layers = nn.ModuleList(
            Layer(self.config, named(i), joins and i == 0, normed and i == 0) for i in range(count)
        )

    @property
    def depth(self) -> int:
        return len(self.layers)

    def embed(self, tokens: Tensor) -> Tensor:
        found: Tensor = self.embed_tokens(tokens)
        return found

    def run(
        self, embeds: Tensor, states: Tensor, positions: Tensor, cache: Any, mask: Tensor | None, fill: bool
    ) -> Tensor | None:
        """All layers. fill: the last one only fills its cache."""
        turn = self.rotary(states, positions)
        for index, layer in enumerate(self.layers):
            last = index == len(self.layers) - 1
            states = layer(embeds, states, turn, cache.layers[index], mask, fill and last)
        return states


class Eagle3(Eagle):
    """EAGLE-3 (arXiv 2503.01840): three states of the target, an LM head and, mostly, a vocabulary of its own."""

    def __init__(
        self, head: HeadFormat, has: frozenset[str], reads: tuple[int, ...], embeddings: nn.Module, output: nn.Module,
        vocabulary: int,
    ) -> None:  # fmt: skip
        super().__init__(head, has, embeddings, vocabulary)
        width, eps, count = head.width, self.config.rms_norm_eps, len(reads)
        self.reads, self.norm_output = reads, "norm_output" in head.flags
        self.fc = nn.Linear(count * head.target_width, width, bias="fc.bias" in has)
        self.norm = LlamaRMSNorm(width, eps)
        self.input_norm = (
            LlamaRMSNorm(count * head.target_width, eps) if "norm_before_fc" in head.flags else nn.Identity()
        )
        normed = count if "fc_norm" in head.flags else 0
        self.fc_norm = nn.ModuleList(LlamaRMSNorm(head.target_width, eps) for _ in range(normed))
        self.lm_head: Any = Borrowed(output)
        if "lm_head.weight" in has:
            self.lm_head = nn.Linear(width, head.draft_vocabulary, bias=False)

    def fuse(self, states: Sequence[Tensor]) -> Tensor:
        if len(self.fc_norm):
            states = [norm(each) for norm, each in zip(self.fc_norm, states, strict=True)]
        fused: Tensor = self.fc(self.input_norm(torch.cat(list(states), dim=-1)))
        return fused

    def forward(
        self, embeds: Tensor, states: Tensor, positions: Tensor, cache: Any, mask: Tensor | None = None,
        fill: bool = False,
    ) -> Any:  # fmt: skip
        found = self.run(embeds, states, positions, cache, mask, fill)
        return self.norm(found) if self.norm_output and found is not None else found

    def logits(self, states: Tensor) -> Tensor:
        found: Tensor = self.lm_head(states if self.norm_output else self.norm(states))
        return found


class Eagle1(Eagle):
    """EAGLE-1 and 2 (arXiv 2401.15077, 2406.16858): reads embedding and last state, drafts by the target's LM head."""

    def __init__(
        self, head: HeadFormat, has: frozenset[str], embeddings: nn.Module, output: nn.Module, vocabulary: int
    ) -> None:
        super().__init__(head, has, embeddings, vocabulary)
        self.fc = nn.Linear(2 * head.width, head.width, bias="fc.bias" in has)
        self.lm_head = Borrowed(output)

    def fuse(self, states: Sequence[Tensor]) -> Tensor:
        return states[0]

    def forward(
        self, embeds: Tensor, states: Tensor, positions: Tensor, cache: Any, mask: Tensor | None = None,
        fill: bool = False,
    ) -> Any:  # fmt: skip
        return self.run(embeds, self.fc(torch.cat([embeds, states], dim=-1)), positions, cache, mask, fill)

    def logits(self, states: Tensor) -> Tensor:
        return self.lm_head(states)
