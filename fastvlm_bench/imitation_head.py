"""The imitation head and the draft: an exit layer and a head, saved as a folder with a manifest.

The head f stands between the exit and the target's own final norm and LM head: draft = g(norm(f(h_n))), section 3 of
arXiv 2510.22641. Training f never touches the target.
"""

import copy
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import DynamicCache

from fastvlm_bench.drafts import MANIFEST, Manifest, first_line, read_manifest
from fastvlm_bench.errors import UsageError, did_you_mean
from fastvlm_bench.models.fingerprint import weights_sha256
from fastvlm_bench.models.layers import decoder_layers

WEIGHTS = "head.safetensors"


class MlpHead(nn.Module):
    """The paper's imitation network: a residual pre-norm block, f(h) = h + W2 · FFN(W1 · LN(h)), position by position.

    FFN is T5's dense block, as in the authors' code. states (batch, tokens, width) -> the same shape.
    """

    attends = False

    def __init__(self, above: Sequence[nn.Module], width: int, inner: int | None = None) -> None:
        super().__init__()
        inner = inner or 2 * width
        self.norm = nn.LayerNorm(width)
        self.w1 = nn.Linear(width, width)
        self.up = nn.Linear(width, inner, bias=False)
        self.down = nn.Linear(inner, width, bias=False)
        self.w2 = nn.Linear(width, width)
        nn.init.zeros_(self.w2.weight)  # starts as the raw exit
        nn.init.zeros_(self.w2.bias)

    def forward(self, states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        inner = self.down(torch.relu(self.up(self.w1(self.norm(states)))))
        return states + self.w2(inner)


class AttentionHead(nn.Module):
    """One layer of the target's own kind, with a KV cache of its own: it can look back at image and text.

    Called with the very arguments that layer n would have got (mask, positions), so it needs no code per
    architecture. Kangaroo (arXiv 2404.18911) showed that one attention layer is worth having in a draft.
    """

    attends = True
    depth = 1

    def __init__(self, above: Sequence[nn.Module], width: int) -> None:
        super().__init__()
        # Starts as a copy of the target's layers from the exit on.
        self.layers = nn.ModuleList(copy.deepcopy(layer) for layer in above[: self.depth])
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
    """Two such layers, as TwigVLM (arXiv 2503.14075) grows them on an early layer."""

    depth = 2


HEADS: dict[str, type[MlpHead] | type[AttentionHead]] = {"mlp": MlpHead, "attention": AttentionHead, "twig": TwigHead}


class Draft:
    """Exit layer + head, ready to be gated into one target. `head` None is the raw exit (LayerSkip's draft)."""

    def __init__(self, exit_layer: int, head: MlpHead | AttentionHead | None, manifest: Manifest | None = None) -> None:
        self.exit_layer, self.head, self.manifest = exit_layer, head, manifest

    def new_cache(self) -> DynamicCache | None:
        """An empty KV cache for a head that attends."""
        return DynamicCache() if self.head is not None and self.head.attends else None

    @property
    def weight_bytes(self) -> int:
        return sum(p.numel() * p.element_size() for p in self.head.parameters()) if self.head is not None else 0

    def save(self, folder: Path) -> None:
        """Write manifest and weights; weights in float16."""
        if self.head is None or self.manifest is None:
            raise ValueError("a raw exit has nothing to save")
        folder.mkdir(parents=True, exist_ok=True)
        save_file({k: v.half().contiguous() for k, v in self.head.state_dict().items()}, folder / WEIGHTS)
        (folder / MANIFEST).write_text(json.dumps(asdict(self.manifest), indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path, model: Any) -> "Draft":
        """Read a draft folder for `model`; UsageError if it was made for another target or is damaged."""
        manifest = read_manifest(folder)
        check_fit(manifest, model, folder)
        layers = decoder_layers(model)
        like = next(layers[manifest.exit_layer].parameters())
        head = new_head(manifest.head, model, manifest.exit_layer)
        try:
            head.load_state_dict(load_file(folder / WEIGHTS))
        except (OSError, RuntimeError, SafetensorError) as error:
            raise UsageError(
                f"{folder / WEIGHTS}: not this head's weights ({first_line(error)}); train it again"
            ) from None
        return cls(manifest.exit_layer, head.to(like.device, like.dtype).eval(), manifest)


def new_head(kind: str, model: Any, exit_layer: int) -> MlpHead | AttentionHead:
    """An untrained head of the given kind for `model`, on the layer's device and in its dtype."""
    if kind not in HEADS:
        raise UsageError(f"unknown head '{kind}': one of {', '.join(HEADS)}{did_you_mean(kind, HEADS)}")
    above = list(decoder_layers(model)[exit_layer:])
    like = next(above[0].parameters())
    width = model.get_output_embeddings().in_features
    return HEADS[kind](above, width).to(like.device, like.dtype)


def check_fit(manifest: Manifest, model: Any, folder: Path | str) -> None:
    """UsageError naming every field in which `model` is not the target that the draft was trained for."""
    ours = describe_target(model)
    differing = [
        f"{key.removeprefix('target_')} {str(getattr(manifest, key))[:40]} (draft) is not {str(value)[:40]} (model)"
        for key, value in ours.items()
        if getattr(manifest, key) != value
    ]
    if differing:
        raise UsageError(f"draft {folder} was made for another model: {'; '.join(differing)}; train one for this model")


def describe_target(model: Any) -> dict[str, Any]:
    """The fields of a manifest that tell one target from another."""
    output = model.get_output_embeddings()
    return {
        "target_architecture": type(model).__name__,
        "target_layers": len(decoder_layers(model)),
        "target_width": output.in_features,
        "target_vocabulary": output.out_features,
        "target_weights_sha256": weights_sha256(model),
    }
