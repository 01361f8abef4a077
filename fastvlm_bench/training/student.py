"""A head in training, with the recipe by which it learns."""

from typing import Any

import torch

from fastvlm_bench.drafts.heads import ImitationHead, new_head
from fastvlm_bench.training.recipe import Recipe


class Student:
    """A recipe and its head in training. The head's weights are float32 whatever the target's dtype.

    The head stays in eval mode: the dropout in some families' layers would make an update depend on more than weights
    and examples.
    """

    def __init__(self, recipe: Recipe, model: Any, seed: int) -> None:
        self.recipe = recipe
        torch.manual_seed(seed)  # before each head, so that its first weights do not depend on the heads beside it
        self.head: ImitationHead = new_head(recipe.head, model, recipe.exit_layer, recipe.head_options).float()
        self.head.requires_grad_(True).eval()

    @property
    def name(self) -> str:
        return self.recipe.name
