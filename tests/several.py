"""Processes as `torchrun` starts them, forked from the test's own."""

import contextlib
import os
import socket
from collections.abc import Callable
from pathlib import Path

from forked import Child


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def launched(work: Callable[[int], int], world: int, said: Path) -> list[tuple[int, str, str]]:
    """(exit code, output, errors) of each of `world` processes that do `work(rank)` together."""
    port = str(free_port())

    def process(rank: int) -> Child:
        place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1",
                 "MASTER_PORT": port} if world > 1 else {}  # fmt: skip

        def begun() -> int:
            os.environ |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **place}
            return work(rank)

        return Child(begun, said / str(rank))

    with contextlib.ExitStack() as stack:
        started = [stack.enter_context(process(rank)) for rank in range(world)]
        return [child.wait() for child in started]
