"""One clock for all methods: where TTFT ends and decoding begins and ends, as a fake clock tells it."""

import inspect
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from state_heads import new_eagle, new_mtp
from targets import oracle_draft
from transformers import LogitsProcessor, StoppingCriteria

from fastvlm_bench.decoding.build import method_class
from fastvlm_bench.decoding.hf_generate import Finite
from fastvlm_bench.engine.measure import GREEDY, measure
from fastvlm_bench.machine.clock import FakeClock
from fastvlm_bench.method_spec import METHODS

COUNT = 10
BEFORE, PASS, CHOICE, AFTER_CHOICE, CHECK, RETURN = 7.0, 1.0, 0.25, 0.5, 10.0, 100.0
"""Seconds that pass: before the method is called, in a pass of the model, in a logits processor (so before a token is
chosen), in a stopping criterion (after it), in `hf-generate`'s look at all logits, and after the last token."""


class Slow:
    """A model whose `generate` takes time before the method is called and after it returned."""

    def __init__(self, model: Any, clock: FakeClock) -> None:
        self.model, self.clock = model, clock

    def generate(self, **given: Any) -> Any:
        self.clock.advance(BEFORE)
        found = self.model.generate(**given)
        self.clock.advance(RETURN)
        return found


def made(name: str, model: Any, clock: FakeClock) -> Any:
    """The method of this name, with whatever its constructor asks for."""
    kind = method_class(name)
    with TemporaryDirectory() as folder:
        head = new_eagle(model, Path(folder), name) if name in ("eagle3", "eagle") else None
    if name == "mtp":
        head = new_mtp(model)  # type: ignore[assignment]
    given = {"draft": head or oracle_draft(model, 2), "exit_layer": 2, "gamma": 3, "clock": clock}
    return kind(**{key: given[key] for key in inspect.signature(kind).parameters if key in given})


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("name", list(METHODS))
def test_every_method_has_the_same_boundary(
    llava: Any, inputs: dict[str, Any], name: str, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TTFT ends once the first token is chosen and known on the host; decoding ends once the last one is.

    Checks belong to decoding, in every method.
    """
    clock = FakeClock(0)

    class Processor(LogitsProcessor):
        def __call__(self, ids: Any, scores: Any) -> Any:
            clock.advance(CHOICE)
            return scores

    class Criterion(StoppingCriteria):
        def __call__(self, ids: Any, scores: Any, **_: Any) -> Any:
            clock.advance(AFTER_CHOICE)
            return torch.zeros(len(ids), dtype=torch.bool)

    own = Finite.check

    def check(self: Finite) -> None:
        clock.advance(CHECK)
        own(self)

    monkeypatch.setattr(Finite, "check", check)
    hook = llava.register_forward_hook(lambda *_: clock.advance(PASS))
    generation = {**GREEDY, "logits_processor": [Processor()], "stopping_criteria": [Criterion()]}
    given = {key: value.expand(rows, *value.shape[1:]).clone() for key, value in inputs.items()}
    try:  # a user's logits processor is tried at its first call only, which is not what is measured here
        measure(made(name, llava, clock), Slow(llava, clock), given, COUNT, generation=generation)
        clock.seconds = 0.0
        trace = measure(made(name, llava, clock), Slow(llava, clock), given, COUNT, generation=generation)
    finally:
        hook.remove()
    in_turn = CHOICE if name == "hf-generate" else CHOICE * rows  # transformers' loop processes a batch in one call
    assert trace.ttft_s == pytest.approx(BEFORE + PASS + in_turn)
    assert trace.decode_s == pytest.approx(clock.seconds - trace.ttft_s - RETURN)
    assert trace.decode_s >= (CHECK if name == "hf-generate" else 0) + AFTER_CHOICE
    assert sum(row.decode_s for row in trace.rows) == pytest.approx(trace.decode_s)


@pytest.mark.parametrize("name", list(METHODS))
def test_a_single_token_ends_ttft(llava: Any, inputs: dict[str, Any], name: str) -> None:
    """An answer of one token: everything up to that token is TTFT, in a batch too."""
    for rows in (1, 3):
        clock = FakeClock(0)
        hook = llava.register_forward_hook(lambda *_, clock=clock: clock.advance(PASS))
        given = {key: value.expand(rows, *value.shape[1:]).clone() for key, value in inputs.items()}
        try:
            trace = measure(made(name, llava, clock), Slow(llava, clock), given, 1)
        finally:
            hook.remove()
        assert (trace.ttft_s, trace.decode_s) == (BEFORE + PASS, 0.0)
