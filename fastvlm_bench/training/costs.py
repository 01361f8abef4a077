"""Measures what single passes cost on this machine, so that held-out acceptance becomes a predicted speed-up."""

import statistics
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import MinNewTokensLengthLogitsProcessor

from fastvlm_bench.analysis.prediction import PassCosts
from fastvlm_bench.decoding.fastvlm import FastVLM
from fastvlm_bench.decoding.medusa import Medusa
from fastvlm_bench.decoding.standard import Standard
from fastvlm_bench.drafts.heads import MedusaHeads
from fastvlm_bench.drafts.imitation_head import Draft
from fastvlm_bench.engine.layer_gate import Mode
from fastvlm_bench.engine.method import Method
from fastvlm_bench.engine.recurrent_state import undoable
from fastvlm_bench.engine.session import Session
from fastvlm_bench.machine.clock import Clock
from fastvlm_bench.models.checkpoint_settings import unstopped
from fastvlm_bench.models.layers import decoder_layers
from fastvlm_bench.models.load import Target
from fastvlm_bench.training import parallel
from fastvlm_bench.training.answers import Example
from fastvlm_bench.training.trainer import HeadTrainer

POSITIONS = 11
ATTEMPTS = 9
"""Turns that count, of the whole target and of the draft. A machine may change its speed within a second, so that
many short turns tell how their passes compare, and few long ones do not."""
FULL_PASSES = 4
"""Passes of the whole target in a turn."""


def measure_costs(
    target: Target, inputs: dict[str, Tensor], answer: Sequence[int], draft: Draft, *, positions: int = POSITIONS,
    attempts: int | None = None, stops: bool = False, methods: tuple[Method, Method] | None = None, most: int = 0,
) -> PassCosts:  # fmt: skip
    """Median seconds over repeated passes on one prompt and a known text, with the calls that the decoding loop makes.

    The prompt is read with the first half of `answer`, so that attention has as much to read as in the middle of a
    generation. The whole target and the draft are timed in turn, so that other work of the machine slows both alike;
    the first turn of each, in which passes of each shape run for the first time, does not count.
    positions: most positions of a verification. Verifications of 1, 2, 4, 8 .. and `positions` are timed, those between
    are interpolated. stops: the loop also looks at the draft's confidence. methods: the reference and the method of
    this draft whose passes are priced, under their engine; by default of the engine eager. most: tokens that they may
    emit after a prompt, by which recorded passes have their slots.
    """
    if isinstance(draft.head, MedusaHeads):
        return _costs_at_the_end(target, inputs, answer, draft, positions, attempts or ATTEMPTS)
    inputs, answer, before = half_way(target, inputs, answer)
    counts = sorted({positions, *(2**power for power in range(positions.bit_length()) if 2**power < positions)})
    both = methods or (Standard(), FastVLM(draft))
    whole, drafted = (_Probe(target.device, method, list(answer), counts, stops) for method in both)
    with torch.inference_mode():
        for probe in [whole, drafted] * (1 + (attempts or ATTEMPTS)):
            unstopped(target.model)(
                **inputs, max_new_tokens=max(most - before, positions + 2), min_new_tokens=2, do_sample=False,
                num_beams=1, custom_generate=probe,
            )  # fmt: skip
    middle = statistics.median
    timed = [middle(drafted.verifications[count]) for count in counts]
    between = np.interp(range(1, positions + 1), counts, timed).tolist()
    return PassCosts(middle(whole.full), middle(drafted.drafts), between)


def half_way(
    target: Target, inputs: dict[str, Tensor], answer: Sequence[int]
) -> tuple[dict[str, Tensor], Sequence[int], int]:  # fmt: skip
    """The inputs with the first half of the answer, the other half, and how many tokens the first has.

    An encoder-decoder reads its prompt elsewhere, and stays at the answer's beginning.
    """
    before = 0 if target.model.config.is_encoder_decoder else len(answer) // 2
    if not before:
        return inputs, answer, 0
    ids = inputs["input_ids"]
    more = ids.new_tensor([answer[:before]])
    longer = {
        name: torch.cat((value, more if name == "input_ids" else value[:, -1:].expand(-1, before)), dim=1)
        for name, value in inputs.items() if isinstance(value, Tensor) and value.shape == ids.shape
    }  # fmt: skip
    return {**inputs, **longer}, answer[before:], before


def _costs_at_the_end(
    target: Target, inputs: dict[str, Tensor], answer: Sequence[int], draft: Draft, positions: int, attempts: int
) -> PassCosts:
    """The same for heads at the end. draft_s: all drafts of a round. verify_s: passes of the whole target."""
    probe = _EndProbe(target.device, draft, list(answer), positions)
    with torch.inference_mode():
        for _ in range(attempts):
            unstopped(target.model)(
                **inputs, max_new_tokens=positions + 2, min_new_tokens=positions + 2, do_sample=False, num_beams=1,
                custom_generate=probe,
            )  # fmt: skip
    middle = statistics.median
    verified = [middle(probe.passes[count]) for count in range(1, positions + 1)]
    return PassCosts(verified[0], middle(probe.drafts), verified)


