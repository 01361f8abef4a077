"""Grows a tree of drafts with a head, as EAGLE-2 does (arXiv 2406.16858), and leaves the head's cache as it was.

Level by level the `topk` nodes with the highest cumulative probability are expanded, each by its `topk` likeliest
tokens. Of all tokens that were met, the `nodes` best are kept. A child is never more probable than its parent, so what
is kept is a tree.
"""

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

from fastvlm_bench.drafts.state_heads import StateHead
from fastvlm_bench.engine.tree import ROOT, Tree


def grow(
    head: StateHead, cache: Any, states: Tensor, logits: Tensor, positions: Tensor, *, topk: int, depth: int,
    nodes: int, never: Collection[int], ends: Collection[int],
) -> Tree:  # fmt: skip
    """The tree after the text that the head has read.

    states, logits: of its last column, (1, 1, width) and (1, 1, draft vocabulary). positions: of that column, (1, 1) or
    (3, 1, 1). depth: most levels. never: ids that are not drafted. ends: ids after which nothing follows.
    """
    device, verified, drawn = logits.device, _columns(cache), 0
    there = [token for token in sorted(never) if token < head.vocabulary]  # Mllama's placeholder is beyond its LM head
    barred, last = (torch.tensor(ids, dtype=torch.long, device=device) for ids in (there, sorted(ends)))

    def best(logits: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities and ids of the likeliest tokens, (nodes, topk) each."""
        chances = head.spread(logits)[0] if len(barred) else logits[0]
        chances = torch.log_softmax(chances.float(), dim=-1)
        if len(barred):
            chances[:, barred] = -torch.inf
        top, places = chances.topk(min(topk, chances.shape[-1]))
        return top, places if len(barred) else head.target_ids(places)

    top, tokens = best(logits)
    found = [(tokens[0], torch.full_like(tokens[0], ROOT), top[0])]
    beam, chances, tokens = torch.arange(len(tokens[0]), device=device), top[0], tokens[0]
    states, count = states.expand(1, len(beam), -1), len(beam)
    ancestors = torch.zeros(len(beam), 0, dtype=torch.bool, device=device)
    for level in range(1, depth):
        here = torch.eye(len(beam), dtype=torch.bool, device=device)
        seen = torch.cat([ancestors, here], dim=1)
        mask = torch.cat([seen.new_ones(len(beam), verified), seen], dim=1)[None, None]
        place = (positions + level).expand(*positions.shape[:-1], len(beam))
        own = head(head.embed(tokens[None]), states, place, cache, mask)
        drawn += len(beam)
        top, followers = best(head.logits(own))
        chances = chances[:, None] + top
        chances[torch.isin(tokens, last)] = -torch.inf
        found.append((followers.flatten(), beam.repeat_interleave(top.shape[1]), chances.flatten()))
        if level + 1 < depth:
            chances, chosen = chances.flatten().topk(min(topk, chances.numel()))
            parents = chosen // top.shape[1]
            beam, tokens = chosen + count, followers.flatten()[chosen]
            states, ancestors = own[:, parents], seen[parents]
        count += len(found[-1][0])
    for layer in cache.layers:
        layer.crop(-drawn)
    all_tokens, all_parents, all_chances = (torch.cat(parts) for parts in zip(*found, strict=True))
    return _kept(all_tokens, all_parents, all_chances, nodes)


def _kept(tokens: Tensor, parents: Tensor, chances: Tensor, nodes: int) -> Tree:
    """The tree of the nodes with the best chances. Where two are equal the earlier one is kept, so parents go first."""
    order = torch.sort(chances, descending=True, stable=True).indices[:nodes]
    order = order[chances[order] > -torch.inf].sort().values
    table = torch.stack([order, tokens[order], parents[order]]).tolist()  # one transfer
    places = {old: new for new, old in enumerate(table[0])}
    return Tree(table[1], [ROOT if parent == ROOT else places[parent] for parent in table[2]])


def _columns(cache: Any) -> int:
    return int(cache.layers[0].get_seq_length())
