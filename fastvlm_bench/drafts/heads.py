"""The imitation heads: what may stand between the exit layer and the target's own final norm and LM head.

Each head is a class. It takes the hidden states at the exit, (batch, tokens, width), and returns states of the same
shape that imitate the output of the target's last layer. A head that `attends` consists of layers of the target's own
kind, with a KV cache of their own. A head that `recurs` also reads, at each position, the last layer's state of the
position before; while drafting, that state is not known yet, and the head reads its own estimate of it instead.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastvlm_bench.drafts.manifest import AT_THE_END, HEAD_LAYERS, KINDS
from fastvlm_bench.errors import UsageError, did_you_mean
from fastvlm_bench.models.layers import decoder_layers, output_embeddings
from fastvlm_bench.models.packed import packed
from fastvlm_bench.models.tensor_parallel import rejoined, whole


class ImitationHead(nn.Module):
    """The base of all heads. `attends` and `recurs` tell the loop what a head needs, see above."""

    attends = False
    recurs = False

    def __init__(self, above: Sequence[nn.Module], width: int, **options: int) -> None:
        """above: the target's layers after the exit, which a head may copy. width: of the hidden states.

        options: what only this kind of head takes, such as its depth.
        """
        super().__init__()

    def forward(self, states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        raise NotImplementedError


class LinearHead(ImitationHead):
    """f(h) = h + W · LN(h), the smallest of the heads. Before training it equals the raw exit."""

    def __init__(self, above: Sequence[nn.Module], width: int) -> None:
        super().__init__(above, width)
        self.norm, self.w = nn.LayerNorm(width), nn.Linear(width, width)
        _silence(self.w)

    def forward(self, states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return states + self.w(self.norm(states))


class MlpHead(ImitationHead):
    """The paper's imitation network: a residual pre-norm block, f(h) = h + W2 · FFN(W1 · LN(h)), position by position.

    FFN is T5's dense block, as in the authors' code. Before training the head equals the raw exit.
    """

    def __init__(self, above: Sequence[nn.Module], width: int, inner: int | None = None) -> None:
        super().__init__(above, width)
        inner = inner or 2 * width
        self.norm = nn.LayerNorm(width)
        self.w1 = nn.Linear(width, width)
        self.up = nn.Linear(width, inner, bias=False)
        self.down = nn.Linear(inner, width, bias=False)
        self.w2 = nn.Linear(width, width)
        _silence(self.w2)

    def forward(self, states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return states + self.w2(self.down(self.activate(self.w1(self.norm(states)))))

    def activate(self, states: Tensor) -> Tensor:
        return torch.relu(self.up(states))


class GatedMlpHead(MlpHead):
    """MlpHead with T5's gated dense block: GELU(W_g · x) ⊙ (W_u · x)."""

    def __init__(self, above: Sequence[nn.Module], width: int, inner: int | None = None) -> None:
        super().__init__(above, width, inner)
        self.gate = nn.Linear(width, self.up.out_features, bias=False)

    def activate(self, states: Tensor) -> Tensor:
        return nn.functional.gelu(self.gate(states), approximate="tanh") * self.up(states)


