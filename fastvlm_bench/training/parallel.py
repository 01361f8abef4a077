"""Data parallel training, as `accelerate launch` or `torchrun` starts it: gradients are summed over the processes.

Without either there is one process, and the functions here have nothing to do.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from typing import Any

import torch
from torch import distributed, nn

from fastvlm_bench.errors import BenchError, UsageError


def start(device: str = "auto", device_map: str | None = None, gradients: bool = True) -> None:
    """Join the other processes if there are any. Reads RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT.

    gradients: False where only objects are exchanged, which needs no device. UsageError for a device or a device map
    that all processes would have to share.
    """
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if several and (device_map or ":" in device):
        given = f"--device-map {device_map}" if device_map else f"--device {device}"
        raise UsageError(f"{given} cannot be kept by several processes, each of which has a device of its own; "
                         "leave it out, or start one process")  # fmt: skip
    if several and not distributed.is_initialized():
        gpu = torch.cuda.is_available() and device in ("auto", "cuda")
        if gpu:
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        # The others may wait for hours while the leader generates the answers to learn on.
        distributed.init_process_group("nccl" if gpu and gradients else "gloo", timeout=timedelta(days=2))


def finish() -> None:
    if distributed.is_initialized():
        distributed.destroy_process_group()


def rank() -> int:
    return distributed.get_rank() if distributed.is_initialized() else 0


def world() -> int:
    return distributed.get_world_size() if distributed.is_initialized() else 1


def leads() -> bool:
    """Whether this process is the one that writes files and prints."""
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
    """Add up the gradients of all processes.

    Each process divided its loss by the weight of the whole batch, so the sum is the gradient of the batch's mean loss.
    """
    if world() > 1:
        for parameter in parameters:
            if parameter.grad is None:  # its part of the batch was empty
                parameter.grad = torch.zeros_like(parameter)
            distributed.all_reduce(parameter.grad)


def sum_values(values: dict[str, float]) -> dict[str, float]:
    """Each value, added up over all processes."""
    if world() > 1:
        together = torch.tensor(list(values.values()), dtype=torch.float64)
        if distributed.get_backend() == "nccl":
            together = together.cuda()
        distributed.all_reduce(together)
        return dict(zip(values, together.tolist(), strict=True))
    return values


def any_of(asked: bool) -> bool:
    """Whether any process was asked to stop. All then stop after the same update, so that none waits for another."""
    return sum_values({"asked": float(asked)})["asked"] > 0


def wait() -> None:
    """Wait until every process calls this, as the others do for the answers that the leader writes and they read."""
    if world() > 1:
        distributed.barrier()


def lead(work: Callable[[], None]) -> None:
    """Let the leader do `work` while the others wait. If it fails, all processes fail, so that none waits for ever."""
    refused: BenchError | None = None
    if leads():
        try:
            work()
        except BenchError as error:
            refused = error
        except BaseException as error:
            from_leader(BenchError(f"the leading process ended: {type(error).__name__}"))
            raise
    refused = from_leader(refused)
    if refused is not None:
        raise refused


def to_leader(value: Any) -> list[Any]:
    """In the leader the values of all processes by rank; in the others []."""
    if world() == 1:
        return [value]
    found: list[Any] | None = [None] * world() if leads() else None
    distributed.gather_object(value, found, dst=0)
    return found or []


def from_leader(value: Any) -> Any:
    """The leader's value, in every process."""
    if world() == 1:
        return value
    holder = [value]
    distributed.broadcast_object_list(holder, src=0)
    return holder[0]
