"""Data parallel training, as `accelerate launch` or `torchrun` starts it: gradients are summed over the processes.

Without either, one process does it all and nothing here does anything.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import distributed, nn

from fastvlm_bench.errors import UsageError


def start(device_map: str | None = None) -> None:
    """Join the other processes if there are any. Reads RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT."""
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if several and device_map:
        raise UsageError(f"--device-map {device_map} spreads one model over all devices, but each of several processes "
                         "has a device of its own; leave it out, or start one process")  # fmt: skip
    if several and not distributed.is_initialized():
        distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")


def finish() -> None:
    if distributed.is_initialized():
        distributed.destroy_process_group()


def rank() -> int:
    return distributed.get_rank() if distributed.is_initialized() else 0


def world() -> int:
    return distributed.get_world_size() if distributed.is_initialized() else 1


def leads() -> bool:
    """Whether this process is the one that writes and speaks."""
    return rank() == 0


def local_device(name: str) -> str:
    """The device of this process: with several GPUs each process takes its own."""
    if world() > 1 and name in ("auto", "cuda") and torch.cuda.is_available():
        return f"cuda:{int(os.environ.get('LOCAL_RANK', '0'))}"
    return name


def share(items: Sequence[Any]) -> list[Any]:
    """This process's part of a batch."""
    return list(items[rank() :: world()])


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Add up what the processes found. The loss was divided by the whole batch's weight, so the sum is the mean."""
    if world() > 1:
        for parameter in parameters:
            if parameter.grad is None:  # its part of the batch was empty
                parameter.grad = torch.zeros_like(parameter)
            distributed.all_reduce(parameter.grad)


def sum_values(values: dict[str, float]) -> dict[str, float]:
    if world() > 1:
        together = torch.tensor(list(values.values()), dtype=torch.float64)
        if torch.cuda.is_available():
            together = together.cuda()
        distributed.all_reduce(together)
        return dict(zip(values, together.tolist(), strict=True))
    return values


def any_of(asked: bool) -> bool:
    """Whether any process was asked: all end after the same update, so that none waits for one that has ended."""
    return sum_values({"asked": float(asked)})["asked"] > 0


def wait() -> None:
    """Until every process is here: the leader writes answers that the others read."""
    if world() > 1:
        distributed.barrier()


def lead(work: Callable[[], None]) -> None:
    """Let the leader do it before anybody goes on; what it refuses is refused by all, so that none waits for it."""
    refused: UsageError | None = None
    if leads():
        try:
            work()
        except UsageError as error:
            refused = error
    refused = from_leader(refused)
    if refused is not None:
        raise refused


def from_leader(value: Any) -> Any:
    """The leader's value, in every process."""
    if world() == 1:
        return value
    holder = [value]
    distributed.broadcast_object_list(holder, src=0)
    return holder[0]
