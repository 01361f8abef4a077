"""Verifies a tree of drafts in one pass: several tokens may follow each, and each reads only its own ancestors.

The pass reads the last emitted token and then every node. A 4-D mask hides the other branches, and a node's position is
that of its depth. Then the target's own token is taken at the root; where it is a child, that child stands, and so on
down. So the rule is exact for greedy decoding and for sampling alike: every emitted token was chosen or drawn from the
target's own distribution, and the drafts only decide how many are known after one pass.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer

from fastvlm_bench.drafts.manifest import first_line
from fastvlm_bench.engine.accept import draw
from fastvlm_bench.engine.cache_view import text_cache
from fastvlm_bench.engine.layer_gate import LayerGate
from fastvlm_bench.engine.recorded_pass import Branches
from fastvlm_bench.engine.session import Session
from fastvlm_bench.engine.slots import SlotLayer
from fastvlm_bench.errors import UsageError
from fastvlm_bench.models.own_masks import refuses_own_masks
from fastvlm_bench.records.trace import Round

ROOT = -1
ONE_AT_A_TIME = "a tree of drafts is verified for one sequence at a time: topk=1, or --batch-size 1"


@dataclass(frozen=True)
class Tree:
    """Drafted tokens. parents: for each token the index of the one that it follows, or ROOT; a parent comes before."""

    tokens: Sequence[int]
    parents: Sequence[int]

    def __post_init__(self) -> None:
        if len(self.tokens) != len(self.parents) or any(not ROOT <= p < i for i, p in enumerate(self.parents)):
            raise ValueError("a tree needs one parent for each token, and a parent must come before its children")
        if len(set(zip(self.parents, self.tokens, strict=True))) < len(self.tokens):
            raise ValueError("two children of one node draft the same token")

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def depths(self) -> list[int]:
        """For each node its depth; 1 for a child of the root."""
        depths: list[int] = []
        for parent in self.parents:
            depths.append(1 if parent == ROOT else depths[parent] + 1)
        return depths

    @property
    def sees(self) -> Tensor:
        """(1 + nodes, 1 + nodes), bool: which columns of the pass each column reads: its ancestors and itself."""
        seen = torch.eye(len(self) + 1, dtype=torch.bool)
        for node, parent in enumerate(self.parents):
            seen[node + 1] |= seen[parent + 1]
        return seen

    def children(self, node: int) -> dict[int, int]:
        """Token -> index of the child of a node (or of ROOT) that drafts it."""
        return {self.tokens[i]: i for i, parent in enumerate(self.parents) if parent == node}

    def first_path(self, node: int) -> list[int]:
        """The tokens from a node (or ROOT) down to a leaf, each the first child of the one before."""
        tokens = list[int]()
        for i, parent in enumerate(self.parents):
            if parent == node:
                tokens.append(self.tokens[i])
                node = i
        return tokens


def check_takes_trees(model: Any, remedy: str = "draft a chain") -> None:
    """UsageError if the model cannot verify trees: recurrent states, windows and convolutions know one past only."""
    if fault := refuses_own_masks(model):
        raise UsageError(f"{type(model).__name__} cannot verify a tree of drafts ({fault}); {remedy}")


def read_tree(session: Session, tree: Tree, first: int, kwargs: dict[str, Any]) -> Any:
    """A pass over the columns from `first` on of the only row's last token (column 0) and all nodes.

    The columns before were read already, and their KV lies in this order. kwargs: of the session, for all columns.
    UsageError if the model takes no 4-D mask, as far as `check_takes_trees` could not tell. Returns the pass's output.
    """
    count, before = len(tree) + 1 - first, session.length - 1
    depths = torch.tensor([0, *tree.depths][first:], device=session.device)
    if (recorded := session.recorded) is not None:
        branches = Branches(before + depths, mask_of(session, tree, first, recorded.capacity))
        if (outputs := recorded.forward(count, [list(tree.tokens)], count, branches)) is not None:
            return outputs
        recorded.hand_back(kwargs, [list(tree.tokens)])
    inputs = session.inputs_of(count, [list(tree.tokens)], kwargs)
    positions = inputs.get("position_ids")
    root = before if positions is None else positions[..., :1] - first
    inputs["position_ids"] = (root + depths)[None] if positions is None else root + depths
    inputs["attention_mask"] = mask_of(session, tree, first, before + len(tree) + 1)
    try:
        return session.model(**inputs, return_dict=True)
    except (ValueError, TypeError, IndexError) as error:  # code of a checkpoint's own may make masks of a 2-D one
        raise UsageError(f"{type(session.model).__name__} cannot verify a tree of drafts (it takes no 4-D mask: "
                         f"{first_line(error)}); draft a chain: topk=1") from error  # fmt: skip


def mask_of(session: Session, tree: Tree, first: int, width: int) -> Tensor:
    """(1, 1, columns from `first` on, width), to be added to the attention's logits: each column reads the text before
    the tree, its ancestors and itself, and nothing beyond."""
    sees, before = tree.sees[first:], session.length - 1
    seen = torch.zeros(len(sees), width, dtype=torch.bool)
    seen[:, :before] = True
    seen[:, before : before + sees.shape[1]] = sees
    mask = torch.zeros(1, 1, *seen.shape, dtype=session.model.dtype, device=session.device)
    return mask.masked_fill_(~seen.to(session.device), torch.finfo(mask.dtype).min)


def verify_tree(session: Session, tree: Tree, kwargs: dict[str, Any] | None = None) -> tuple[Any, list[int], list[int]]:
    """One pass of the target over the only row's last token and all nodes. kwargs: by default for the whole target.

    Returns its output; the nodes that stand, from the root down; and their tokens, followed by the target's own.
    """
    outputs = read_tree(session, tree, 0, session.kwargs_ahead(len(tree)) if kwargs is None else kwargs)
    path, standing = _descend(session, tree, outputs.logits)
    return outputs, path, standing


def keep_tree(session: Session, outputs: Any, path: Sequence[int], tokens: int, gate: LayerGate | None = None) -> None:
    """Keep the KV of the last token and of the nodes that stand, forget the rest. tokens: how many were emitted.

    Call it after `emit`. The pass must have been the latest one. gate: where the first layers and a head drafted; the
    head's KV and states follow.
    """
    before, columns = session.length - tokens - 1, [0, *(node + 1 for node in path)]
    layers = [layer for i, layer in enumerate(text_cache(session.cache).layers) if i not in session.fixed]
    if gate is not None:
        layers += [layer for cache in gate.head_caches for layer in text_cache(cache).layers]
        gate.follow_branch(columns[-1:])
    places = torch.tensor(columns, device=session.device)
    for layer in layers:
        keep_columns(layer, before, places)
    session.finish(outputs, len(path) + 1)


def keep_columns(layer: Any, before: int, columns: Tensor) -> None:
    """Of what a layer's cache holds after its first `before` tokens, keep these columns, (k,), in this order."""
    if getattr(layer, "keys", None) is None or not layer.keys.numel():
        return
    columns = columns.to(layer.keys.device)
    if isinstance(layer, SlotLayer):
        layer.keep_columns(before, columns)
        return
    if type(layer) is not DynamicLayer:
        raise UsageError(f"a cache of {type(layer).__name__} cannot keep one branch of a tree; draft a chain")
    layer.keys, layer.values = (
        torch.cat([states[..., :before, :], states.index_select(-2, columns + before)], dim=-2)
        for states in (layer.keys, layer.values)
    )


