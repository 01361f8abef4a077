"""The decoder layers of EAGLE heads: Llama's and Qwen3's, whose first may read an embedding beside the state.

They are written out here because no class of transformers projects from twice the width, takes positions with three
axes for any head, and reads a tree of drafts with any attention implementation of the target.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm, LlamaRotaryEmbedding, rotate_half

from fastvlm_bench.drafts.formats import HeadFormat


def layer_config(head: HeadFormat) -> LlamaConfig:
    """The configuration of the head's layers, in the words of transformers' Llama."""
    given = {key: value for key, value in head.layer.items() if key in KEPT and value is not None}
    rope = {key: value for key, value in head.rope.items() if key not in ("type", "mrope_section", "mrope_interleaved")}
    kind = rope.get("rope_type") or head.rope.get("type") or "default"
    theta = rope.get("rope_theta") or head.layer.get("rope_theta") or 10000.0
    rope = {**rope, "rope_type": "default" if kind == "mrope" else kind, "rope_theta": float(theta)}
    return LlamaConfig(**given, rope_parameters=rope)


KEPT = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
    "hidden_act", "max_position_embeddings", "rms_norm_eps", "mlp_bias", "vocab_size",
)  # fmt: skip


class Rotary(nn.Module):
    """Rotary positions of one or three axes.

    sections: how many frequencies take the position in time, height and width; () for plain positions. interleaved:
    the axes take turns, as in Qwen3-VL; else each has a run of frequencies, as in Qwen2-VL.
    """

    def __init__(self, config: LlamaConfig, sections: tuple[int, ...] = (), interleaved: bool = False) -> None:
        super().__init__()
        self.plain = LlamaRotaryEmbedding(config)
        half = len(self.plain.inv_freq)
        factor = float(getattr(config, "partial_rotary_factor", None) or config.rope_parameters.get(
            "partial_rotary_factor", 1.0))  # fmt: skip
        if factor != 1.0 and self.plain.rope_type == "default":  # transformers' Llama rotates whole heads only
            width = int(2 * half * factor)
            theta = config.rope_parameters["rope_theta"]
            self.plain.inv_freq = 1.0 / (theta ** (torch.arange(0, width, 2, dtype=torch.float) / width))
            half = len(self.plain.inv_freq)
        axes = torch.zeros(half, dtype=torch.long)
        if sections and interleaved:
            for axis in (1, 2):
                axes[axis : 3 * sections[axis] : 3] = axis
        elif sections:
            axes = torch.repeat_interleave(torch.arange(len(sections)), torch.tensor(sections))
        self.axes = nn.Buffer(axes, persistent=False)
        self.takes_axes = bool(sections)

    def forward(self, states: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines, (rows, 1, k, width), in the dtype of `states`. positions: (rows, k) or (3, rows, k)."""
        if not self.takes_axes or positions.ndim == 2:
            # Where the head knows one axis and the target three, the first is taken, time: that of all text.
            cos, sin = self.plain(states, positions if positions.ndim == 2 else positions[0])
            return cos[:, None], sin[:, None]
        frequencies = self.plain.inv_freq.to(positions.device, torch.float)
        angles = positions[self.axes].movedim(0, -1).float() * frequencies  # each frequency with the axis that it takes
        angles = torch.cat([angles, angles], dim=-1)[:, None]
        scale = self.plain.attention_scaling
        return (angles.cos() * scale).to(states.dtype), (angles.sin() * scale).to(states.dtype)


