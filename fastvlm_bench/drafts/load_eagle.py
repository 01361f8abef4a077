"""Loads an EAGLE head from its folder, in either spelling, for a target that has been loaded."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from fastvlm_bench.drafts.formats import HeadFormat, TargetFormat, check_fits, chosen_aux, read_format
from fastvlm_bench.drafts.head_files import read_weights
from fastvlm_bench.drafts.heads import floating
from fastvlm_bench.drafts.state_heads import Eagle, Eagle1, Eagle3, StateHead
from fastvlm_bench.errors import UsageError
from fastvlm_bench.models.layers import decoder_layers, output_embeddings

H = TypeVar("H", bound=StateHead)
RENAMED = ((r"^(model|draft_model)\.", ""), (r"^midlayer\.", "layers.0."), (r"^fusion_fc\.", "fc."),
           (r"^transformer\.", "layers.0."))  # fmt: skip
"""How other spellings name weights, as patterns, and our names."""
LEFT_OUT = re.compile(r"(^|\.)(rotary_emb\.inv_freq|(cos|sin)_cached)$|^verifier_(norm|lm_head)\.")
"""Weights of files that no drafting needs: what is computed, and copies of the target's that training used."""


def load_eagle(kind: str, folder: Path, model: Any, name: str, aux: str | None = None) -> Eagle:
    """The head in `folder`, for `model`. kind: "eagle3" or "eagle". name: the target's, for messages. aux: the option.

    UsageError where it is no such head, does not fit the target, or its files are not whole.
    """
    head, layers = read_format(folder, kind), decoder_layers(model)
    check_target(model, name)
    check_fits(head, TargetFormat.of(name, model.config.to_dict()), aux)
    weights = renamed(read_weights(folder))
    maps: dict[str, Tensor] = {key: weights.pop(key) for key in ("d2t", "t2d") if key in weights}
    embeddings, output = model.get_input_embeddings(), output_embeddings(model)
    vocabulary = int(output.out_features)
    ids = _ids(head, maps, vocabulary)
    if (stored := weights.get("embed_tokens.weight")) is not None and _same(stored, embeddings):
        del weights["embed_tokens.weight"]  # a copy of the target's own need not be held twice
    if kind == "eagle":
        weights.pop("lm_head.weight", None)  # the target's own drafts, as in the authors' release and in vLLM
    elif "lm_head.weight" not in weights and ids is not None:
        raise UsageError(f"{folder} has no lm_head.weight for the {len(ids)} ids that it drafts; download it again")
    has = frozenset(weights)
    made: Eagle
    if kind == "eagle3":
        made = Eagle3(head, has, chosen_aux(head, len(layers), aux), embeddings, output, vocabulary)
    else:
        made = Eagle1(head, has, embeddings, output, vocabulary)
    fill(made, weights, folder)
    made.ids = ids
    return placed(made, floating(layers[-1]))


def check_target(model: Any, name: str) -> None:
    """UsageError for a target of a kind for which there are no heads that read its states."""
    if getattr(model.config, "is_encoder_decoder", False):
        raise UsageError(f"{name} is an encoder-decoder, for which there are no heads that read its states; use "
                         "another method")  # fmt: skip


def renamed(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights by our names, without what no drafting needs."""
    found = {}
    for name, value in weights.items():
        for pattern, own in RENAMED:
            name = re.sub(pattern, own, name)
        if not LEFT_OUT.search(name):
            found[name] = value
    return found


def fill(module: nn.Module, weights: Mapping[str, Tensor], folder: Path) -> None:
    """Load weights; UsageError, with the first names, where some are missing, unknown or of another shape."""
    own = module.state_dict()
    shapes = [name for name in own if name in weights and own[name].shape != weights[name].shape]
    faults = [
        f"{len(names)} {what} ({', '.join(sorted(names)[:3])})"
        for names, what in (
            (own.keys() - weights.keys(), "missing"), (weights.keys() - own.keys(), "unknown"),
            (shapes, "of another shape"),
        ) if names
    ]  # fmt: skip
    if faults:
        raise UsageError(f"the weights in {folder} are not those that its config.json describes: {', '.join(faults)}; "
                         "download it again, or take another head")  # fmt: skip
    module.load_state_dict(dict(weights))


def placed(head: H, like: Tensor) -> H:
    """The head on the device and in the dtype of `like`. Buffers, which are frequencies, stay as precise as before."""
    head.to(like.device).eval().requires_grad_(False)
    for parameter in head.parameters():
        parameter.data = parameter.data.to(like.dtype)
    if head.ids is not None:
        head.ids = head.ids.to(like.device)
    return head


def _ids(head: HeadFormat, maps: Mapping[str, Tensor], vocabulary: int) -> Tensor | None:
    """The target's id of each draft id; None where the head drafts all ids. d2t holds what is to be added."""
    count, d2t = head.draft_vocabulary, maps.get("d2t")
    if d2t is None:
        if count not in (head.vocabulary, vocabulary):
            raise UsageError(f"{head.folder} drafts {count} of {vocabulary} ids and has no d2t, which would say which; "
                             "download it again")  # fmt: skip
        return None
    if len(d2t) != count:
        raise UsageError(f"{head.folder}: d2t has {len(d2t)} ids, draft_vocab_size is {count}; download it again")
    ids = torch.arange(count) + d2t.long()
    if int(ids.min()) < 0 or int(ids.max()) >= vocabulary or len(ids.unique()) < count:
        raise UsageError(f"{head.folder}: d2t names ids twice, or ids beyond the target's vocabulary of {vocabulary}; "
                         "take a head for this target")  # fmt: skip
    return None if torch.equal(ids, torch.arange(vocabulary)) else ids


def _same(stored: Tensor, embeddings: nn.Module) -> bool:
    """Whether a table of embeddings is the target's own, and the target does no more than look a token up in it."""
    own = getattr(embeddings, "weight", None)
    if type(embeddings) is not nn.Embedding or own is None or own.shape != stored.shape:
        return False
    return torch.equal(stored.to(own.device, own.dtype), own)
