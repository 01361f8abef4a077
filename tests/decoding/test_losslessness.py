"""Three outcomes of a differing output, and mutants that must be caught: one wrong token, a cache not rolled back."""

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from covering import covering
from targets import generate, oracle_draft
from through_runner import COUNT, outcomes, run

from fastvlm_bench.checks import losslessness
from fastvlm_bench.checks.losslessness import judge_output
from fastvlm_bench.checks.rounding import ulp
from fastvlm_bench.decoding import fastvlm
from fastvlm_bench.decoding.fastvlm import FastVLM
from fastvlm_bench.decoding.hf_generate import HfGenerate
from fastvlm_bench.decoding.standard import Standard
from fastvlm_bench.engine import choosing
from fastvlm_bench.engine.method import Method
from fastvlm_bench.errors import BenchError, LosslessViolation
from fastvlm_bench.machine.clock import Clock
from fastvlm_bench.measuring.benchmark import require_lossless


@pytest.fixture(scope="module")
def expected(llava: Any, inputs: dict[str, Any]) -> list[int]:
    return generate(llava, inputs, count=COUNT)


def judged(
    llava: Any, inputs: dict[str, Any], tokens: list[int], expected: list[int], **options: Any
) -> dict[str, Any]:
    return judge_output(llava, inputs, tokens, expected, limit=COUNT, **options)


def test_the_same_ids_are_identical_and_cost_no_pass(expected: list[int]) -> None:
    assert judge_output(None, {}, list(expected), expected, limit=COUNT) == {"outcome": "identical"}


@pytest.mark.parametrize("place", covering([0, 1, 7, COUNT - 1], [0, 7]))
def test_a_flipped_token_is_a_violation_where_it_stands(
    llava: Any, inputs: dict[str, Any], expected: list[int], place: int
) -> None:
    spoilt = [*expected]
    spoilt[place] = (spoilt[place] + 1) % 100 + 10
    found = judged(llava, inputs, spoilt, expected)
    assert (found["outcome"], found["index"]) == ("violation", place)
    assert (found["token"], found["expected"]) == (spoilt[place], expected[place])
    assert found["gap"] > found["epsilon"] > 0


