"""Standard decoding: one full pass a token. The reference, and not slower than `transformers`' own loop."""

from typing import Any

from torch import Tensor

from fastvlm_bench.engine.session import Session
from fastvlm_bench.machine.clock import Clock
from fastvlm_bench.records.trace import Generation, Round


class Standard:
    """A decoding method, to be passed to `generate` as `custom_generate`. `last` holds the latest trace."""

    def __init__(self, *, clock: Clock | None = None) -> None:
        self.clock = clock or Clock()
        self.last: Generation | None = None

    def __call__(self, model: Any, input_ids: Tensor, **prepared: Any) -> Tensor:
        """Decode one sequence. `prepared` is what `generate` hands to every custom method. Returns all ids, (1, T)."""
        clock, began = self.clock, self.clock.synchronised()
        session = Session(model, input_ids, clock=clock, **prepared)
        rounds: list[Round] = []
        session.prefill()
        first = clock.now()
        while not session.stop:
            started = clock.now()
            outputs = session.forward(1, [], session.kwargs)
            token = session.choose(outputs.logits, session.length)
            seconds = clock.now() - started
            session.advance_kwargs(outputs, session.kwargs, 1)
            rounds.append(Round(0, 0, 0, session.emit(token), 0.0, seconds))
        ended = clock.synchronised()
        self.last = Generation(
            session.new_tokens, session.stop, first - began, None, first - began, ended - first, rounds
        )
        return session.sequence
