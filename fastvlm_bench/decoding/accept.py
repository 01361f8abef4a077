"""The acceptance rules: which drafted tokens stand. Greedy here; nothing else may decide."""

from collections.abc import Sequence


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
