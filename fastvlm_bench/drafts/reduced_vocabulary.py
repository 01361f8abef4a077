"""Drafting from the most frequent token ids alone, which needs fewer rows of the LM head (FR-Spec, arXiv 2502.14856).

The target still verifies with its whole vocabulary, so a token that is left out costs a rejection, never an error.
"""

from collections import Counter
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from fastvlm_bench.models.tensor_parallel import whole


class ReducedOutput:
    """Stands in for the LM head while drafting: logits of the whole width, minus infinity where a token is left out."""

    def __init__(self, output: nn.Linear, ids: Tensor) -> None:
        self.replaces: nn.Module = output
        self.ids = ids
        self.width = output.weight.shape[0]
        self.weight = whole(output.weight.detach())[ids].clone()  # a copy: rows that lie apart would be slow to read
        bias: Tensor | None = getattr(output, "bias", None)
        self.bias = None if bias is None else bias.detach()[ids].clone()

    def __call__(self, states: Tensor) -> Tensor:
        """states (…, width of the states) -> (…, whole vocabulary)."""
        few = self.few(states)
        return few.new_full((*few.shape[:-1], self.width), -torch.inf).index_copy_(-1, self.ids, few)

    def few(self, states: Tensor) -> Tensor:
        """(…, width of the states) -> (…, len(ids)): the logits of the ids that are left, in their order."""
        return nn.functional.linear(states, self.weight, self.bias)

    @property
    def weight_bytes(self) -> int:
        return sum(t.numel() * t.element_size() for t in (self.weight, self.bias) if t is not None)


def most_frequent(answers: Iterable[Iterable[int]], count: int, always: Iterable[int]) -> Tensor:
    """The `count` token ids that `answers` use most, in ascending order; fewer if fewer occur.

    The ids in `always` are taken first, whatever the answers use. Between equally frequent ids the lower one is taken.
    """
    seen = Counter(token for answer in answers for token in answer)
    ranked = [*dict.fromkeys(always), *sorted(seen, key=lambda token: (-seen[token], token))]
    return torch.tensor(sorted(list(dict.fromkeys(ranked))[:count]))