def rotated(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the first channels, as many as there are cosines; the rest stays."""
    width = cos.shape[-1]
    part, rest = states[..., :width], states[..., width:]
    part = part * cos + rotate_half(part) * sin
    return torch.cat([part, rest], dim=-1) if rest.shape[-1] else part


class Attention(nn.Module):
    """Grouped-query attention over a cache of its own. read: width of what it reads. has: names of weights it has."""

    def __init__(self, config: LlamaConfig, read: int, has: frozenset[str]) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.size = config.num_attention_heads, config.num_key_value_heads, config.head_dim

        def linear(name: str, inner: int, outer: int) -> nn.Linear:
            return nn.Linear(inner, outer, bias=f"{name}.bias" in has)

        self.q_proj = linear("q_proj", read, self.heads * self.size)
        self.k_proj = linear("k_proj", read, self.kv_heads * self.size)
        self.v_proj = linear("v_proj", read, self.kv_heads * self.size)
        self.o_proj = linear("o_proj", self.heads * self.size, config.hidden_size)

        def norm(name: str) -> nn.Module:
            return LlamaRMSNorm(self.size, config.rms_norm_eps) if f"{name}.weight" in has else nn.Identity()

        self.q_norm, self.k_norm = norm("q_norm"), norm("k_norm")

    def forward(
        self, states: Tensor, turn: tuple[Tensor, Tensor], cache: Any, mask: Tensor | None, fill: bool = False
    ) -> Tensor | None:
        """states: (rows, k, read). turn: cosines and sines. cache: a layer of a cache, which takes up the new columns.

        mask: (rows or 1, 1, k, all columns), True where a column is read; None for plain causal attention. fill: only
        the cache is filled, and None returned.
        """
        keys, values = cache.update(
            rotated(self.k_norm(self._split(self.k_proj(states), self.kv_heads)), *turn),
            self._split(self.v_proj(states), self.kv_heads),
        )
        if fill:
            return None
        queries = rotated(self.q_norm(self._split(self.q_proj(states), self.heads)), *turn)
        count, columns = queries.shape[-2], keys.shape[-2]
        if mask is None and 1 < count < columns:
            mask = torch.ones(count, columns, dtype=torch.bool, device=keys.device).tril(columns - count)
        found = nn.functional.scaled_dot_product_attention(
            queries, keys, values, mask, is_causal=mask is None and count > 1, enable_gqa=self.heads != self.kv_heads
        )
        out: Tensor = self.o_proj(found.transpose(1, 2).flatten(2))
        return out

    def _split(self, states: Tensor, heads: int) -> Tensor:
        return states.unflatten(-1, (heads, self.size)).transpose(1, 2)


class Layer(nn.Module):
    """A pre-norm decoder layer. joins: it also reads an embedding, and projects from both (EAGLE-3's first layer).

    residual_normed: the residual is the state after its norm. has: names of the weights that it has; a norm of the
    input that is not among them is left out, as in the first layer of EAGLE-1.
    """

    def __init__(
        self, config: LlamaConfig, has: frozenset[str], joins: bool = False, residual_normed: bool = False
    ) -> None:
        super().__init__()
        width = config.hidden_size
        self.joins, self.residual_normed = joins, residual_normed
        own = frozenset(name.removeprefix("self_attn.") for name in has if name.startswith("self_attn."))
        self.self_attn = Attention(config, 2 * width if joins else width, own)
        normed = joins or "input_layernorm.weight" in has
        self.input_layernorm = LlamaRMSNorm(width, config.rms_norm_eps) if normed else nn.Identity()
        self.post_attention_layernorm = LlamaRMSNorm(width, config.rms_norm_eps)
        self.mlp = LlamaMLP(config)
        if joins:
            self.hidden_norm = LlamaRMSNorm(width, config.rms_norm_eps)

    def forward(
        self, embeds: Tensor, states: Tensor, turn: tuple[Tensor, Tensor], cache: Any, mask: Tensor | None,
        fill: bool = False,
    ) -> Tensor | None:  # fmt: skip
        """As `Attention.forward`. embeds: what a layer that joins reads beside the states, (rows, k, width)."""
        residual = states
        if self.joins:
            normed = self.hidden_norm(states)
            residual = normed if self.residual_normed else states
            read = torch.cat([self.input_layernorm(embeds), normed], dim=-1)
        else:
            read = self.input_layernorm(states)
        seen = self.self_attn(read, turn, cache, mask, fill)
        if seen is None:
            return None
        states = residual + seen
        out: Tensor = states + self.mlp(self.post_attention_layernorm(states))
        return out
