"""Early exit: the draft alone, never verified. Not lossless: it shows the quality that verification keeps."""

from typing import Any

from torch import Tensor

from fastvlm_bench.drafts.imitation_head import Draft
from fastvlm_bench.engine.layer_gate import LayerGate, Mode
from fastvlm_bench.engine.session import Session
from fastvlm_bench.machine.clock import Clock
from fastvlm_bench.records.trace import Generation, Round


class EarlyExit:
    """The prompt passes all layers (it gives the first token); every further token comes from the draft."""

    def __init__(self, draft: Draft, *, clock: Clock | None = None) -> None:
        self.draft, self.clock = draft, clock or Clock()
        self.last: Generation | None = None
        self.gate: LayerGate | None = None  # of the latest generation

    def __call__(self, model: Any, input_ids: Tensor, **prepared: Any) -> Tensor:
        """Decode one sequence. `prepared` is what `generate` hands to every custom method. Returns all ids, (1, T)."""
        clock, began = self.clock, self.clock.synchronised()
        gate = self.gate = LayerGate.of(model, self.draft)
        session = Session(model, input_ids, clock=clock, **prepared)
        rounds: list[Round] = []
        with gate.installed(self.draft.new_cache()):
            session.prefill()
            first = clock.now()
            gate.mode = Mode.DRAFT
            session.kwargs["past_key_values"] = gate.draft_view(session.cache)
            while not session.stop:
                started = clock.now()
                outputs = session.forward(1, [], session.kwargs)
                token = session.choose(outputs.logits, session.length)
                seconds = clock.now() - started
                gate.kept.clear()
                session.advance_kwargs(outputs, session.kwargs, 1)
                rounds.append(Round(1, 0, 0, session.emit(token), seconds, 0.0))
            ended = clock.synchronised()
        self.last = Generation(
            session.new_tokens, session.stop, first - began, None, first - began, ended - first, rounds
        )
        return session.sequence
