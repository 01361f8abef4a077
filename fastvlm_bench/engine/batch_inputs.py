"""Makes one batch of the inputs of single samples: pads prompts on the left and stacks images."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastvlm_bench.errors import UsageError

TEXT = (
    "input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids", "cross_attention_mask",
    "image_embeds_position_mask",
)  # fmt: skip
"""Inputs that run along the prompt. They are padded on the left: the ids with the pad token, the others with zeros."""


def collate(singles: Sequence[dict[str, Any]], pad_token_id: int) -> dict[str, Any]:
    """Make one batch of inputs, each (1, ...) as a processor gives them for one sample.

    Inputs that do not run along the prompt are stacked along the first dimension. Where their sizes differ (another
    number of tiles, a longer text for a query transformer), they are filled up with zeros at the end, as processors
    do. The batch's self-check finds out whether the model then answers as for single samples. UsageError where the
    samples do not have the same inputs, or where an input is not a tensor.
    """
    keys = set(singles[0])
    for other in singles[1:]:
        if set(other) != keys:
            raise UsageError(
                f"samples of one batch have different inputs ({', '.join(sorted(keys ^ set(other)))}); "
                "use --batch-size 1"
            )
    longest = max(single["input_ids"].shape[1] for single in singles)
    batch: dict[str, Any] = {}
    for key in singles[0]:
        values = [single[key] for single in singles]
        if not all(isinstance(value, Tensor) for value in values):
            raise UsageError(f"input '{key}' of this model cannot be stacked into a batch; use --batch-size 1")
        if key in TEXT:
            fill = pad_token_id if key == "input_ids" else 0
            batch[key] = torch.cat([_padded_left(value, longest, fill) for value in values])
        else:
            batch[key] = torch.cat(_filled_up(values))
    return batch


def unevenness(singles: Sequence[dict[str, Any]]) -> frozenset[str]:
    """The names of the inputs that `collate` must pad or fill up for these samples."""
    shapes = [
        {key: value.shape[1:] for key, value in single.items() if isinstance(value, Tensor)} for single in singles
    ]
    return frozenset(key for key in shapes[0] if any(other.get(key) != shapes[0][key] for other in shapes))


def _padded_left(value: Tensor, length: int, fill: int) -> Tensor:
    missing = length - value.shape[1]
    return torch.cat([value.new_full((1, missing, *value.shape[2:]), fill), value], dim=1) if missing else value


def _filled_up(values: list[Tensor]) -> list[Tensor]:
    """The values, filled up with zeros so that they have one size from the second dimension on."""
    sizes = [max(value.shape[i] for value in values) for i in range(1, values[0].ndim)]
    filled = []
    for value in values:
        if list(value.shape[1:]) != sizes:
            whole = value.new_zeros(len(value), *sizes)
            whole[tuple(slice(n) for n in value.shape)] = value
            value = whole
        filled.append(value)
    return filled
