"""From the last layer's states to logits, as the target itself does it, whatever that is: norm, LM head, scale, cap."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn

from fastvlm_bench.engine.session import Session
from fastvlm_bench.machine.clock import Clock
from fastvlm_bench.models.checkpoint_settings import unstopped
from fastvlm_bench.models.layers import decoder_layers, output_embeddings, replaced
from fastvlm_bench.models.load import Target
from fastvlm_bench.training.answers import Example
from fastvlm_bench.training.observe import AGREEMENT, Observer


class Tail:
    """Turns the last layer's states into logits by the target's own code.

    A pass of the target over one token of an answer is done again and again. In it every layer is skipped, and the last
    one hands on the given states, as many as there are, with their gradients. What follows the layers is the target's
    own: its norm, its LM head, its scale or soft cap.
    """

    def __init__(self, target: Target, observer: Observer, example: Example) -> None:
        """Find the pass, and compare it with the target's own logits on one example. ValueError if they differ."""
        with torch.no_grad():
            states = observer.forced(example).last_states()[-1:]
            seen = _seen(target, example)
            self.model, self.inputs, self.further = seen.model, seen.inputs, seen.further
            self.layers, self.output = decoder_layers(self.model), output_embeddings(self.model)
            own = seen.logits
            found = self(states)
        if found.shape != (1, len(own)):
            raise ValueError(f"one state gives logits of shape {tuple(found.shape)}")
        gap = float((found[0].float() - own).abs().max() / own.abs().max().clamp_min(1e-6))
        if not gap <= AGREEMENT:
            raise ValueError(f"its last layer's states do not give its own logits again (off by {gap:.1e})")

    def __call__(self, states: Tensor) -> Tensor:
        """(n, width) -> (n, vocab)."""
        return self._passed(states)

    def before(self, states: Tensor) -> Tensor:
        """(n, width) -> (n, width): what enters the LM head."""
        entered: list[Tensor] = []

        def arrive(given: Tensor) -> Tensor:
            entered.append(given)
            raise _Arrived

        with suppress(_Arrived):
            self._passed(states, arrive)
        return entered[0].reshape(states.shape)

    def after(self, entered: Tensor, output: Any = None) -> Tensor:
        """(n, width) -> (n, vocab), by the LM head or by an `output` in its place."""
        head = self.output.forward if output is None else output
        return self._passed(entered, lambda _: head(entered[None]))

    def _passed(self, states: Tensor, output: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """The logits, (n, vocab), of a pass whose last layer hands on `states`, (n, width). output: for the LM head."""
        handed: Any = states[None]
        handed = handed if self.further is None else (handed, *self.further)
        forwards: list[tuple[nn.Module, Callable[..., Any]]] = [
            (layer, lambda *_, **__: handed) for layer in self.layers
        ]
        if output is not None:
            forwards.append((self.output, output))
        with replaced(forwards):
            logits: Tensor = self.model(**self.inputs, return_dict=True).logits
        return logits[0]


class _Arrived(Exception):
    """What enters the LM head is known, and the rest of the pass is not needed."""


class _Seen:
    """A `custom_generate` that reads a given answer, and keeps the last pass.

    model: the one that was called, which may be a part of the target. inputs: of a pass over the answer's last token,
    which comes after the cache's. further: a None for each value that a layer returns after its states; None where it
    returns the states alone. logits: (vocab,), after the answer's last token but one.
    """

    def __init__(self, answer: Sequence[int]) -> None:
        self.answer = list(answer)
        self.model: Any = None
        self.inputs: dict[str, Any] = {}
        self.further: tuple[None, ...] | None = None
        self.logits = torch.empty(0)

    def __call__(self, model: Any, input_ids: Tensor, **prepared: Any) -> Tensor:
        session = Session(model, input_ids, clock=Clock(), **prepared)
        session.prefill()
        session.replace_last(self.answer[0])
        with self._returning(decoder_layers(model)[-1]):
            self.logits = session.read(self.answer[1:]).logits[0, -1].float()
        ahead = self.answer[1:]
        self.model, self.inputs = model, session.inputs_of(1, [ahead], session.kwargs_ahead(len(ahead)))
        if "logits_to_keep" in self.inputs:
            self.inputs["logits_to_keep"] = 0  # all
        return session.sequences

    @contextmanager
    def _returning(self, layer: nn.Module) -> Iterator[None]:
        def leaves(_: nn.Module, __: Any, result: Any) -> None:
            self.further = (None,) * (len(result) - 1) if isinstance(result, tuple) else None

        hook = layer.register_forward_hook(leaves)
        try:
            yield
        finally:
            hook.remove()


def _seen(target: Target, example: Example) -> _Seen:
    seen = _Seen(example.answer)
    unstopped(target.model)(
        **example.inputs(target), max_new_tokens=len(example.answer) + 1, do_sample=False, num_beams=1,
        custom_generate=seen,
    )  # fmt: skip
    return seen
