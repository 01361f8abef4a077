"""What the frozen target gave for each text, kept: nothing below a head learns, so a text need pass the target once.

A text passes it alone, so that what is kept does not depend on the texts beside it, nor on where an earlier attempt was
stopped. When its turn comes again, the model runs with layers that return what they get: that gives the masks and
positions of the batch, and the kept states take the place of the others.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fastvlm_bench.models.layers import replaced
from fastvlm_bench.training.answers import Example
from fastvlm_bench.training.observe import AGREEMENT, Observer, View

SHARE = 0.3
"""Of the free memory, what kept states may take."""


@dataclass(frozen=True)
class Kept:
    """Of one text, without padding: layer -> its input, and layer -> its output, (tokens, width) each, on the CPU."""

    example: Example
    states: Mapping[int, Tensor]
    tops: Mapping[int, Tensor]


class KeptStates:
    """Views of the packed route, for which each text passes the target once."""

    def __init__(self, observer: Observer) -> None:
        self.observer = observer
        self._kept: dict[int, Kept] = {}
        self._forms: dict[int, int | None] = {}

    def bytes_for(self, examples: Sequence[Example]) -> int:
        """What keeping all of them takes, by the length of the first one's prompt."""
        first = self._of(examples[0])
        each = sum(t.numel() * t.element_size() for t in (*first.states.values(), *first.tops.values()))
        tokens = len(next(iter(first.tops.values())))
        prompt = tokens - len(examples[0].answer)
        return each // tokens * sum(prompt + len(example.answer) for example in examples)

    def agree(self, examples: Sequence[Example]) -> bool:
        """Whether these examples together look as in one pass of the target: states, and every argument of a layer."""
        whole, kept = self.observer.packed(examples), self.view(examples)
        gap = (whole.last_states() - kept.last_states()).abs().max()
        alike = all(
            _same((a.args[layer], a.kwargs[layer]), (b.args[layer], b.kwargs[layer]))
            for a, b in zip(whole.spans, kept.spans, strict=True) for layer in self.observer.exits
        )  # fmt: skip
        return alike and bool(gap <= AGREEMENT * whole.last_states().abs().max().clamp_min(1e-6))

    @torch.no_grad()
    def view(self, examples: Sequence[Example]) -> View:
        """As `Observer.packed`."""
        rows = [self._of(example) for example in examples]
        batch, told = self.observer.padded(examples)
        with self._passing_by(), self.observer.recorded() as span:
            self.observer.target.model(**batch, use_cache=False, logits_to_keep=1)
        for place, like in span.states.items():
            span.states[place] = _padded([row.states[place] for row in rows], told.shape[1], like.device)
        for place, like in span.tops.items():
            span.tops[place] = _padded([row.tops[place] for row in rows], told.shape[1], like.device)
        return View([span], told)

    def _of(self, example: Example) -> Kept:
        found = self._kept.get(id(example))
        if found is None:
            with self._noting_forms():
                span = self.observer.packed([example]).spans[0]
            found = self._kept[id(example)] = Kept(example, _rows(span.states), _rows(span.tops))
        return found

    @contextmanager
    def _noting_forms(self) -> Iterator[None]:
        """Note whether each layer returns a tuple, and of how many."""

        def noted(index: int) -> Callable[..., None]:
            def keep(_: nn.Module, __: Any, result: Any) -> None:
                self._forms[index] = len(result) if isinstance(result, tuple) else None

            return keep

        layers = self.observer.layers
        handles = [] if self._forms else [layer.register_forward_hook(noted(i)) for i, layer in enumerate(layers)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @contextmanager
    def _passing_by(self) -> Iterator[None]:
        """Let every layer return what it gets."""

        def stub(index: int) -> Callable[..., Any]:
            size = self._forms[index]

            def handed_on(*args: Any, **kwargs: Any) -> Any:
                states = args[0] if args else kwargs["hidden_states"]
                return states if size is None else (states, *(None,) * (size - 1))

            return handed_on

        with replaced([(layer, stub(i)) for i, layer in enumerate(self.observer.layers)]):
            yield


def _rows(found: Mapping[int, Tensor]) -> dict[int, Tensor]:
    return {place: states[0].cpu() for place, states in found.items()}


def _padded(rows: Sequence[Tensor], length: int, device: torch.device) -> Tensor:
    """(batch, length, width): the rows with zeros after them, which no position of a text attends to."""
    return torch.stack([torch.cat([row, row.new_zeros(length - len(row), *row.shape[1:])]) for row in rows]).to(device)


def _same(one: Any, other: Any) -> bool:
    """Whether two arguments are the same, with the tensors and containers in them."""
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and torch.equal(one, other)
    if isinstance(one, Mapping):
        return isinstance(other, Mapping) and one.keys() == other.keys() and all(_same(one[k], other[k]) for k in one)
    if isinstance(one, tuple | list):
        return type(one) is type(other) and len(one) == len(other) and all(map(_same, one, other))
    return type(one) is type(other) and (not isinstance(one, int | float | str | bool) or one == other)