class AttentionHead(ImitationHead):
    """One layer of the target's own kind, with a KV cache of its own: it can look back at image and text.

    The gate calls it with the arguments that layer n would have got (mask, positions), so the head needs no code per
    architecture. Kangaroo (arXiv 2404.18911) showed that one attention layer is worth having in a draft.
    depth: how many layers; UsageError if fewer follow the exit.
    """

    attends = True

    def __init__(self, above: Sequence[nn.Module], width: int, depth: int = 1) -> None:
        super().__init__(above, width)
        if not 1 <= depth <= len(above):
            raise UsageError(f"a head of {depth} layers cannot be copied: {len(above)} layers follow the exit")
        # Training starts from a copy of the target's own layers after the exit.
        self.layers = nn.ModuleList(unpacked(layer) for layer in above[:depth])
        for index, layer in enumerate(self.layers):
            layer.__dict__.pop("forward", None)
            for module in layer.modules():
                if hasattr(module, "layer_idx"):
                    setattr(module, "layer_idx", index)  # noqa: B010 - a module's own, untyped attribute

    def forward(self, states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        for layer in self.layers:
            result = layer(states, *args, **kwargs)
            states = result[0] if isinstance(result, tuple) else result
        return states


class TwigHead(AttentionHead):
    """An AttentionHead of several layers (2 by default), as TwigVLM (arXiv 2503.14075) grows them on an early layer."""

    def __init__(self, above: Sequence[nn.Module], width: int, depth: int = 2) -> None:
        super().__init__(above, width, depth)


class EagleHead(AttentionHead):
    """EAGLE's idea (arXiv 2401.15077) at an exit: the head also reads the last layer's state of the position before.

    EAGLE joins that state with the embedding of the token that followed it. Here the early layers have run for this
    token anyway, so its state at the exit, h_n, takes the embedding's place: it knows the context, too. So
    f = layer(h_n + W · LN(last state)). Within a round the last state is the head's own estimate; training unrolls
    several drafts so that the head learns to work with it. Before training the head equals an attention head.
    """

    recurs = True

    def __init__(self, above: Sequence[nn.Module], width: int, depth: int = 1) -> None:
        super().__init__(above, width, depth)
        self.before, self.join = nn.LayerNorm(width), nn.Linear(width, width, bias=False)
        nn.init.zeros_(self.join.weight)

    def forward(self, states: Tensor, *args: Any, previous: Tensor | None = None, **kwargs: Any) -> Tensor:
        """previous: (batch, tokens, width), at each position the last layer's state of the position before."""
        if previous is not None:
            states = states + self.join(self.before(previous))
        return super().forward(states, *args, **kwargs)


class BlockHead(AttentionHead):
    """An AttentionHead that drafts a block of tokens from one pass, not only the next one.

    COrAL (arXiv 2410.09675) predicts a window of positions from each. Here the attention head's state gives the next
    token, and f + SiLU(W_i f + b_i), Medusa's block, that of the token i places further ahead, i from 1. Before
    training every place says the next token. places: how many tokens a block has.

    window: while the method `block` sets it, a pass returns the states of so many tokens after its last one, (batch,
    window, width); else one state for each of its tokens, those of the next ones, so that `fastvlm` can draft with it.
    """

    def __init__(self, above: Sequence[nn.Module], width: int, depth: int = 1, places: int = 4) -> None:
        super().__init__(above, width, depth)
        self.blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(places - 1))
        for parameter in self.blocks.parameters():
            nn.init.zeros_(parameter)
        self.places = places
        self.window: int | None = None

    def forward(self, states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        made = super().forward(states, *args, **kwargs)
        return made if self.window is None else self.block(made[:, -1], self.window)

    def block(self, states: Tensor, most: int) -> Tensor:
        """(…, width) -> (…, most, width): the states of the first `most` places."""
        return torch.stack([states if place == 0 else self.place(place, states) for place in range(most)], dim=-2)

    def place(self, number: int, states: Tensor) -> Tensor:
        """One place's states, (…, width)."""
        return states + nn.functional.silu(self.blocks[number - 1](states)) if number else states


class MedusaHeads(ImitationHead):
    """Medusa's heads (arXiv 2401.10774): each drafts one place further ahead from the state that enters the LM head.

    The LM head turns that state into the next token; head i, counted from 0, turns it into the token i + 1 places after
    that one. So all drafts of a round come from one state, which verification has computed already, and none of them
    knows the drafts before it. Each head is a residual block, x + SiLU(W x + b), as in the authors' code, and then the
    target's own LM head. W and b start at zero, so that training starts from the target's own next token. own_output:
    1 gives each head a copy of the LM head that is trained, too, as the authors do; by default all share the target's,
    which is frozen.
    """

    def __init__(self, output: Any, heads: int = AT_THE_END["medusa"], own_output: int = 0) -> None:
        """output: the target's LM head, (width -> vocabulary)."""
        super().__init__((), output.in_features)
        self.width = output.in_features
        self.blocks = nn.ModuleList(nn.Linear(self.width, self.width) for _ in range(heads))
        for parameter in self.blocks.parameters():
            nn.init.zeros_(parameter)
        self.outputs = nn.ModuleList(_copy(output) for _ in range(heads if own_output else 0))
        self._weight: Tensor | None = None
        self._bias: Tensor | None = None

    def forward(self, states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """(…, width) -> (…, heads, width): what enters the LM head for each head's token."""
        return torch.stack([self.one(number, states) for number in range(len(self.blocks))], dim=-2)

    def one(self, number: int, states: Tensor) -> Tensor:
        """One head's states, (…, width)."""
        return states + nn.functional.silu(self.blocks[number](states))

    def ahead(self, states: Tensor, most: int) -> Tensor:
        """(rows, width) -> (rows, most, width): as `forward`, of the first `most` heads, by one product."""
        weight, bias = self._joined()
        far = nn.functional.linear(states, weight[: most * self.width], bias[: most * self.width])
        return states[:, None] + nn.functional.silu(far).view(len(states), most, self.width)

    def through(self, states: Tensor, output: Any) -> Tensor:
        """(rows, heads, width) -> (rows, heads, vocabulary), by the heads' own LM heads, or else by `output`."""
        if not self.outputs:
            logits: Tensor = output(states)
            return logits
        return torch.stack([self.outputs[number](states[:, number]) for number in range(states.shape[1])], dim=1)

    def _joined(self) -> tuple[Tensor, Tensor]:
        """The blocks' weights, (heads · width, width), and biases, one below the other.

        The blocks' own become views of these, so that nothing is held twice and a change of either is one of both.
        """
        blocks = [block for block in self.blocks if isinstance(block, nn.Linear)]
        if self._weight is None or self._bias is None or self._weight.data_ptr() != blocks[0].weight.data_ptr():
            with torch.inference_mode(False), torch.no_grad():
                self._weight = torch.cat([block.weight.detach() for block in blocks])
                self._bias = torch.cat([block.bias.detach() for block in blocks])
                for number, block in enumerate(blocks):
                    place = slice(number * self.width, (number + 1) * self.width)
                    block.weight.data, block.bias.data = self._weight[place], self._bias[place]
        return self._weight, self._bias


HEADS: dict[str, type[ImitationHead]] = {
    "linear": LinearHead, "mlp": MlpHead, "gated-mlp": GatedMlpHead, "attention": AttentionHead, "twig": TwigHead,
    "eagle": EagleHead, "block": BlockHead,
}  # fmt: skip
"""The heads that stand at an exit."""
assert list(HEADS) == list(HEAD_LAYERS)


def new_head(kind: str, model: Any, exit_layer: int, options: Mapping[str, int] | None = None) -> ImitationHead:
    """An untrained head of the given kind for `model`, on the device and in the dtype of the layer after the exit.

    Heads at the end are in the place of the last layer, whatever exit_layer says. UsageError for an unknown kind, or
    for more layers than follow the exit.
    """
    if kind not in KINDS:
        raise UsageError(f"unknown head '{kind}': one of {', '.join(KINDS)}{did_you_mean(kind, KINDS)}")
    if kind in AT_THE_END:
        last = floating(decoder_layers(model)[-1])
        return MedusaHeads(output_embeddings(model), **(options or {})).to(last.device, last.dtype)
    above = list(decoder_layers(model)[exit_layer:])
    like = floating(above[0])
    width = output_embeddings(model).in_features
    return HEADS[kind](above, width, **(options or {})).to(like.device, like.dtype)


def floating(layer: nn.Module) -> nn.Parameter:
    """A floating-point parameter of the layer: it shows the layer's device and dtype, which packed weights hide."""
    return next(parameter for parameter in layer.parameters() if parameter.is_floating_point())


def unpacked(layer: nn.Module) -> nn.Module:
    """A copy of the layer with plain matrices in the place of packed ones (`--quantize`), which cannot be trained, or
    shared ones (`--tensor-parallel`), of which a copy would compute with a part."""
    memo: dict[int, Any] = {}
    for module in layer.modules():
        if isinstance(module, nn.Linear) and not module.weight.is_floating_point():
            from transformers.integrations.bitsandbytes import dequantize_bnb_weight

            with torch.no_grad():
                weight = dequantize_bnb_weight(module.weight, getattr(module, "state", None))
                plain = nn.Linear(module.in_features, module.out_features, module.bias is not None)
                plain.weight = nn.Parameter(weight.to(floating(layer)))
                if module.bias is not None:
                    plain.bias = nn.Parameter(module.bias.detach().to(floating(layer)))
            memo[id(module)] = plain  # deepcopy takes this for its copy of `module`
        elif isinstance(module, nn.Linear) and (packed(module.weight) or hasattr(module.weight, "full_tensor")):
            memo[id(module)] = rejoined(module)
    return copy.deepcopy(layer, memo)


def _copy(output: Any) -> nn.Linear:
    bias = getattr(output, "bias", None)
    made = nn.Linear(output.in_features, output.out_features, bias is not None)
    with torch.no_grad():
        made.weight.copy_(whole(output.weight.detach()))
        if bias is not None:
            made.bias.copy_(bias)
    return made


def _silence(last: nn.Linear) -> None:
    """Zero the last matrix of a residual branch, so that the head starts as the raw exit."""
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
