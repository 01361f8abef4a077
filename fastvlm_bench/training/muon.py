"""Muon (Jordan et al. 2024): momentum whose matrix is orthogonalised before it is applied.

`torch.optim.Muon` does the same one matrix at a time in bfloat16, which many CPUs lack; here all matrices of one
shape are stacked and orthogonalised together in float32.
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


def orthogonalise(matrices: Tensor, iterations: int = 5) -> Tensor:
    """The nearest semi-orthogonal matrices, (n, rows, columns), by the quintic Newton-Schulz iteration."""
    tall = matrices.size(-2) > matrices.size(-1)
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(iterations):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """For hidden weight matrices only. `lr` is scaled by 0.2·sqrt(longer side), so that a value made for AdamW fits."""

    def __init__(
        self, params: Iterable[torch.nn.Parameter], lr: float, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            same_shape: dict[torch.Size, list[torch.nn.Parameter]] = defaultdict(list)
            for param in group["params"]:
                if param.grad is not None:
                    same_shape[param.shape].append(param)
            for shape, params in same_shape.items():
                for param in params:
                    if "momentum" not in self.state[param]:
                        self.state[param]["momentum"] = torch.zeros_like(param)
                grads = torch.stack([p.grad for p in params if p.grad is not None])
                average = torch.stack([self.state[p]["momentum"] for p in params]).lerp_(grads, 1 - group["momentum"])
                update = orthogonalise(grads.lerp(average, group["momentum"]))  # Nesterov
                scale = 0.2 * max(shape) ** 0.5 * group["lr"]
                for param, moved, mean in zip(params, update, average, strict=True):
                    self.state[param]["momentum"].copy_(mean)
                    param.mul_(1 - group["lr"] * group["weight_decay"]).sub_(moved, alpha=scale)
