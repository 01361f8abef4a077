"""The loop around every decoding method: prefill, then rounds until every row has stopped.

`Method.__call__` is this loop. What happens in a round is the method's own: see `decoding/standard.py`, the smallest,
and `decoding/fastvlm.py`, which drafts, verifies, accepts and rolls back. A row is one sequence of a batch.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from torch import Tensor, nn

from fastvlm_bench.drafts.imitation_head import Draft
from fastvlm_bench.engine.batch_session import BatchSession
from fastvlm_bench.engine.engine import Carrier, Eager
from fastvlm_bench.engine.gate_carrier import GateCarrier
from fastvlm_bench.engine.layer_gate import LayerGate, Mode
from fastvlm_bench.engine.rows import settle, traced
from fastvlm_bench.engine.session import Session
from fastvlm_bench.errors import UsageError
from fastvlm_bench.machine.clock import Clock
from fastvlm_bench.records.trace import Generation, Round, Trace


class Method:
    """A decoding method, to be passed to `generate` as `custom_generate`.

    A subclass implements `round`, once for a single sequence and for a batch, whose prompts are padded on the left.
    draft: the exit layer and head of a method that runs a part of the layers; it finds their gate in `session.gate`.
    streamer: gets the tokens as they are emitted, several at a time where drafts stood; one of transformers' will do
    (`TextStreamer`). `generate` hands its own streamer to no custom method. After each call `trace` holds what was
    counted and timed.
    """

    sees = False  # whether `show` must be called before each generation
    takes_batches = True
    takes_recorded_batches = True
    levels: Sequence[Draft] = ()
    """The exits of a method that has several, from the lowest up."""

    def __init__(self, draft: Draft | None = None, *, clock: Clock | None = None) -> None:
        self.clock = clock or Clock()
        self.draft: Any = draft
        self.streamer: Any = None
        self.trace: Trace | None = None
        self.gate: LayerGate | None = None  # the gate of the latest call
        self.engine = Eager()

    def round(self, session: Session) -> list[Round]:
        """Emit at least one more token for each of `session.rows`. Returns a `Round` for each, in their order."""
        raise NotImplementedError

    def draft_for(self, model: Any) -> Draft | None:
        """The draft, which is loaded for `model` if it was not yet. None where every pass runs the whole model."""
        found: Draft | None = self.draft
        return found

    @property
    def drafting(self) -> bool:
        """Whether a pass of the target that begins now drafts; else it verifies."""
        return self.gate is not None and self.gate.mode in (Mode.DRAFT, Mode.CATCH_UP)

    @property
    def stops(self) -> bool:
        """Whether drafting stops in doubt, so that α is one of drafts that the method trusted."""
        return bool(getattr(self, "stop_below", 0.0))

    @contextmanager
    def never_stopping(self) -> Iterator[None]:
        """The time in which a method that stops in doubt drafts on regardless, as in the papers."""
        method: Any = self
        kept, method.stop_below = getattr(method, "stop_below", 0.0), 0.0
        try:
            yield
        finally:
            method.stop_below = kept

    def reset(self) -> None:
        """Forget what earlier generations have taught the method, if it remembers anything: a new task begins."""

    def memory(self) -> Any:
        """A copy of what earlier generations have taught the method; None where it learns nothing."""
        return None

    def recall(self, memory: Any) -> None:
        """Know what `memory` gave, and nothing later: the generations since then are dropped."""

    @property
    def drafter(self) -> dict[str, Any] | None:
        """What drafts, for run.json, where it is not a draft of our own: its name, source and weights' hash."""
        return None

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights that the method adds to the target, where they are not those of a draft of our own."""
        return 0

    @property
    def helper(self) -> nn.Module | None:
        """The model that drafts, where it is one of its own, so that `Phases` can time its passes."""
        return None

    def pass_key(self) -> Hashable:
        """What tells a pass of the target that runs now from others of its width; None for one not to be recorded."""
        return self.gate.key if self.gate is not None else "whole"

    @property
    def keys_passes(self) -> bool:
        """Whether the method has a `pass_key` of its own."""
        return type(self).pass_key is not Method.pass_key

    @property
    def beyond(self) -> int:
        """How many columns a pass may have beyond the longest output, as a tree has."""
        return 0

    @property
    def passes_by(self) -> bool:
        """Whether the pass that runs now is of a kind that may not come again: see `engine/passing.py`."""
        return False

    def carriers(self) -> list[Carrier]:
        """What hands tensors from pass to pass, so that a recorded pass knows them."""
        return [GateCarrier(self.gate)] if self.gate is not None else []

    def show(self, shown: Sequence[tuple[Any, ...]]) -> None:
        """Called outside the clock, if the method `sees`, with what each row that is decoded next is asked.

        That is (image, prompt), or (images, prompt, (prompt, answer) of each turn before): the arguments of `encode`.
        It is for a drafter that is a model of its own: the target's inputs do not fit another model's processor.
        """
        raise NotImplementedError

    def begin(self, session: Session) -> None:
        """Called once after the prefill, unless every row has stopped at its first token."""

    def record_beside(self, session: Session) -> str | None:
        """Called once the target's passes are recorded: what drafts beside them is to be recorded, too.

        Returns why it is not; None where it is, or where nothing drafts beside them.
        """
        return None

    def around(self, model: Any) -> AbstractContextManager[Any]:
        """The context in which the model decodes once: with a draft, its layers are gated."""
        draft = self.draft_for(model)
        self.gate = LayerGate.of(model, draft) if draft is not None else None
        return nullcontext() if self.gate is None or draft is None else self.gate.installed(draft.new_cache())

    def generate(self, model: Any, decode: Callable[..., Tensor], **options: Any) -> None:
        """Call `generate` as a user does. decode: calls this method, and notes when; options: of `generate`."""
        model.generate(**options, custom_generate=decode)

    def __call__(self, model: Any, input_ids: Tensor, **prepared: Any) -> Any:
        """Decode: prefill, then rounds until every row has stopped.

        input_ids: (rows, T). prepared: what `generate` hands to every custom method. Returns the ids with the prompt,
        (rows, T + most new tokens), within transformers' output where `return_dict_in_generate` asks for it.
        """
        if len(input_ids) > 1 and not self.takes_batches:
            raise UsageError(f"{type(self).__name__} decodes one sequence at a time, and got {len(input_ids)}")
        clock, began = self.clock, self.clock.synchronised()
        kind = Session if len(input_ids) == 1 else BatchSession
        if self.streamer is not None:
            prepared["streamer"] = self.streamer
        with self.around(model):
            session = kind(model, input_ids, self.gate, clock=clock, **prepared)
            first = session.prefill()
            if session.rows:
                self.begin(session)
                self.engine.take_over(session, self)
            while rows := session.rows:
                started = clock.now()
                settle(rows, self.round(session), clock.now() - started)
            ended = clock.synchronised()
        self.trace = traced(session.ended, began, first, ended)
        return session.returned

    @property
    def last(self) -> Generation | None:
        """The trace of the latest call; None before the first. ValueError after a batch, whose rows are in `trace`."""
        if self.trace is None:
            return None
        if len(self.trace.rows) > 1:
            raise ValueError(f"{len(self.trace.rows)} sequences were decoded together: their traces are in trace.rows")
        return self.trace.rows[0]
