"""Products of a few rows: each order gives the same product, the fastest is taken, recorded passes stay identical."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from covering import covering
from decoding.test_graphs import draft
from targets import generate
from torch import Tensor

from fastvlm_bench.decoding.fastvlm import FastVLM
from fastvlm_bench.decoding.prompt_lookup import PromptLookup
from fastvlm_bench.engine import few_rows
from fastvlm_bench.engine.few_rows import MOST_ROWS, FewRows, Product, linear, orders, turned
from fastvlm_bench.engine.graphs import Graphs
from fastvlm_bench.engine.scratch import Scratch
from fastvlm_bench.engine.tape import Tape
from fastvlm_bench.machine.clock import FakeClock


@pytest.mark.parametrize("rows", range(2, MOST_ROWS + 1))
def test_every_order_gives_the_same_product(rows: int) -> None:
    torch.manual_seed(rows)
    states, weight = torch.randn(rows, 24), torch.randn(40, 24)
    others = orders(rows)
    assert others[0] is linear and len(others) == 2 + (rows not in (2, 4, 8, 16))
    for order in others:
        found = order(states, weight)
        assert found.is_contiguous() and found.shape == (rows, 40)
        torch.testing.assert_close(found, states @ weight.t(), rtol=1e-5, atol=1e-5)


class Scripted(FewRows):
    """Its products take seconds by a fake clock: those as they are 1, others `others`."""

    def __init__(self, others: float, patch: pytest.MonkeyPatch) -> None:
        clock = FakeClock(0)
        super().__init__(1024, clock)
        real = orders

        def slow(order: Product, seconds: float) -> Product:
            def product(states: Tensor, weight: Tensor) -> Tensor:
                clock.advance(seconds)
                return order(states, weight)

            return product

        as_it_is = slow(linear, 1.0)
        patch.setattr(few_rows, "linear", as_it_is)

        def scripted(rows: int) -> Sequence[Product]:
            return as_it_is, *(slow(order, others) for order in real(rows)[1:])

        patch.setattr(few_rows, "orders", scripted)


@pytest.mark.parametrize(("others", "taken"), [(0.5, True), (0.95, False), (2.0, False)])
def test_another_order_must_be_clearly_faster(others: float, taken: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    products = Scripted(others, monkeypatch)
    assert (products._fastest(torch.randn(3, 8), torch.randn(6, 8)) is not few_rows.linear) == taken


class Turning(FewRows):
    """Takes the first other order without looking at the time."""

    def _fastest(self, rows: Tensor, weight: Tensor) -> Product:
        return turned(len(rows))


@pytest.mark.parametrize(
    ("shape", "dtype", "few"),
    [((1, 2, 8), torch.float32, True), ((1, 16, 8), torch.float32, True), ((4, 1, 8), torch.float32, True),
     ((1, 1, 8), torch.float32, False), ((1, 17, 8), torch.float32, False), ((5, 8), torch.float64, True)],
)  # fmt: skip
@pytest.mark.parametrize("bias", [False, True])
def test_only_maps_of_a_few_rows_are_turned(shape: Any, dtype: torch.dtype, few: bool, bias: bool) -> None:
    torch.manual_seed(1)
    layer, states, products = torch.nn.Linear(8, 6, bias=bias, dtype=dtype), torch.randn(shape, dtype=dtype), Turning(0)
    with torch.inference_mode():
        plain = layer(states)
        with products:
            found = layer(states)
    assert products.turned == few and set(products.known) <= {(states.numel() // 8, 6, 8)}
    torch.testing.assert_close(found, plain)


def test_types_of_weights_that_are_no_plain_tensors_are_left_alone() -> None:
    class Packed(torch.Tensor):
        pass

    products = Turning(0)
    with products:
        torch.nn.functional.linear(torch.randn(3, 8), torch.randn(6, 8).as_subclass(Packed))
        torch.nn.functional.linear(torch.randint(9, (3, 8)), torch.randint(9, (6, 8)))
    assert not products.known


def test_a_tape_repeats_what_is_turned_and_not_the_search_for_it() -> None:
    torch.manual_seed(2)
    layer, states = torch.nn.Linear(8, 6), torch.randn(3, 8)
    with FewRows(1024):
        plain = len(Tape(lambda: (layer(states[:1]),), [states], layer.parameters(), Scratch()))
    products = Turning(0)
    with products:
        tape = Tape(lambda: (layer(states),), [states], layer.parameters(), Scratch())
    with torch.inference_mode():
        states.copy_(torch.randn(3, 8))
        tape.replay()
        with products:
            assert torch.equal(tape.outputs[0], layer(states))
    assert products.turned and len(tape) <= plain + 3


@pytest.mark.parametrize("kind", covering(["fastvlm", "prompt-lookup"], ["fastvlm"]))
def test_recorded_passes_of_turned_products_give_the_same_tokens(
    llava: Any, inputs: dict[str, Tensor], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FewRows, "_fastest", Turning._fastest)
    method = FastVLM(draft(llava, 2, "attention"), gamma=3) if kind == "fastvlm" else PromptLookup(gamma=3)
    method.engine = engine = Graphs()
    assert generate(llava, inputs, method, count=24) == generate(llava, inputs, count=24)
    assert engine.recorded and not engine.reasons and engine.described()["turned"] > 0
