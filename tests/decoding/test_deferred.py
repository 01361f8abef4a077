"""Drafts that stay on the device until the verification is read give what drafts give that are read one by one."""

from typing import Any

import pytest
import torch
from covering import covering
from targets import generate, oracle_draft
from torch import Tensor
from transformers.generation import logits_process

from fastvlm_bench.decoding.control import Control
from fastvlm_bench.decoding.fastvlm import FastVLM
from fastvlm_bench.drafts.imitation_head import Draft
from fastvlm_bench.engine import processors, session
from fastvlm_bench.engine.drafting import Drafts
from fastvlm_bench.engine.processors import at_each_place
from fastvlm_bench.engine.rows import Row
from fastvlm_bench.errors import NonFiniteLogits
from fastvlm_bench.machine.clock import Clock

COUNT = 24


@pytest.fixture
def deferring(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session.Session, "defers", property(lambda self: True, lambda self, value: None), raising=False)


@pytest.mark.usefixtures("deferring")
@pytest.mark.parametrize(("exit_layer", "gamma"), covering(
    [(n, g) for n in (1, 2, 3, 4) for g in (1, 3, 8)], [(3, 8)]
))  # fmt: skip
def test_the_output_is_the_targets(llava: Any, inputs: dict[str, Tensor], exit_layer: int, gamma: int) -> None:
    method = FastVLM(oracle_draft(llava, exit_layer), gamma=gamma)
    assert generate(llava, inputs, method, count=COUNT) == generate(llava, inputs, count=COUNT)
    assert sum(done.accepted for done in method.last.rounds) > 0  # type: ignore[union-attr]


@pytest.mark.usefixtures("deferring")
@pytest.mark.parametrize("place", covering(range(1, 10), [4]))
def test_nothing_is_drafted_after_an_eos(llava: Any, inputs: dict[str, Tensor], place: int) -> None:
    plain = generate(llava, inputs, count=COUNT)
    eos = plain[place]
    method = FastVLM(oracle_draft(llava, 3, spoiled=0.0), gamma=4)
    said = generate(llava, inputs, method, count=COUNT, eos_token_id=eos)
    assert said == plain[: plain.index(eos) + 1]
    for done in method.last.rounds:  # type: ignore[union-attr]
        assert done.drafted <= done.emitted if done.accepted == done.drafted else eos not in done.rejected[:-1]


@pytest.mark.usefixtures("deferring")
def test_a_repetition_penalty_sees_drafts_that_the_host_has_not(llava: Any, inputs: dict[str, Tensor]) -> None:
    said = generate(llava, inputs, Control(gamma=4), count=COUNT, repetition_penalty=1.3)
    assert said == generate(llava, inputs, count=COUNT, repetition_penalty=1.3)


@pytest.mark.usefixtures("deferring")
def test_a_placeholder_is_never_read_by_a_pass(llava: Any, inputs: dict[str, Tensor]) -> None:
    """An id without an embedding would fail the pass, and a GPU for good."""
    plain = generate(llava, inputs, count=COUNT)
    before = llava.config.image_token_id
    read: list[int] = []
    watching = llava.model.language_model.embed_tokens.register_forward_pre_hook(
        lambda _, given: read.extend(given[0].flatten().tolist()) if given[0].shape[1] == 1 else None
    )
    method = FastVLM(Draft(4, None), gamma=4)
    try:
        drafts = FastVLM(Draft(4, None), gamma=4)
        generate(llava, inputs, drafts, count=COUNT)
        never = next(t for done in drafts.last.rounds for t in done.rejected if t not in plain)  # type: ignore[union-attr]
        read.clear()
        llava.config.image_token_id = never
        said = generate(llava, {k: v for k, v in inputs.items() if k != "pixel_values"}, method, count=COUNT)
        assert never not in read
        assert all(never not in done.rejected for done in method.last.rounds)  # type: ignore[union-attr]
        llava.config.image_token_id = before
        assert said == generate(llava, {k: v for k, v in inputs.items() if k != "pixel_values"}, count=COUNT)
    finally:
        llava.config.image_token_id = before
        watching.remove()


@pytest.mark.usefixtures("deferring")
def test_a_draft_that_is_not_finite_is_an_error(llava: Any, inputs: dict[str, Tensor]) -> None:
    spoilt = llava.lm_head.register_forward_hook(lambda _, __, out: out * float("nan") if out.shape[1] == 1 else out)
    try:
        with pytest.raises(NonFiniteLogits):
            generate(llava, inputs, FastVLM(Draft(2, None), gamma=3), count=COUNT)
    finally:
        spoilt.remove()


