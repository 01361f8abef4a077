"""A few samples through the real Runner, with a real model and a record that only keeps the lines."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from fastvlm_bench.decoding.build import Built
from fastvlm_bench.decoding.standard import Standard
from fastvlm_bench.machine.clock import Clock
from fastvlm_bench.measuring.runner import Runner
from fastvlm_bench.suites.suite import Sample

COUNT = 12


class Record:
    """Stands for a RunWriter: keeps the lines."""

    def __init__(self) -> None:
        self.completed: set[Any] = set()
        self.said: dict[Any, Any] = {}
        self.lines: list[dict[str, Any]] = []

    def append(self, line: dict[str, Any]) -> None:
        self.lines.append(line)


def run(
    llava: Any, inputs: dict[str, Any], method: Any, samples: int = 2, **generation: Any
) -> list[dict[str, Any]]:  # fmt: skip
    target = SimpleNamespace(model=llava, device=torch.device("cpu"), decode=lambda ids: " ".join(map(str, ids)))
    methods = [
        Built("standard", Standard(), True, None, {}),
        Built("fastvlm", method, True, 2, {}),
    ]
    given = {"generation": generation} if generation else {}
    runner = Runner(target, methods, Clock(), max_new_tokens=COUNT, **given)  # type: ignore[arg-type]
    runner.inputs = lambda sample: inputs  # type: ignore[method-assign]
    suite = SimpleNamespace(name="s", samples=[Sample(str(i), "", Path(), "", ()) for i in range(samples)])
    writer = Record()
    runner.run(suite, 1, writer, lambda step: None)  # type: ignore[arg-type]
    return writer.lines


def outcomes(lines: list[dict[str, Any]]) -> list[str]:
    assert all(line["losslessness"] is None for line in lines if line["method"] == "standard")
    return [line["losslessness"]["outcome"] for line in lines if line["method"] == "fastvlm"]
