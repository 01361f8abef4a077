"""What passes make for a moment shares its memory, and nothing is written over that is still to be read."""

from collections.abc import Callable
from random import Random
from unittest.mock import patch

import pytest
import torch
from covering import covering
from torch import Tensor, UntypedStorage

from fastvlm_bench.engine.scratch import Scratch
from fastvlm_bench.engine.tape import CannotRecord, Tape

SIZE, DEEP = 1000, 30


def chain(x: Tensor, deep: int = DEEP) -> Tensor:
    """Each value is read by the next alone, but for the first one, which the last reads as well."""
    first = last = x.sin()
    for number in range(deep):
        last = (last.view(10, -1).t() + number).t().reshape(-1).cos()
    return last * first


OPERATIONS: list[Callable[[Tensor, Tensor], Tensor]] = [
    lambda one, other: one + other,
    lambda one, other: one.view(10, -1)[::2].exp().sum() - other,
    lambda one, other: torch.cat(one.sort().values.split(SIZE // 2)[::-1]),
    lambda one, other: (one * 0.5).add_(other),
    lambda one, other: torch.zeros(SIZE).copy_(one),
]


def random(seed: int) -> Callable[[Tensor], Tensor]:
    """A pass whose values are read by any later ones: views, writes in place and results in pairs among them."""
    draw = Random(seed)
    plan = [(draw.randint(0, number), draw.randint(0, number), draw.choice(OPERATIONS)) for number in range(25)]

    def run(x: Tensor) -> Tensor:
        known = [x.sin()]
        for one, other, do in plan:
            known.append(do(known[one], known[other]).clamp(-3, 3))
        return torch.stack(known[::3]).sum(0)

    return run


def taped(run: Callable[[Tensor], Tensor], scratch: Scratch) -> tuple[Tape, Tensor]:
    given = torch.randn(SIZE, generator=torch.Generator().manual_seed(0))
    return Tape(lambda: (run(given),), [given], [], scratch), given


def repeated(tape: Tape, given: Tensor, run: Callable[[Tensor], Tensor], seed: int) -> None:
    with torch.inference_mode():
        given.copy_(torch.randn(SIZE, generator=torch.Generator().manual_seed(seed)))
        tape.replay()
        assert torch.equal(tape.outputs[0], run(given))


def test_what_lives_at_different_times_lies_in_the_same_place() -> None:
    scratch = Scratch()
    taped(chain, scratch)
    assert scratch.nbytes <= 4 * 1024 * 4, "four values of a thousand floats, of more than sixty"
    before = scratch.nbytes
    tape, _ = taped(lambda x: chain(x, 2 * DEEP), scratch)
    assert scratch.nbytes == before and tape.nbytes == 4 * SIZE, "a longer pass takes the places of the shorter one"


@pytest.mark.parametrize("seed", covering(range(12), range(4)))
def test_passes_that_share_it_give_what_each_gives_alone(seed: int) -> None:
    scratch = Scratch()
    passes = [(run, *taped(run, scratch)) for run in (random(seed), random(seed + 100), chain)]
    for turn in range(2):
        for run, tape, given in passes:
            repeated(tape, given, run, seed=turn)


def test_outputs_outlive_the_next_pass() -> None:
    scratch = Scratch()
    first, _ = taped(chain, scratch)
    second, given = taped(random(3), scratch)
    before = first.outputs[0].clone()
    repeated(second, given, random(3), seed=5)
    assert torch.equal(first.outputs[0], before)


def test_what_is_written_over_too_early_is_found_when_the_pass_is_recorded() -> None:
    """The first repetition must give the recorded bits, so that a fault of the layout makes no wrong token."""
    all_alike = torch.empty(4 * SIZE, dtype=torch.uint8).untyped_storage()

    def free(self: Scratch, nbytes: int, known: dict[int, list[UntypedStorage]]) -> UntypedStorage:
        known.setdefault(all_alike.nbytes(), [])
        return all_alike

    with patch.object(Scratch, "_free", free), pytest.raises(CannotRecord, match="do not give the same numbers"):
        taped(chain, Scratch())