def costs_of(
    trainer: HeadTrainer, example: Example, begin: Callable[[str], None] = lambda name: None
) -> dict[str, PassCosts]:
    """Recipe -> the costs of its passes. With several processes all take the leader's, so that they decide alike.

    begin: called with each recipe's name before its passes.
    """
    inputs = example.inputs(trainer.target)
    prices: dict[tuple[int, str, Any], PassCosts] = {}
    found = {}
    for student in trainer.students:
        begin(student.name)
        key = (student.recipe.exit_layer, student.recipe.head, tuple(student.recipe.head_options.items()))
        if key not in prices:
            measured = measure_costs(trainer.target, inputs, example.answer, trainer.draft(student))
            prices[key] = parallel.from_leader(measured)
        found[student.name] = prices[key]
    return found


class _Probe:
    """A `custom_generate` that times single passes, of the whole target or of a draft, and rolls each of them back.

    method: of whose kind they are, behind its gate if it has one, and run by its engine.
    """

    def __init__(self, device: Any, method: Method, answer: list[int], counts: Sequence[int], stops: bool) -> None:
        self.clock, self.method, self.answer, self.counts, self.stops = Clock(device), method, answer, counts, stops
        self.turns = 0
        self.full: list[float] = []
        self.drafts: list[float] = []
        self.verifications: dict[int, list[float]] = {count: [] for count in counts}

    def __call__(self, model: Any, input_ids: Tensor, **prepared: Any) -> Tensor:
        with self.method.around(model):
            session = Session(model, input_ids, self.method.gate, clock=self.clock, **prepared)
            session.prefill()
            session.record_past()
            session.processors = without_least(session.processors)
            self.method.engine.take_over(session, self.method)
            if self.method.gate is None:
                with undoable(decoder_layers(model)):
                    self._whole(session)
            else:
                self._drafting(session)
        self.turns += 1
        return session.sequences

    def _whole(self, session: Session) -> None:
        for _ in range(FULL_PASSES):
            _, seconds = self._timed(session, 1, [], dict(session.kwargs))
            session.roll_back(1)
            self.full += [seconds] if self.turns else []

    def _drafting(self, session: Session) -> None:
        tokens = (self.answer * self.counts[-1])[: self.counts[-1]]
        for count in self.counts:
            drafted, verified = self._round(session, tokens[: count - 1])
            if self.turns:
                self.drafts += drafted
                self.verifications[count].append(verified)

    def _round(self, session: Session, ahead: list[int]) -> tuple[list[float], float]:
        gate = session.gate
        gate.kept.clear()
        gate.mode, kwargs, seconds = Mode.DRAFT, dict(session.kwargs), []
        kwargs["past_key_values"] = session.draft_view()
        for place in range(len(ahead) + 1):
            outputs, took = self._timed(session, 1, ahead[:place], kwargs, self.stops)
            seconds.append(took)
            if place < len(ahead):
                session.advance_kwargs(outputs, kwargs, 1)
        gate.mode, count = Mode.VERIFY, len(ahead) + 1
        view = {**kwargs, "past_key_values": session.cache_view(gate.exit_layer, count)}
        _, verified = self._timed(session, count, ahead, view)
        session.roll_back(count)
        gate.roll_back_head(count)
        return seconds, verified

    def _timed(
        self, session: Session, count: int, ahead: list[int], kwargs: dict[str, Any], doubts: bool = False
    ) -> tuple[Any, float]:
        """(outputs, seconds) of one pass and the choice of a token, which waits for the device as in the loop."""
        started = self.clock.now()
        outputs = session.forward(count, [ahead], kwargs)
        if doubts:
            torch.softmax(outputs.logits[:, -1].float(), dim=-1).amax(dim=-1).tolist()
        session.choose(outputs.logits)
        return outputs, self.clock.now() - started


class _EndProbe:
    """A `custom_generate` that times the heads at the end, and passes of the whole target over 1, 2, … positions."""

    def __init__(self, device: Any, draft: Draft, answer: list[int], positions: int) -> None:
        self.clock, self.method = Clock(device), Medusa(draft)
        self.tokens = (answer * positions)[:positions]
        self.drafts: list[float] = []
        self.passes: dict[int, list[float]] = {count: [] for count in range(1, positions + 1)}

    def __call__(self, model: Any, input_ids: Tensor, **prepared: Any) -> Tensor:
        session = Session(model, input_ids, clock=self.clock, **prepared)
        with self.method.around(model):
            session.prefill()
            self.method.begin(session)
            session.processors = without_least(session.processors)
            for attempt in range(2):
                for count, seconds in self.passes.items():
                    started = self.clock.now()
                    self.method.propose(session, session.new_drafts(self.method.places))
                    drafted = self.clock.now()
                    outputs = session.forward_block([self.tokens[: count - 1]])
                    session.choose(outputs.logits)
                    ended = self.clock.now()
                    session.roll_back(count)
                    if attempt:  # the first passes of each shape are slower
                        self.drafts.append(drafted - started)
                        seconds.append(ended - drafted)
        return session.sequences


def without_least(processors: Any) -> Any:
    """What keeps a probe from ending with its first token is no part of what decoding does."""
    return type(processors)([p for p in processors if not isinstance(p, MinNewTokensLengthLogitsProcessor)])
