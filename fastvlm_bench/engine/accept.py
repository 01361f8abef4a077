"""The two acceptance rules, greedy and sampled. They alone decide which drafted tokens stand."""

from collections.abc import Sequence

import torch
from torch import Tensor


def accept_greedy(drafted: Sequence[int], predicted: Sequence[int]) -> int:
    """Length of the longest prefix of `drafted` that the target itself would have chosen.

    predicted[i] is the target's argmax after the prompt, the output so far and drafted[:i]; it may be one longer
    than `drafted` (the bonus position). Greedy acceptance is exact: every token that stands is the target's own.
    """
    accepted = 0
    for draft, own in zip(drafted, predicted, strict=False):
        if draft != own:
            break
        accepted += 1
    return accepted


def accept_sampled(
    drafted: Sequence[int], q: Tensor, p: Tensor, generator: torch.Generator | None = None
) -> tuple[int, int | None]:
    """(how many drafted tokens stand, the token that follows them), distributed exactly as the target's samples.

    Speculative sampling (arXiv 2211.17192, algorithm 1): drafted[i], drawn from q[i], stands with probability
    min(1, p[i]/q[i]). The first that is rejected is replaced by a draw from max(0, p[i] - q[i]), normalised. If all
    stand, a bonus token is drawn from p[k]. q: (k, vocab), the draft's probabilities; p: (k + 1, vocab), the target's;
    both after the same temperature, top-k and top-p. Where the last draft ends the output, p may lack its last row;
    then the following token is None. ValueError: wrong shapes, or a token that the draft cannot have drawn.
    """
    count = len(drafted)
    if q.shape[0] != count or p.shape[0] not in (count, count + 1) or p.shape[1:] != q.shape[1:]:
        raise ValueError(f"{count} drafted tokens need q (k, V) and p (k + 1, V), not {q.shape} and {p.shape}")
    places = torch.arange(count), torch.tensor(drafted, dtype=torch.long)
    chances = zip(drafted, q[places].tolist(), p[places].tolist(), strict=True)  # one transfer for all tokens
    for i, (token, own, target) in enumerate(chances):
        if not own > 0:  # also true for NaN
            raise ValueError(f"drafted token {token} at position {i} has draft probability {own}")
        if _uniform(generator) * own >= target:  # u < p/q without the division; p = 0 never stands
            return i, draw(residual(p[i], q[i]), generator)
    return count, draw(p[count], generator) if len(p) > count else None


def residual(p: Tensor, q: Tensor) -> Tensor:
    """max(0, p - q), not normalised. Where that is zero everywhere (p = q, up to rounding), p itself."""
    left = (p - q).clamp_min(0)
    return left if bool(left.sum() > 0) else p


def _uniform(generator: torch.Generator | None) -> float:
    """Uniform on [0, 1)."""
    device = "cpu" if generator is None else generator.device
    return float(torch.rand((), generator=generator, dtype=torch.float64, device=device))


def draw(weights: Tensor, generator: torch.Generator | None = None) -> int:
    """Draw an index with these weights, (vocab,), which need not add up to one."""
    return int(torch.multinomial(weights, 1, generator=generator))
