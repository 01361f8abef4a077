"""Heads at the end (Medusa, arXiv 2401.10774) in training: head i guesses a token from the state i + 1 places before.

And block heads, whose place i guesses a token from the head's own state i places before.

Every taught position holds a token that can be drafted. Head i learns it from the state at the position i + 1 places
before the one whose state makes the target choose it. So losses, weights and guesses belong to the drafted token, as
for any other head, and only the state that they come from differs.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from fastvlm_bench.drafts.heads import BlockHead, MedusaHeads
from fastvlm_bench.training.losses import position_losses
from fastvlm_bench.training.observe import View
from fastvlm_bench.training.recipe import Recipe
from fastvlm_bench.training.tail import Tail


def guessed(heads: MedusaHeads, view: View, tail: Tail) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield for each head its states (m, width) and logits (m, vocab), and which m of the n taught places they are for.

    At the first places of a text the later heads have none: their state would lie before the end of the prompt, from
    which decoding starts.
    """
    for number in range(len(heads.blocks)):
        roots, there = view.before(number + 1)
        states = heads.one(number, tail.before(roots))
        yield states, tail.after(states, heads.outputs[number] if heads.outputs else None), there


def losses_ahead(recipe: Recipe, heads: MedusaHeads, view: View, tail: Tail, target: Tensor) -> Tensor:
    """The loss at each of the n taught places, (n,): Σ over heads of decay^i · head i's loss there.

    target: the target's logits there, (n, vocab).
    """
    total = torch.zeros(len(target), device=target.device)
    for number, (states, drafted, there) in enumerate(guessed(heads, view, tail)):
        each = position_losses(recipe, states, drafted, states, target[there])
        total = total + recipe.decay**number * torch.zeros_like(total).masked_scatter(there, each)
    return total


def losses_of_block(
    recipe: Recipe, head: BlockHead, view: View, say: Callable[[Tensor], Tensor], aim: Tensor, target: Tensor
) -> Tensor:
    """The loss at each of the n taught places, (n,): Σ over the block's places of decay^i · place i's loss there.

    say: states -> logits. aim: the target's deeper states at the taught places; target: its logits there.
    """
    total = torch.zeros(len(target), device=target.device)
    for number, (states, there) in enumerate(view.imitate_ahead(head, recipe.exit_layer, head.places)):
        made = head.place(number, states)
        each = position_losses(recipe, made, say(made), aim[there], target[there])
        total = total + recipe.decay**number * torch.zeros_like(total).masked_scatter(there, each)
    return total
