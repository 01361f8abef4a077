"""How often the host waits for the device in a round: exact numbers for each method.

To read a number from a device (`item`, `tolist`, a truth value) is to wait for all that it was given, and a list is
sent to it by a copy that waits, too. On a CPU nothing waits, so such calls are counted here, where every one is seen.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from covering import covering
from targets import LAYERS, generate, oracle_draft
from torch import Tensor

from fastvlm_bench.decoding.adaptive import Adaptive
from fastvlm_bench.decoding.control import Control
from fastvlm_bench.decoding.draft_verify import DraftVerify
from fastvlm_bench.decoding.early_exit import EarlyExit
from fastvlm_bench.decoding.fastvlm import FastVLM
from fastvlm_bench.decoding.layerskip import LayerSkip
from fastvlm_bench.decoding.prompt_lookup import PromptLookup
from fastvlm_bench.decoding.standard import Standard
from fastvlm_bench.drafts.skip_set import SkipSet
from fastvlm_bench.engine.choosing import FEW
from fastvlm_bench.engine.method import Method
from fastvlm_bench.engine.session import Session
from fastvlm_bench.records.trace import Round

READS = ("item", "tolist", "__bool__", "__float__", "__int__", "__index__", "cpu", "numpy", "nonzero")
SENDS = ("tensor", "as_tensor")
GAMMA = 4


@contextmanager
def counted() -> Iterator[dict[str, int]]:
    """Counts what would wait for a device: reads of tensors, and lists that are made tensors."""
    counts = {"reads": 0, "sends": 0}
    inside = False

    def read(own: Callable[..., Any]) -> Callable[..., Any]:
        def told(*args: Any, **kwargs: Any) -> Any:
            nonlocal inside
            counts["reads"] += not inside  # `bool` may be `item` within
            before, inside = inside, True
            try:
                return own(*args, **kwargs)
            finally:
                inside = before

        return told

    def send(own: Callable[..., Any]) -> Callable[..., Any]:
        def told(data: Any, *args: Any, **kwargs: Any) -> Any:
            counts["sends"] += not isinstance(data, Tensor)
            return own(data, *args, **kwargs)

        return told

    with pytest.MonkeyPatch.context() as patch:
        for name in READS:
            patch.setattr(Tensor, name, read(getattr(Tensor, name)))
        for name in SENDS:
            patch.setattr(torch, name, send(getattr(torch, name)))
        own = Tensor.new_tensor
        patch.setattr(Tensor, "new_tensor", lambda self, data, **kwargs: send(lambda d: own(self, d, **kwargs))(data))
        yield counts


def waits(method: Method, model: Any, inputs: Any, **options: Any) -> list[tuple[list[Round], int, int]]:
    """(the rounds of all rows, reads, sends) of each call of the method's `round`."""
    found, own = [], method.round

    def watched(session: Session) -> list[Round]:
        with counted() as counts:
            rounds = own(session)
        found.append((rounds, counts["reads"], counts["sends"]))
        return rounds

    method.round = watched  # type: ignore[method-assign]
    generate(model, inputs, method, **options)
    return found


def some_skipped(**options: Any) -> DraftVerify:
    return DraftVerify(SkipSet.of_layers([1]), **options)


def copies(**options: Any) -> Method:
    return PromptLookup(max_ngram=1, **options)


