"""A tape repeats the operations of a call, and refuses a call whose repetition would not be the same."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fastvlm_bench.engine.scratch import Scratch
from fastvlm_bench.engine.tape import CannotRecord, Tape

WEIGHT = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
BIAS = torch.randn(6, generator=torch.Generator().manual_seed(1))


def taped(run: Callable[[Tensor], Tensor], given: Tensor, *written: Tensor) -> tuple[Tape, Tensor]:
    """The tape of `run(given)`, and the tensor from which it reads."""
    return Tape(lambda: (run(given),), [given, *written], [WEIGHT, BIAS], Scratch()), given


def attention(x: Tensor) -> Tensor:
    q = nn.functional.linear(x, WEIGHT[:4]).view(1, 3, 2, 2).transpose(1, 2)
    mask = torch.arange(3)[:, None] >= torch.arange(3) - (x.sum() > 1e9).long()
    return nn.functional.scaled_dot_product_attention(q, q, q, mask[None, None]).transpose(1, 2).reshape(1, 3, 4)


def in_place(x: Tensor) -> Tensor:
    made = torch.zeros(1, 3, 4)
    made += x
    made[:, 0].mul_(2)
    return made


def all_kinds(x: Tensor) -> Tensor:
    a, b = x.split(2, dim=-1)
    turned = torch.cat([-b, a], dim=-1).to(torch.float64).float()
    wide = nn.functional.silu(nn.functional.linear(turned, WEIGHT, BIAS))
    chosen = wide.topk(2, dim=-1).values.contiguous()
    return torch.where(chosen > 0, chosen, wide.mean(-1, keepdim=True)).pow(2).rsqrt() * torch.full((), 0.5)


RUNS = [attention, in_place, all_kinds]


@pytest.mark.parametrize("run", RUNS)
def test_a_repetition_is_the_call_itself_to_the_bit(run: Callable[[Tensor], Tensor]) -> None:
    generator = torch.Generator().manual_seed(2)
    tape, given = taped(run, torch.randn(1, 3, 4, generator=generator))
    for _ in range(3):
        with torch.inference_mode():
            given.copy_(torch.randn(1, 3, 4, generator=generator))
            tape.replay()
            assert torch.equal(tape.outputs[0], run(given))


def test_views_and_what_depends_on_weights_alone_are_not_done_again() -> None:
    def run(x: Tensor) -> Tensor:
        table = (torch.arange(4).float()[:, None] * WEIGHT.t().exp()).cos()
        return x.transpose(1, 2).reshape(4, 3).t() @ table

    tape, _ = taped(run, torch.randn(1, 3, 4))
    assert len(tape) == 1, "the matrix product alone"


def test_a_buffer_that_is_written_keeps_what_it_was_given() -> None:
    buffer = torch.zeros(5)

    def run(x: Tensor) -> Tensor:
        buffer.index_copy_(0, x[:1].long(), x[1:])
        return buffer.clone()

    tape, given = taped(run, torch.tensor([0.0, 7.0]), buffer)
    with torch.inference_mode():
        given.copy_(torch.tensor([3.0, 9.0]))
        tape.replay()
    assert tape.outputs[0].tolist() == [7.0, 0.0, 0.0, 9.0, 0.0]


STATE, OTHER = torch.zeros(3), torch.ones(4)
REFUSED: list[tuple[Callable[[Tensor], Tensor], str]] = [
    (lambda x: x * 2 if x.sum() > 0 else x, "depends on the numbers in a tensor"),
    (lambda x: x[: int(x.abs().max())], "depends on the numbers in a tensor"),
    (lambda x: x[x > 0], "depends on the numbers in a tensor"),
    (lambda x: x + OTHER, "reads a tensor that is no weight"),
    (lambda x: x + WEIGHT.add_(0)[0], "writes to what the model keeps"),
]


@pytest.mark.parametrize(("run", "reason"), REFUSED)
def test_a_call_that_cannot_be_repeated_is_refused(run: Callable[[Tensor], Tensor], reason: str) -> None:
    with pytest.raises(CannotRecord, match=reason):
        taped(run, torch.ones(4))


def test_a_number_of_a_weight_may_be_read() -> None:
    tape, given = taped(lambda x: x * float(WEIGHT[0, 0]), torch.ones(4))
    with torch.inference_mode():
        given.fill_(2.0)
        tape.replay()
    assert torch.equal(tape.outputs[0], torch.full((4,), 2.0) * float(WEIGHT[0, 0]))
