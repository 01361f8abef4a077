"""The draft: an exit layer and an imitation head, saved as a folder with a manifest.

The head f stands between the exit and the target's own final norm and LM head: draft = g(norm(f(h_n))), section 3 of
arXiv 2510.22641. Training f never touches the target.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import DynamicCache

from fastvlm_bench.drafts.heads import ImitationHead, floating, new_head
from fastvlm_bench.drafts.manifest import MANIFEST, Manifest, check_unaltered, checksum, first_line, read_manifest
from fastvlm_bench.drafts.reduced_vocabulary import ReducedOutput
from fastvlm_bench.errors import UsageError
from fastvlm_bench.models.fingerprint import weights_sha256
from fastvlm_bench.models.layers import decoder_layers, output_embeddings

WEIGHTS = "head.safetensors"
VOCABULARY = "draft_vocabulary"


class Draft:
    """Exit layer + head, ready to be gated into one target. `head` None is the raw exit (LayerSkip's draft).

    A draft at the end (`AT_THE_END` in manifest.py) is not gated, and its exit layer is the number of all layers.

    output: the LM head reduced to the token ids that it may draft; None for all of them.
    """

    def __init__(
        self, exit_layer: int, head: ImitationHead | None, manifest: Manifest | None = None,
        output: ReducedOutput | None = None,
    ) -> None:  # fmt: skip
        self.exit_layer, self.head, self.manifest, self.output = exit_layer, head, manifest, output

    def new_cache(self) -> DynamicCache | None:
        """An empty KV cache for a head that attends."""
        return DynamicCache() if self.head is not None and self.head.attends else None

    @property
    def weight_bytes(self) -> int:
        """Bytes that the draft adds to the target: the head, and the copied rows of a reduced LM head."""
        own = sum(p.numel() * p.element_size() for p in self.head.parameters()) if self.head is not None else 0
        return own + (self.output.weight_bytes if self.output is not None else 0)

    def save(self, folder: Path) -> None:
        """Write the manifest, and the weights in float16. ValueError for a raw exit, which has nothing to save."""
        if self.head is None or self.manifest is None:
            raise ValueError("a raw exit has nothing to save")
        folder.mkdir(parents=True, exist_ok=True)
        weights = {key: value.half().contiguous() for key, value in self.head.state_dict().items()}
        if self.output is not None:
            weights[VOCABULARY] = self.output.ids.to("cpu").contiguous()
        save_file(weights, folder / WEIGHTS)
        fields = asdict(self.manifest)
        fields["checksum"] = checksum(fields, (folder / WEIGHTS).read_bytes())
        (folder / MANIFEST).write_text(json.dumps(fields, indent=2) + "\n")

    def check_shape(self, model: Any) -> None:
        """UsageError where a draft that was loaded for one model is used with another that it does not fit."""
        if self.manifest is None:
            return
        for name, found in (("target_layers", len(decoder_layers(model))),
                            ("target_width", output_embeddings(model).in_features),
                            ("target_vocabulary", output_embeddings(model).out_features)):  # fmt: skip
            if getattr(self.manifest, name) != found:
                raise UsageError(f"this draft was loaded for a model with {getattr(self.manifest, name)} as its "
                                 f"{name.removeprefix('target_')}, not {found}; load one for this model")  # fmt: skip
        layers = decoder_layers(model)
        like = floating(layers[min(self.exit_layer, len(layers) - 1)])
        for own in list(self.head.parameters())[:1] if self.head is not None else ():
            for name, had, found in (("dtype", own.dtype, like.dtype), ("device", own.device, like.device)):
                if had != found:
                    raise UsageError(f"this draft was loaded for a model with {had} as its {name}, not {found}; "
                                     "load one for this model")  # fmt: skip

    @classmethod
    def load(cls, folder: Path, model: Any) -> "Draft":
        """Read a draft folder for `model`; UsageError if it was made for another target or is damaged.

        CorruptRecord where its checksum says that it was altered.
        """
        manifest = read_manifest(folder)
        check_fit(manifest, model, folder)
        layers = decoder_layers(model)
        like = floating(layers[-1] if manifest.at_the_end else layers[manifest.exit_layer])
        head = new_head(manifest.head, model, manifest.exit_layer, manifest.head_options)
        try:
            weights = load_file(folder / WEIGHTS)
            vocabulary = weights.pop(VOCABULARY, None)
            if faults := differing(head, weights):
                raise RuntimeError("; ".join(faults))
            if manifest.draft_vocabulary not in (0, ids := 0 if vocabulary is None else len(vocabulary)):
                raise RuntimeError(f"{ids} token ids that it may draft, {manifest.draft_vocabulary} by {MANIFEST}")
            head.load_state_dict(weights)
        except (OSError, RuntimeError, SafetensorError) as error:
            raise UsageError(
                f"{folder / WEIGHTS}: not this head's weights ({first_line(error)}); train it again"
            ) from None
        check_unaltered(folder, WEIGHTS)
        output = None
        if vocabulary is not None:
            output = ReducedOutput(output_embeddings(model), vocabulary.to(like.device))
        return cls(manifest.exit_layer, head.to(like.device, like.dtype).eval(), manifest, output)


def differing(head: ImitationHead, weights: Mapping[str, Tensor]) -> list[str]:
    """In what a draft's weights are not those of the head, a phrase each with the count and the first names."""
    own = head.state_dict()
    shapes = [name for name in own if name in weights and own[name].shape != weights[name].shape]
    kinds = (
        (own.keys() - weights.keys(), "missing"), (weights.keys() - own.keys(), "of another head"),
        (shapes, "of another shape"),
    )  # fmt: skip
    return [f"{len(names)} {what}: {', '.join(sorted(names)[:3])}" for names, what in kinds if names]


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
    output = output_embeddings(model)
    return {
        "target_architecture": type(model).__name__,
        "target_layers": len(decoder_layers(model)),
        "target_width": output.in_features,
        "target_vocabulary": output.out_features,
        "target_weights_sha256": weights_sha256(model),
    }
