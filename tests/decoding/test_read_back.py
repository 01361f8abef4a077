"""What excuses a gap is only what the plain target itself, read in blocks by transformers alone, makes of its gaps."""

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from covering import covering
from targets import generate, read_back

from fastvlm_bench.checks import losslessness
from fastvlm_bench.checks.losslessness import judge_output
from fastvlm_bench.checks.rounding import rounding
from fastvlm_bench.decoding.control import Control
from fastvlm_bench.decoding.standard import Standard

COUNT = 16
PLACE = 5


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def model(request: pytest.FixtureRequest, llava: Any) -> Any:
    return copy.deepcopy(llava).to(request.param)


HALF = pytest.mark.parametrize(
    "model", covering([torch.float32, torch.bfloat16], [torch.bfloat16]), ids=["float32", "bfloat16"], indirect=True
)
"""For tests whose claim is the same in both: the default run has it where there is noise."""


@pytest.fixture(scope="module")
def asked(model: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    return {name: x.to(model.dtype) if x.is_floating_point() else x for name, x in inputs.items()}


@pytest.fixture(scope="module")
def expected(model: Any, asked: dict[str, Any]) -> list[int]:
    return generate(model, asked, Standard(), count=COUNT)


@pytest.fixture
def moved_by(model: Any, asked: dict[str, Any], expected: list[int]) -> Iterator[float]:
    """In passes of several tokens, one token's logit is raised, as a router might do, by enough to win once.

    Yields by how much, in logits.
    """
    (best, second), (_, token) = read_back(model, asked, expected)[PLACE].topk(2)
    by = 1.3 * float(best - second)

    def favour(_: Any, __: Any, logits: torch.Tensor) -> torch.Tensor:
        moved = logits.clone()
        moved[..., token] += by * (logits.shape[1] > 1)
        return moved

    handle = model.lm_head.register_forward_hook(favour)
    yield by
    handle.remove()


def judged(model: Any, asked: dict[str, Any], tokens: list[int], expected: list[int]) -> dict[str, Any]:
    return judge_output(model, asked, tokens, expected, limit=COUNT)


def test_what_the_target_itself_says_in_blocks_is_not_blamed_on_the_method(
    model: Any, asked: dict[str, Any], expected: list[int], moved_by: float
) -> None:
    """In bfloat16, rounding may change a gap that much. In float32 it cannot: something in the model has turned."""
    method = Control(gamma=4)
    moved = generate(model, asked, method, count=COUNT)
    assert moved != expected and method.last is not None, "nothing was favoured: the test shows nothing"
    passes = [done.emitted for done in method.last.rounds]
    found = judge_output(model, asked, moved, expected, limit=COUNT, passes=passes)
    assert 0 < found["block_noise"] < moved_by + 0.1
    if model.dtype == torch.float32:
        assert found["outcome"] == "unsteady" and found["epsilon"] < found["gap"] < found["block_noise"] + 1e-4
    else:
        assert found["outcome"] == "near-tie" and found["gap"] <= found["epsilon"]
        assert found["gap"] > 0.03, "a gap that units in the last place explain"


@HALF
@pytest.mark.parametrize("step", covering([12, 1], [12]))
def test_an_unsteady_target_excuses_only_what_it_says_itself(
    model: Any, asked: dict[str, Any], expected: list[int], moved_by: float, step: int
) -> None:
    """Blocks favour one token. Another one, whose gap is smaller than what blocks move, is still a violation."""
    own = read_back(model, asked, expected)
    favoured = int(own[PLACE].topk(2).indices[1])
    for place in range(2, COUNT, step):
        row = own[place - 1].float()
        most = 2 * rounding(model.dtype) * row.abs().max()  # what lies closer is a near-tie by itself
        far = [token for token in row.argsort(descending=True)[2:].tolist() if row.max() - row[token] > most]
        third = next(token for token in far if token != favoured)
        spoilt = [*expected[:place], third, *expected[place + 1 :]]
        found = judged(model, asked, spoilt, expected)
        assert found["outcome"] == "violation", place
        assert found["gap"] > found["epsilon"]


@HALF
def test_noise_beyond_what_rounding_explains_makes_no_near_tie(
    model: Any, asked: dict[str, Any], expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    spoilt = list(expected)
    spoilt[PLACE] = int(read_back(model, asked, expected)[PLACE - 1].argmin())
    largest = float(read_back(model, asked, spoilt)[PLACE - 1].abs().max())
    most = 2 * rounding(model.dtype) * largest
    quiet = [0.0] * COUNT
    for noise, outcome, epsilon in (
        ([1e6 * (i == PLACE) for i in range(COUNT)], "violation", 0.0),  # the tokens after it were not excused
        ([0.99 * most] * COUNT, "violation", 0.99 * most),
        (quiet, "violation", 0.0),
    ):
        monkeypatch.setattr(losslessness, "block_noise", lambda *_, noise=noise: noise)
        found = judged(model, asked, spoilt, expected)
        assert found["outcome"] == outcome
        assert found["epsilon"] == pytest.approx(epsilon, abs=0.02 * largest if model.dtype != torch.float32 else 1e-5)


@pytest.mark.slow  # in the default run, no unsteady target excuses it
@HALF
@pytest.mark.parametrize("place", covering([0, PLACE], [PLACE]))
def test_noise_of_blocks_excuses_no_larger_gap_and_not_the_first_token(
    model: Any, asked: dict[str, Any], expected: list[int], moved_by: float, place: int
) -> None:
    spoilt = list(expected)
    spoilt[place] = (spoilt[place] + 1) % 100 + 10
    found = judged(model, asked, spoilt, expected)
    assert (found["outcome"], found["index"]) == ("violation", place)
    assert found["gap"] > found["epsilon"]


def test_without_noise_blocks_excuse_nothing(llava: Any, inputs: dict[str, Any]) -> None:
    expected = generate(llava, inputs, Standard(), count=COUNT)
    spoilt = [*expected[:9], (expected[9] + 1) % 100 + 10, *expected[10:]]
    assert judged(llava, inputs, spoilt, expected)["block_noise"] < 1e-4


@pytest.mark.parametrize("error", [ValueError("cannot read blocks"), torch.OutOfMemoryError("tried 3 GiB"), None])
def test_what_was_not_measured_excuses_nothing_and_is_not_recorded(
    llava: Any, inputs: dict[str, Any], monkeypatch: pytest.MonkeyPatch, error: Exception | None
) -> None:
    real = losslessness.read

    def unread(model: Any, given: Any, texts: Any, see: Any, *, block: Any = 1, **options: Any) -> None:
        if block == 1:
            real(model, given, texts, see, **options)
        elif error is not None:
            raise error
        else:
            real(model, given, texts, lambda row, i, logits: see(row, i, logits * float("nan")), block=block, **options)

    expected = generate(llava, inputs, Standard(), count=COUNT)
    spoilt = [*expected[:9], (expected[9] + 1) % 100 + 10, *expected[10:]]
    monkeypatch.setattr(losslessness, "read", unread)
    found = judged(llava, inputs, spoilt, expected)
    assert found["outcome"] == "violation" and "block_noise" not in found


@pytest.mark.parametrize("block", covering([1, 3, COUNT], [3]))
def test_reading_back_gives_the_logits_of_single_passes(llava: Any, inputs: dict[str, Any], block: int) -> None:
    expected = generate(llava, inputs, Standard(), count=COUNT)
    rows = read_back(llava, inputs, expected, block)
    whole = torch.cat([inputs["input_ids"], torch.tensor([expected])], dim=1)
    with torch.inference_mode():
        logits = llava(**{**inputs, "input_ids": whole, "attention_mask": torch.ones_like(whole)}).logits[0]
    start = inputs["input_ids"].shape[1]
    torch.testing.assert_close(rows, logits[start:-1], atol=1e-4, rtol=1e-4)