def round_of(tree: Tree, path: Sequence[int], emitted: int, draft_s: float, verify_s: float) -> Round:
    """The round that drafted a tree, of which `path` stands. All of its nodes count as drafted."""
    # The walk ended at a node: if that had children, one draft was tested and rejected.
    rejected = tree.first_path(path[-1] if path else ROOT)
    return Round(len(tree), len(path) + bool(rejected), len(path), emitted, draft_s, verify_s, rejected)


def _descend(session: Session, tree: Tree, logits: Tensor) -> tuple[list[int], list[int]]:
    """The nodes that stand, and their tokens with the target's own next one. logits: (1, 1 + nodes, vocab)."""
    path, told = list[int](), list[int]()
    plain = session.choose(logits)[0] if not session.samples and not len(session.processors) else None
    node = ROOT
    while True:
        # Each node has a prefix of its own, which the processors must see.
        token = _chosen(session, logits[:, node + 1 : node + 2], told) if plain is None else plain[node + 1]
        told.append(token)
        child = tree.children(node).get(token)
        if child is None:
            return path, told
        path.append(child)
        node = child


def _chosen(session: Session, logits: Tensor, ahead: Sequence[int]) -> int:
    session.write_ahead(ahead)
    if session.samples:
        return draw(session.probabilities(logits, len(ahead))[0])
    return session.choose(logits, first=len(ahead))[0][0]
