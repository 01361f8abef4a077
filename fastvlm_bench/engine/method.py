"""The frame of every decoding method: prefill, then rounds until every row has stopped. One sequence or several."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import Tensor

from fastvlm_bench.drafts.imitation_head import Draft
from fastvlm_bench.engine.batch_session import BatchSession
from fastvlm_bench.engine.layer_gate import LayerGate
from fastvlm_bench.engine.rows import settle, traced
from fastvlm_bench.engine.session import Session
from fastvlm_bench.machine.clock import Clock
from fastvlm_bench.records.trace import Generation, Round, Trace


class Method:
    """A decoding method, to be passed to `generate` as `custom_generate`.

    A method is a subclass that says in `round` what happens between two looks at the clock. It is written once and
    decodes one sequence, or a batch whose prompts are padded on the left. draft: an exit and a head, for methods that
    run a part of the model; they find its gate in `session.gate`. `trace` tells of the latest generation.
    """

    def __init__(self, draft: Draft | None = None, *, clock: Clock | None = None) -> None:
        self.clock = clock or Clock()
        self.draft: Any = draft
        self.trace: Trace | None = None
        self.gate: LayerGate | None = None  # that of the latest generation

    def round(self, session: Session) -> list[Round]:
        """Decode at least one more token of each of `session.rows`; tell what happened, in their order."""
        raise NotImplementedError

    def draft_for(self, model: Any) -> Draft | None:
        """The draft, loaded for `model` if it was not yet. None: every pass runs the whole model."""
        found: Draft | None = self.draft
        return found

    def begin(self, session: Session) -> None:
        """What is to be done once, after the prefill, if any row goes on."""

    def around(self, model: Any) -> AbstractContextManager[Any]:
        """What the model is wrapped in for the time of one generation."""
        draft = self.draft_for(model)
        self.gate = LayerGate.of(model, draft) if draft is not None else None
        return nullcontext() if self.gate is None or draft is None else self.gate.installed(draft.new_cache())

    def __call__(self, model: Any, input_ids: Tensor, **prepared: Any) -> Tensor:
        """Decode. input_ids: (rows, T). prepared: what `generate` hands to every custom method. Returns all ids."""
        clock, began = self.clock, self.clock.synchronised()
        kind = Session if len(input_ids) == 1 else BatchSession
        with self.around(model):
            session = kind(model, input_ids, self.gate, clock=clock, **prepared)
            session.prefill()
            first = clock.now()
            if session.rows:
                self.begin(session)
            while rows := session.rows:
                started = clock.now()
                settle(rows, self.round(session), clock.now() - started)
            ended = clock.synchronised()
        self.trace = traced(session.ended, first - began, ended - first)
        return session.sequences

    @property
    def last(self) -> Generation | None:
        """The trace of the latest generation of one sequence. ValueError after a batch: its rows are in `trace`."""
        if self.trace is None:
            return None
        if len(self.trace.rows) > 1:
            raise ValueError(f"{len(self.trace.rows)} sequences were decoded together: their traces are in trace.rows")
        return self.trace.rows[0]
