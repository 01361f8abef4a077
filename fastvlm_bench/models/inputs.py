"""What a processor gives for one sample: tensors by name, and for some families lists of tensors, or none at all."""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, device, dtype


def placed(value: Any, where: device, floating: dtype) -> Any:
    """A processor's output on a device; what is floating-point, in a dtype. Lists keep their form, and so does what is
    no tensor."""
    if isinstance(value, list | tuple):
        return [placed(item, where, floating) for item in value]
    if not isinstance(value, Tensor):
        return value
    return value.to(where, floating if value.is_floating_point() else None)


def tensors(value: Any) -> Iterator[Tensor]:
    """The tensors of an input, or of the lists that it is."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors(item)


def versions(inputs: Mapping[str, Any]) -> dict[str, list[int]]:
    """How often each input has been written to, so that one can tell whether a model has done so."""
    return {name: [one._version for one in tensors(value)] for name, value in inputs.items()}


def shapes(inputs: Mapping[str, Any]) -> tuple[Any, ...]:
    """The shapes of all inputs, which can be compared and hashed."""
    return tuple(sorted((name, tuple(tuple(one.shape) for one in tensors(value))) for name, value in inputs.items()))
