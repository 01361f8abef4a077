"""Where an output ends that another loop has written: at EOS, at the limit, or by a stopping criterion.

Our own sessions stop there themselves. A loop of transformers fills a finished row of a batch up with padding.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import Tensor
from transformers.generation.stopping_criteria import EosTokenCriteria, MaxLengthCriteria


def further(criteria: Iterable[Any]) -> list[Any]:
    """The criteria that are neither EOS nor the limit, which are checked on plain numbers."""
    return [each for each in criteria if not isinstance(each, EosTokenCriteria | MaxLengthCriteria)]


def output_end(
    prompt: Tensor, tokens: Sequence[int], eos: Sequence[int], most: int, criteria: Sequence[Any],
    filled: Callable[[int], bool] | None = None,
) -> tuple[int, str]:  # fmt: skip
    """(how many of the tokens are output, "eos", "length" or "criteria"), as a session would have stopped.

    prompt: (1, T). criteria: those of `further`, which see the prompt and the tokens so far. most: the limit. filled:
    whether a token is one that the loop fills finished rows up with, for a loop that asked the criteria after each
    token itself: they are then asked again only of a row that ends so.
    """
    if criteria and filled is not None and tokens and not filled(tokens[-1]) and not any(t in eos for t in tokens):
        return (most, "length") if len(tokens) >= most else (len(tokens), "criteria")
    for count, token in enumerate(tokens, 1):
        if token in eos:
            return count, "eos"
        if count >= most:
            return count, "length"
        if criteria:
            said = prompt.new_tensor([[*prompt[0].tolist(), *tokens[:count]]])
            if any(bool(each(said, None)) for each in criteria):
                return count, "criteria"
    return len(tokens), "length"
