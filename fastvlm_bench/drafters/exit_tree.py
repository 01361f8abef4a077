"""Drafts a tree with the target's first layers and a head: several tokens where the draft is unsure, else a chain.

Level by level. The tokens of a level pass the early layers and the head in one pass with a 4-D mask, and of all tokens
that may follow them the best make the next level: at most `topk`, and only such as are not much less probable than the
level's best. So a level has one token where the draft is sure. An EOS is never a node: nothing follows it, and where
the target says it, verification gives it as the target's own token.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastvlm_bench.engine.layer_gate import Mode
from fastvlm_bench.engine.session import Session
from fastvlm_bench.engine.tree import ROOT, Tree, keep_tree, read_tree, round_of, verify_tree
from fastvlm_bench.errors import UsageError
from fastvlm_bench.records.trace import Round


@dataclass(frozen=True)
class Shape:
    """How trees grow. depth: most levels. topk: most tokens of a level. nodes: most in all.

    branch_above: a token is drafted beside its level's best where its chance, the product of the probabilities down to
    it, is at least this share of the best one's. stop_below: a level is not drafted where the chance that one of its
    tokens stands, if the level before did, is less; of levels of one token that is the token's probability.
    """

    depth: int
    topk: int
    nodes: int
    branch_above: float
    stop_below: float


NODES, BRANCH_ABOVE = 16, 0.2
"""Of a tree, where the user gives none."""


def tree_options(
    topk: int | None, nodes: int | None, branch_above: float | None
) -> tuple[int | None, int | None, float | None]:
    """The same with defaults filled in for a tree; three times None for a chain, which a topk of 1 or None is.

    ValueError for a value out of range, UsageError for one that has no effect on a chain.
    """
    if (topk is not None and topk < 1) or not 0.0 <= (branch_above or 0.0) < 1.0:
        raise ValueError(f"topk must be at least 1 and branch_above within 0 .. 1, not {topk} and {branch_above}")
    if topk is None or topk == 1:
        for name, value in (("nodes", nodes), ("branch_above", branch_above)):
            if value is not None:
                raise UsageError(f"{name}={value} has no effect on a chain: give topk=2 or more, or leave it out")
        return None, None, None
    return topk, nodes or NODES, BRANCH_ABOVE if branch_above is None else branch_above


def tree_round(session: Session, shape: Shape, clock: Any) -> Round:
    """Draft a tree, verify it with the layers from the exit on, keep the branch that stands. For a single sequence."""
    return verified_tree(session, lambda: grow(session, shape), clock)


def verified_tree(session: Session, draft: Callable[[], Tree], clock: Any) -> Round:
    """The same for a tree that `draft` makes, of which every node has passed the early layers then, in its order."""
    gate = session.gate
    gate.mode = Mode.DRAFT
    gate.kept.clear()
    halves = clock.halves()
    tree = draft()
    halves.drafted()
    gate.mode = Mode.VERIFY
    view = session.cache_view(gate.exit_layer, len(tree) + 1)
    outputs, path, standing = verify_tree(session, tree, session.kwargs_ahead(len(tree)) | {"past_key_values": view})
    seconds = halves.seconds()
    outputs["past_key_values"] = session.cache  # the next round goes on with the cache itself, not with the view
    (emitted,) = session.emit([standing])
    keep_tree(session, outputs, path, emitted, gate)
    return round_of(tree, path, emitted, *seconds)


def grow(session: Session, shape: Shape) -> Tree:
    """The tree that follows the output. Every node has passed the early layers, in the order of the tree."""
    gate = session.gate
    outputs = session.forward(1, (), session.kwargs | {"past_key_values": session.draft_view()})
    tree, level, chances = Tree([], []), [ROOT], [1.0]
    for _ in range(min(shape.depth, session.remaining - 1)):
        found = _next_level(session, shape, tree, level, chances, outputs.logits)
        if not found:
            break
        places = {node: place for place, node in enumerate(level)}
        gate.follow_branch([places[parent] for _, parent, _ in found])
        level = list(range(len(tree), len(tree) + len(found)))
        tokens, parents = [token for token, _, _ in found], [parent for _, parent, _ in found]
        tree = Tree([*tree.tokens, *tokens], [*tree.parents, *parents])
        chances = [chance for _, _, chance in found]
        kwargs = session.kwargs_ahead(len(tree)) | {"past_key_values": session.draft_view()}
        outputs = read_tree(session, tree, level[0] + 1, kwargs)
    return tree


def _next_level(
    session: Session, shape: Shape, tree: Tree, level: Sequence[int], chances: Sequence[float], logits: Tensor
) -> list[tuple[int, int, float]]:
    """(token, parent, chance) of the next level, the best first; empty where the tree is to end.

    level: the nodes of the latest pass, or ROOT; chances: theirs; logits: after them, (1, nodes, vocabulary).
    """
    room = min(shape.topk, shape.nodes - len(tree))
    if room < 1:
        return []
    if len(session.processors):
        logits = torch.stack([_processed(session, tree, node, logits[:, i : i + 1]) for i, node in enumerate(level)], 1)
    likeliest = torch.softmax(logits[0].float(), dim=-1).topk(min(shape.topk + 1, logits.shape[-1]), dim=-1)
    ids, shares = torch.stack([likeliest.indices.float(), likeliest.values]).tolist()  # float32 holds ids up to 2^24
    never = session.placeholders | session.end_tokens
    found = sorted(
        (-before * share, node, int(token))
        for node, before, tokens, own in zip(level, chances, ids, shares, strict=True)
        for token, share in zip(tokens, own, strict=True)
        if share > 0 and int(token) not in never
    )  # fmt: skip
    kept = [
        (token, node, -chance) for chance, node, token in found[:room] if chance <= found[0][0] * shape.branch_above
    ]
    doubtful = sum(chance for _, _, chance in kept) < shape.stop_below * sum(chances)
    return [] if doubtful else kept


def _processed(session: Session, tree: Tree, node: int, logits: Tensor) -> Tensor:
    """(1, vocabulary): logits after a node, processed with the prefix of this node."""
    path = list[int]()
    while node != ROOT:
        path.insert(0, tree.tokens[node])
        node = tree.parents[node]
    session.write_ahead(path)
    return session.processed(logits, len(path))