def test_a_gap_within_the_noise_is_a_near_tie_and_what_follows_is_judged_on_its_own_prefix(
    llava: Any, inputs: dict[str, Any], expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def after(tokens: list[int]) -> dict[str, Any]:
        ids = torch.cat([inputs["input_ids"], torch.tensor([tokens])], dim=1)
        return {**inputs, "input_ids": ids, "attention_mask": torch.ones_like(ids)}

    with torch.inference_mode():
        second = int(llava(**after(expected[:5])).logits[0, -1].topk(2).indices[1])
    # The target's own continuation after its second choice, so that this choice is the only one with a gap.
    spoilt = [*expected[:5], second]
    whole = [*spoilt, *generate(llava, after(spoilt), count=COUNT - 6)]
    found = judged(llava, inputs, whole, expected)
    assert (found["outcome"], found["index"]) == ("violation", 5)
    monkeypatch.setattr(losslessness, "block_noise", lambda *_: [1.01 * found["gap"]] * COUNT)
    monkeypatch.setattr(losslessness, "rounding", lambda _: 1.0)
    tie = judged(llava, inputs, whole, expected)
    assert (tie["outcome"], tie["index"], tie["token"], tie["expected"]) == ("near-tie", 5, second, expected[5])
    assert tie["gap"] == found["gap"] < tie["epsilon"]
    with torch.inference_mode():
        whole[10] = int(llava(**after(whole[:10])).logits[0, -1].argmin())
    later = judged(llava, inputs, whole, expected)
    assert (later["outcome"], later["index"]) == ("violation", 10), "a later fault is still seen"


def test_wrong_lengths_are_violations(llava: Any, inputs: dict[str, Any], expected: list[int], eos: int) -> None:
    for tokens, index in (([], 0), (expected[:-1], COUNT - 1), ([*expected[:3], eos, *expected[4:]], 4)):
        found = judged(llava, inputs, tokens, expected)
        assert (found["outcome"], found["index"], found["gap"]) == ("violation", index, None)


@pytest.fixture
def eos(llava: Any) -> Iterator[int]:
    before = llava.generation_config.eos_token_id
    llava.generation_config.eos_token_id = 2
    yield 2
    llava.generation_config.eos_token_id = before


@pytest.mark.parametrize(
    ("value", "dtype", "expected"),
    [(20.0, torch.bfloat16, 0.125), (-20.0, torch.bfloat16, 0.125), (16.0, torch.float32, 16 * 2**-23),
     (31.9, torch.float16, 16 * 2**-10), (0.0, torch.float32, 2.0**-149)],
)  # fmt: skip
def test_units_in_the_last_place(value: float, dtype: torch.dtype, expected: float) -> None:
    assert ulp(value, dtype) == expected


def test_nan_logits_are_no_near_tie(llava: Any, inputs: dict[str, Any], expected: list[int]) -> None:
    handle = llava.lm_head.register_forward_hook(lambda _, __, out: out * float("nan"))
    try:
        assert judged(llava, inputs, [expected[0] + 1, *expected[1:]], expected)["outcome"] == "violation"
    finally:
        handle.remove()


# ------------------------------------------------------------------------------------------ through the runner


def test_the_true_method_is_identical(llava: Any, inputs: dict[str, Any]) -> None:
    assert outcomes(run(llava, inputs, FastVLM(oracle_draft(llava, 2), gamma=4))) == ["identical"] * 2


def test_a_mutant_that_flips_one_token_in_many_is_caught(
    llava: Any, inputs: dict[str, Any], monkeypatch: pytest.MonkeyPatch, expected: list[int]
) -> None:
    calls, real = [0], choosing.accept_greedy

    def accepts_one_wrong(drafted: list[int], predicted: list[int]) -> int:
        calls[0] += 1
        accepted = real(drafted, predicted)
        return accepted + (accepted < len(drafted) and calls[0] > 3)

    monkeypatch.setattr(choosing, "accept_greedy", accepts_one_wrong)
    lines = run(llava, inputs, FastVLM(oracle_draft(llava, 2, spoiled=0.4), gamma=4))
    assert "violation" in outcomes(lines)
    stored = SimpleNamespace(lines=lines, folder=Path("results/x"))
    with pytest.raises(LosslessViolation, match=r"fastvlm on sample \d of s \(violation: token \d+, gap"):
        require_lossless(stored)  # type: ignore[arg-type]
    assert LosslessViolation.exit_code == 5


@pytest.mark.slow  # test_gate_mutants.py has such faults in the default run
def test_a_cache_that_is_not_rolled_back_is_caught(
    llava: Any, inputs: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fastvlm.Session, "roll_back", lambda *_: None)
    lines = run(llava, inputs, FastVLM(oracle_draft(llava, 2, spoiled=0.4), gamma=4))
    caught = [line["error"] is not None or line["losslessness"]["outcome"] == "violation"
              for line in lines if line["method"] == "fastvlm"]  # fmt: skip
    assert any(caught)


def test_a_count_that_is_off_by_one_stops_the_run(
    llava: Any, inputs: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = FastVLM.round

    def off_by_one(self: FastVLM, *arguments: Any) -> Any:
        (found,) = real(self, *arguments)
        found.emitted -= 1
        return [found]

    monkeypatch.setattr(FastVLM, "round", off_by_one)
    with pytest.raises(BenchError, match=rf"internal error: fastvlm on sample 0: {COUNT} tokens, but 1 \+ emitted"):
        run(llava, inputs, FastVLM(oracle_draft(llava, 2), gamma=4))


def test_what_cannot_be_judged_is_said_and_is_not_lossless(
    llava: Any, inputs: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from fastvlm_bench.measuring import runner

    def no_memory(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("3 GiB")

    monkeypatch.setattr(runner, "judge_output", no_memory)
    lines = run(llava, inputs, FastVLM(oracle_draft(llava, 2), gamma=4))
    assert outcomes(lines) == ["unchecked"] * 2
    with pytest.raises(LosslessViolation, match="unchecked: OutOfMemoryError: 3 GiB"):
        require_lossless(SimpleNamespace(lines=lines, folder=Path("x")))  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------ failures of one generation


class Failing(Method):
    """A method that raises on the chosen calls, otherwise decodes as `inner` does."""

    def __init__(self, inner: Any, error: Exception, calls: set[int] | None) -> None:
        super().__init__(clock=inner.clock)
        self.inner, self.error, self.calls, self.count = inner, error, calls, 0

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        self.count += 1
        if self.calls is None or self.count in self.calls:
            raise self.error
        found = self.inner(*arguments, **options)
        self.trace = self.inner.trace
        return found


NO_MEMORY = [torch.OutOfMemoryError("tried 3 GiB"), RuntimeError("DefaultCPUAllocator: not enough memory: 3 GiB")]


@pytest.mark.parametrize("error", covering(NO_MEMORY, NO_MEMORY[1:]), ids=["device", "host"])
def test_out_of_memory_in_one_arm_of_one_sample(llava: Any, inputs: dict[str, Any], error: Exception) -> None:
    lines = run(llava, inputs, Failing(FastVLM(oracle_draft(llava, 2), gamma=4), error, {2}), samples=3)
    failed = [line for line in lines if line["error"]]
    assert [(line["sample_id"], line["method"]) for line in failed] == [("1", "fastvlm")]
    assert failed[0]["error"].startswith("out_of_memory: ") and failed[0]["rounds"] == []
    assert all(failed[0][name] is None for name in ("token_ids", "ttft_s", "decode_s", "memory", "losslessness"))
    assert outcomes([line for line in lines if not line["error"]]) == ["identical"] * 2, "the next sample is sound"


@pytest.mark.slow  # in the default run, memory runs out on one sample
def test_out_of_memory_on_every_sample_of_one_arm_is_a_result(llava: Any, inputs: dict[str, Any]) -> None:
    method = Failing(FastVLM(oracle_draft(llava, 2)), torch.OutOfMemoryError("x"), None)
    lines = run(llava, inputs, method, samples=5)
    assert len(lines) == 10 and sum(line["error"] is not None for line in lines) == 5


def test_out_of_memory_on_every_sample_ends_the_run(
    llava: Any, inputs: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("tried 3 GiB")

    monkeypatch.setattr(Standard, "__call__", no_memory)
    monkeypatch.setattr(FastVLM, "__call__", no_memory)
    with pytest.raises(BenchError, match=r"3 samples in a row failed in every method \(out_of_memory"):
        run(llava, inputs, FastVLM(oracle_draft(llava, 2)), samples=9)


NO_NUMBERS = list(product((float("nan"), float("inf"), -float("inf")), (False, True)))


@pytest.mark.parametrize(("value", "sampled"), covering(NO_NUMBERS, NO_NUMBERS[1:2]))
def test_logits_that_are_no_numbers_fail_the_sample_and_no_other(
    llava: Any, inputs: dict[str, Any], value: float, sampled: bool
) -> None:
    """A few passes are spoilt, in whichever arm they fall: an argmax over NaN would silently give a token."""
    passes, spoilt = [0], range(30, 34)
    places = slice(None) if value < 0 else slice(7, 8)

    def spoil(_: Any, __: Any, logits: torch.Tensor) -> torch.Tensor:
        passes[0] += 1
        if passes[0] in spoilt:
            logits = logits.clone()
            logits[..., places] = value
        return logits

    generation = {"do_sample": True, "num_beams": 1, "temperature": 1.0} if sampled else {}
    handle = llava.lm_head.register_forward_hook(spoil)
    try:
        lines = run(llava, inputs, FastVLM(oracle_draft(llava, 2), gamma=4), samples=4, **generation)
    finally:
        handle.remove()
    failed = [line for line in lines if line["error"]]
    assert 1 <= len(failed) <= 4
    assert {line["error"] for line in failed if "tokens on" in line["error"]} == {line["error"] for line in failed}
    assert all(line["error"].startswith("nan_logits: ") and line["token_ids"] is None for line in failed)
    assert all(line["token_ids"] for line in lines[-2:]), "later samples are sound"


@pytest.mark.parametrize(("value", "sampled"), covering(NO_NUMBERS, NO_NUMBERS[4:5]))
def test_logits_that_are_no_numbers_are_seen_in_the_loop_of_transformers(
    llava: Any, inputs: dict[str, Any], value: float, sampled: bool
) -> None:
    """One pass is spoilt, in the second of three samples, and only in the arm of `hf-generate` (labelled fastvlm)."""
    generating, samples, passes = [False], [0], [0]

    class Told(HfGenerate):
        def __call__(self, *given: Any, **prepared: Any) -> torch.Tensor:
            generating[0], samples[0], passes[0] = True, samples[0] + 1, 0
            try:
                return super().__call__(*given, **prepared)
            finally:
                generating[0] = False

    def spoil(_: Any, __: Any, logits: torch.Tensor) -> torch.Tensor:
        passes[0] += 1
        if not (generating[0] and samples[0] == 2 and passes[0] == 3):
            return logits
        places = slice(None) if value < 0 else slice(7, 8)
        return logits.clone().index_fill_(-1, torch.arange(logits.shape[-1])[places], value)

    generation = {"do_sample": True, "num_beams": 1, "temperature": 1.0} if sampled else {}
    handle = llava.lm_head.register_forward_hook(spoil)
    try:
        lines = run(llava, inputs, Told(), samples=3, **generation)
    finally:
        handle.remove()
    assert [(line["method"], line["sample_id"]) for line in lines if line["error"]] == [("fastvlm", "1")]
    (failed,) = [line for line in lines if line["error"]]
    assert failed["error"].startswith("nan_logits: the largest logit at new token 2 ") and failed["token_ids"] is None


def test_a_draft_without_numbers_fails_its_own_arm(llava: Any, inputs: dict[str, Any]) -> None:
    draft = oracle_draft(llava, 2)
    assert draft.head is not None
    draft.head.register_forward_hook(lambda _, __, states: states * float("nan"))  # type: ignore[attr-defined]
    lines = run(llava, inputs, FastVLM(draft, gamma=4))
    assert [line["method"] for line in lines if line["error"]] == ["fastvlm"] * 2


class Backwards(Clock):
    """A clock that goes back a second at each reading."""

    def now(self) -> float:
        self.seconds = getattr(self, "seconds", 100.0) - 1.0
        return self.seconds


def test_a_clock_that_goes_backwards_stops_the_run(llava: Any, inputs: dict[str, Any]) -> None:
    with pytest.raises(BenchError, match=r"internal error: fastvlm on sample 0: .*not a time"):
        run(llava, inputs, FastVLM(oracle_draft(llava, 2), gamma=4, clock=Backwards()))


def test_a_draft_may_propose_anything_the_target_decides(
    llava: Any, inputs: dict[str, Any], monkeypatch: pytest.MonkeyPatch, expected: list[int]
) -> None:
    """Each draft is one of: an image token, padding, end of sequence, the last id. The output stays the target's."""
    odd = [llava.config.image_token_id, 0, 1, llava.config.text_config.vocab_size - 1]
    method, turn = FastVLM(oracle_draft(llava, 2), gamma=4), [0]
    real = fastvlm.Session.choose

    def choose(session: Any, *given: Any) -> list[list[int]]:
        found = real(session, *given)
        if drafting[0]:
            turn[0] += 1
            return [[odd[turn[0] % len(odd)]]]
        return found

    drafting = [False]
    real_draft = FastVLM._draft

    def draft(*arguments: Any) -> Any:
        drafting[0] = True
        try:
            return real_draft(*arguments)
        finally:
            drafting[0] = False

    monkeypatch.setattr(fastvlm.Session, "choose", choose)
    monkeypatch.setattr(FastVLM, "_draft", draft)
    assert generate(llava, inputs, method, count=COUNT) == expected
    assert turn[0] > 10