@pytest.mark.parametrize(("tokens", "kept"), [([5, 6, 7], [5, 6, 7]), ([5, 2, 7], [5, 2]), ([5, 3, 7], [5]), ([3], [])])
def test_what_was_drafted_in_vain_is_no_draft(tokens: list[int], kept: list[int]) -> None:
    drafts = Drafts([Row(0, 3)], [10], 5, end_tokens={2}, placeholders={3})
    for token in tokens:
        drafts.take_unread(torch.tensor([token]))
    drafts.read(tokens)
    assert drafts.tokens == [kept] and drafts.count == len(tokens)


# ------------------------------------------------------------------------------------------ processors, all places


@pytest.mark.parametrize("names", [(), ("TemperatureLogitsWarper",), ("TopKLogitsWarper", "TopPLogitsWarper"),
                                   ("NoRepeatNGramLogitsProcessor",)])  # fmt: skip
def test_all_places_at_once_are_the_same_numbers(names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """One call for those that see a prefix as a set; else one call for each place."""
    generator = torch.Generator().manual_seed(0)
    made = {
        "TemperatureLogitsWarper": lambda: logits_process.TemperatureLogitsWarper(0.7),
        "TopKLogitsWarper": lambda: logits_process.TopKLogitsWarper(9),
        "TopPLogitsWarper": lambda: logits_process.TopPLogitsWarper(0.8),
        "NoRepeatNGramLogitsProcessor": lambda: logits_process.NoRepeatNGramLogitsProcessor(2),
    }
    chain = logits_process.LogitsProcessorList(
        [logits_process.RepetitionPenaltyLogitsProcessor(1.3), *(made[name]() for name in names)]
    )
    ids = torch.randint(0, 50, (1, 20), generator=generator)
    logits = torch.randn(1, 6, 50, generator=generator, dtype=torch.bfloat16) * 4
    calls: list[int] = []
    own = logits_process.RepetitionPenaltyLogitsProcessor.__call__
    monkeypatch.setattr(logits_process.RepetitionPenaltyLogitsProcessor, "__call__",
                        lambda self, *given: calls.append(1) or own(self, *given))  # fmt: skip
    together = at_each_place(chain, ids, 9, logits)
    counted = len(calls)
    monkeypatch.setattr(processors, "BY_SET", frozenset())
    alone = at_each_place(chain, ids, 9, logits)
    assert torch.equal(together, alone)
    assert counted == (6 if "NoRepeatNGramLogitsProcessor" in names else 1)


def test_a_penalty_that_leaves_the_prompt_out_counts_from_a_place() -> None:
    chain = logits_process.LogitsProcessorList(
        [logits_process.RepetitionPenaltyLogitsProcessor(1.3, prompt_ignore_length=10)]
    )
    ids, logits = torch.arange(20)[None], torch.ones(1, 4, 50)
    said = at_each_place(chain, ids, 9, logits)
    assert [int((row < 1).sum()) for row in said] == [0, 0, 1, 2]


class Behind(Clock):
    """A clock of a GPU: the host runs ahead of the device, whose passes take a millisecond each."""

    def __init__(self, passed: list[int]) -> None:
        super().__init__("cpu")
        self.passed, self.spans = passed, list[int]()

    def mark(self) -> Any:
        return (self.now(), len(self.passed))

    def between(self, first: int, second: int) -> float:
        self.spans.append(second - first)
        return (second - first) * 1e-9


@pytest.mark.usefixtures("deferring")
@pytest.mark.parametrize("kind", covering(["fastvlm", "control"], ["fastvlm"]))
def test_drafting_ends_behind_its_last_pass(llava: Any, inputs: dict[str, Tensor], kind: str) -> None:
    """By the host's clock the last draft pass of a full round would be a part of the verification."""
    passed: list[int] = []
    clock = Behind(passed)
    method: Any = Control(gamma=3, clock=clock) if kind == "control" else FastVLM(oracle_draft(llava, 2), gamma=3,
                                                                                clock=clock)  # fmt: skip
    hook = llava.register_forward_hook(lambda *_: passed.append(1))
    try:
        generate(llava, inputs, method, count=COUNT)
    finally:
        hook.remove()
    rounds = method.last.rounds
    more = kind == "fastvlm"  # the last draft goes through the early layers, too
    assert clock.spans == [r.drafted + more for r in rounds]
    assert [round(r.draft_s * 1e9) for r in rounds] == clock.spans and all(r.verify_s > 0 for r in rounds)
