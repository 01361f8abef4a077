"""One clock for all methods: where TTFT ends and decoding begins and ends, as a fake clock tells it."""

import inspect
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import second_models
import torch
from covering import covering
from state_heads import new_eagle, new_mtp
from targets import oracle_draft, random_llava
from transformers import LogitsProcessor, StoppingCriteria

from fastvlm_bench.decoding.build import method_class
from fastvlm_bench.decoding.hf_generate import Finite
from fastvlm_bench.drafts.heads import new_head
from fastvlm_bench.drafts.imitation_head import Draft, describe_target
from fastvlm_bench.drafts.manifest import Manifest
from fastvlm_bench.drafts.skip_set import SkipSet
from fastvlm_bench.engine.measure import GREEDY, measure
from fastvlm_bench.machine.clock import FakeClock
from fastvlm_bench.method_spec import METHODS
from fastvlm_bench.models.layers import decoder_layers

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


OWN = [name for name, kind in METHODS.items() if not kind.foreign]
"""A loop of transformers drafts before the prefill, so its first pass chooses several tokens."""


def made(name: str, model: Any, clock: FakeClock, inputs: dict[str, Any], rows: int) -> Any:
    """The method of this name, with whatever its constructor asks for, and shown what it has to see."""
    kind = method_class(name)
    draft: Any = oracle_draft(model, 2)
    with TemporaryDirectory() as folder:
        if name in ("eagle3", "eagle"):
            draft = new_eagle(model, Path(folder), name)
    if name == "mtp":
        draft = new_mtp(model)
    elif name == "medusa":
        count = len(decoder_layers(model))
        told = Manifest(exit_layer=count, head="medusa", head_parameters=0, **describe_target(model))
        draft = Draft(count, new_head("medusa", model, count), told)
    elif name == "block":
        draft = Draft(2, new_head("block", model, 2))
    elif name == "draft-verify":
        draft = SkipSet(frozenset({2}), frozenset({3}))
    given: dict[str, Any] = {"draft": draft, "exit_layer": 2, "gamma": 3, "clock": clock,
                             "levels": [oracle_draft(model, exit_layer) for exit_layer in (1, 2)]}  # fmt: skip
    if "model" in METHODS[name].options:
        second, tokenizer = random_llava(2)
        given |= {"model": second_models.given(second, tokenizer, *[inputs] * rows),
                  "target": second_models.given(model, tokenizer)}  # fmt: skip
    method = kind(**{key: given[key] for key in inspect.signature(kind).parameters if key in given})
    return second_models.show(method, rows) if method.sees else method


QUICK = [("standard", 1), ("fastvlm", 2), ("hf-generate", 2), ("draft-model", 1)]
"""A loop of each kind, and a method with a second model: those of the other methods are in the next test, too."""


@pytest.mark.parametrize(
    ("name", "rows"),
    covering(
        [(name, rows) for name, rows in product(OWN, (1, 2)) if rows == 1 or method_class(name).takes_batches],
        QUICK,
    ),
)
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
        measure(made(name, llava, clock, inputs, rows), Slow(llava, clock), given, 1, generation=generation)
        clock.seconds = 0.0
        trace = measure(made(name, llava, clock, inputs, rows), Slow(llava, clock), given, COUNT, generation=generation)
    finally:
        hook.remove()
    in_turn = CHOICE if name == "hf-generate" else CHOICE * rows  # transformers' loop processes a batch in one call
    assert trace.ttft_s == pytest.approx(BEFORE + PASS + in_turn)
    assert trace.decode_s == pytest.approx(clock.seconds - trace.ttft_s - RETURN)
    assert trace.decode_s >= (CHECK if name == "hf-generate" else 0) + AFTER_CHOICE
    assert sum(row.decode_s for row in trace.rows) == pytest.approx(trace.decode_s)


@pytest.mark.parametrize("name", OWN)
def test_a_single_token_ends_ttft(llava: Any, inputs: dict[str, Any], name: str) -> None:
    """An answer of one token: everything up to that token is TTFT, in a batch too."""
    for rows in (3,) if method_class(name).takes_batches else (1,):
        clock = FakeClock(0)
        hook = llava.register_forward_hook(lambda *_, clock=clock: clock.advance(PASS))
        given = {key: value.expand(rows, *value.shape[1:]).clone() for key, value in inputs.items()}
        try:
            trace = measure(made(name, llava, clock, inputs, rows), Slow(llava, clock), given, 1)
        finally:
            hook.remove()
        assert (trace.ttft_s, trace.decode_s) == (BEFORE + PASS, 0.0)
