"""Records one pass as a CUDA graph: the device repeats its kernels by one launch."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from fastvlm_bench.engine.tape import CannotRecord, check_repeatable


class CudaGraph:
    """As `Tape`, on CUDA. The pass is first watched as for a tape, which finds what must not be repeated."""

    pool: Any = None  # memory that the graphs share: no two passes run at a time

    def __init__(
        self, run: Callable[[], tuple[Tensor, ...]], changing: Iterable[Tensor], weights: Iterable[Tensor]
    ) -> None:  # fmt: skip
        before = torch.cuda.memory_allocated()
        with torch.inference_mode():
            known = [one.clone() for one in check_repeatable(run, changing, weights)]
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):  # libraries set themselves up in a first call, which a graph must not hold
                run()
            torch.cuda.current_stream().wait_stream(side)
            self._graph = torch.cuda.CUDAGraph()
            try:
                with torch.cuda.graph(self._graph, pool=CudaGraph.pool):
                    self.outputs = run()
            except RuntimeError as error:
                raise CannotRecord(f"CUDA refuses to record it ({str(error).splitlines()[0]})") from error
            CudaGraph.pool = self._graph.pool()
            self.replay()
        for one, own in zip(known, self.outputs, strict=True):
            if not torch.allclose(one.float().nan_to_num(), own.float().nan_to_num(), atol=1e-2, rtol=1e-2):
                raise CannotRecord("its kernels, repeated, do not give the same numbers")
        self.nbytes = max(0, torch.cuda.memory_allocated() - before)

    def replay(self) -> None:
        """Do all of it again, with what stands in the changing tensors now."""
        self._graph.replay()