@pytest.fixture
def deferring(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a device for which the host waits."""
    monkeypatch.setattr(Session, "defers", property(lambda self: True, lambda self, value: None), raising=False)


def test_standard_waits_once_a_token(llava: Any, inputs: dict[str, Tensor]) -> None:
    found = waits(Standard(), llava, inputs, count=12)
    assert [(reads, sends) for _, reads, sends in found] == [(1, 0)] * 11


UNRULED: list[Callable[[Any], Method]] = [
    lambda llava: FastVLM(oracle_draft(llava, 2), gamma=GAMMA), lambda llava: LayerSkip(2, gamma=GAMMA),
    lambda llava: Control(gamma=GAMMA), lambda llava: some_skipped(gamma=GAMMA),
]  # fmt: skip


@pytest.mark.parametrize("method", covering(UNRULED, [UNRULED[0], UNRULED[2]]))
@pytest.mark.usefixtures("deferring")
def test_what_no_rule_looks_at_stays_on_the_device(
    llava: Any, inputs: dict[str, Tensor], method: Callable[[Any], Method]
) -> None:
    """One wait a round: drafts, acceptance and the target's own token are read together."""
    # The spoiled head of the tests draws whether it spoils a draft; it is not the method's.
    built = method(llava)
    own = draws(built)
    found = waits(built, llava, inputs, count=24)
    assert len(found) > 2
    assert [(reads - own(rounds[0]), sends) for rounds, reads, sends in found] == [(1, 0)] * len(found)


def draws(method: Method) -> Callable[[Round], int]:
    """How many numbers of a round the tests' own head reads: one for each of its passes."""
    head = getattr(method.draft, "head", None)
    return (lambda done: done.drafted + 1) if head is not None else (lambda done: 0)


RULED: list[Callable[[Any, float], Method]] = [
    lambda llava, stop: FastVLM(oracle_draft(llava, 2), gamma=GAMMA, stop_below=stop),
    lambda llava, stop: LayerSkip(2, gamma=GAMMA, stop_below=stop),
    lambda llava, stop: some_skipped(gamma=GAMMA, stop_below=stop),
    lambda llava, stop: Adaptive(oracle_draft(llava, 2), gamma=GAMMA),
]


@pytest.mark.parametrize("stop_below", covering([0.0, 1e-9], [1e-9]))
@pytest.mark.parametrize("method", covering(RULED, [RULED[0], RULED[3]]))
def test_a_rule_costs_one_wait_a_drafted_token(
    llava: Any, inputs: dict[str, Tensor], method: Callable[[Any, float], Method], stop_below: float
) -> None:
    """Its probability and the token are read together, and each is written by a number, not by a list."""
    built = method(llava, stop_below)
    own = draws(built)
    found = waits(built, llava, inputs, count=24)
    drafting = [(rounds[0], reads, sends) for rounds, reads, sends in found if rounds[0].drafted]
    assert drafting
    for done, reads, sends in drafting:
        doubted = reads - own(done) - done.drafted - 1
        assert 0 <= doubted <= isinstance(built, Adaptive), "a draft that is not worth it was read as well"
        assert sends == 0


def test_an_exit_alone_waits_once_a_token(llava: Any, inputs: dict[str, Tensor]) -> None:
    method = EarlyExit(oracle_draft(llava, LAYERS - 1, spoiled=0.0))
    found = waits(method, llava, inputs, count=8)
    assert [(reads - 1, sends) for _, reads, sends in found] == [(1, 0)] * 7


def test_drafts_that_are_copied_cost_one_wait_a_round(llava: Any, inputs: dict[str, Tensor]) -> None:
    method = copies(gamma=GAMMA)
    found = waits(method, llava, inputs, count=24)
    assert GAMMA <= FEW and any(rounds[0].drafted for rounds, *_ in found)
    (first, *others) = [(reads, sends) for _, reads, sends in found]
    assert first == (2, 0), "the prompt is read once, to copy from it"
    assert others == [(1, 0)] * len(others)


@pytest.mark.parametrize("stop_below", covering([0.0, 1e-9], [1e-9]))
def test_draws_are_looked_at_one_by_one(llava: Any, inputs: dict[str, Tensor], stop_below: float) -> None:
    """A draw must not meet a NaN, so the device is asked before; then the token is read, and its probability."""
    torch.manual_seed(0)
    method = FastVLM(oracle_draft(llava, 2, spoiled=0.0), gamma=GAMMA, stop_below=stop_below)
    found = []
    own = method.round

    def watched(session: Session) -> list[Round]:
        with counted() as counts:
            (done,) = own(session)
        found.append((done, counts["reads"] - done.drafted - 1, counts["sends"]))
        return [done]

    method.round = watched  # type: ignore[method-assign]
    llava.generate(**inputs, max_new_tokens=24, do_sample=True, custom_generate=method)
    for done, reads, sends in found:
        coins = done.tested
        last = 2 if done.accepted < done.drafted else 1  # a rejected draft's residual is looked at
        assert reads == done.drafted * (2 + bool(stop_below)) + 1 + 2 + coins + last
        assert sends == 1, "the places of the drafts in p and q"
