"""A whole run without a model: the real Runner, writer and records around a target that answers from a table."""

import random
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from fastvlm_bench.decoding.build import Built
from fastvlm_bench.engine.method import Method
from fastvlm_bench.machine.clock import Clock
from fastvlm_bench.measuring.runner import Runner
from fastvlm_bench.records.record import RUN_FILE, RunWriter
from fastvlm_bench.records.trace import Generation, Round, Trace
from fastvlm_bench.suites.suite import Sample

EOS, LIMIT, CONFIG = 2, 40, "c" * 64


class FakeModel:
    """Hands the prompt to the method, as `transformers` does with a custom_generate."""

    def named_modules(self) -> list[Any]:
        return []

    def generate(self, *, custom_generate: Any, input_ids: torch.Tensor, **_: Any) -> Any:
        return custom_generate(self, input_ids)


class FakeMethod(Method):
    """Answers by the number in the prompt, in rounds of `step` tokens; pauses so that it can be killed midway."""

    def __init__(self, step: int, pause_s: float = 0.0) -> None:
        super().__init__(clock=Clock())
        self.step, self.pause_s = step, pause_s

    def __call__(self, model: Any, input_ids: torch.Tensor, **prepared: Any) -> torch.Tensor:
        source = random.Random(int(input_ids[0, 0]))
        tokens = [source.randint(10, 99) for _ in range(source.randint(10, 30))] + [EOS]
        if self.pause_s:
            time.sleep(self.pause_s)
        rounds, left = [], len(tokens) - 1
        while left:
            emitted = min(self.step, left)
            drafted = self.step - 1
            rounds.append(Round(drafted, drafted, drafted, emitted, 0.0, 0.0))
            left -= emitted
        self.trace = Trace([Generation(tokens, "eos", 1e-9, None, 1e-9, 1e-9, rounds)], 1e-9, None, 1e-9)
        return input_ids


def meta(samples: int) -> dict[str, Any]:
    """The run.json of a run of `samples` samples."""
    suite = {"name": "s", "version": "1", "kind": "caption", "split": "embedded", "source": "", "sha256": "",
             "prompt": "", "max_new_tokens": LIMIT, "metrics": [], "licence": "", "citation": "",
             "samples": [{"sample_id": f"{i:05d}", "image_id": f"{i:05d}", "prompt": "", "references": []}
                         for i in range(samples)]}  # fmt: skip
    methods = [{"label": label, "name": label, "spec": label, "lossless": True, "options": {}, "draft": None,
                "extra_bytes": 0} for label in ("standard", "fastvlm")]  # fmt: skip
    model = {"id": "fake", "dtype": "float32", "device": "cpu", "attention": "sdpa", "weights_sha256": "0"}
    return {"run_id": "fake", "status": "started", "config": {}, "config_sha256": CONFIG, "suites": [suite],
            "model": model, "methods": methods, "reference": "standard", "environment": {}, "warnings": [],
            "started_at": "2026-11-24T10:15:00Z"}  # fmt: skip


def execute(folder: Path, samples: int, pause_s: float = 0.0, watch: Any = None) -> int:
    """Start or resume the run in `folder` and finish it: 0, as a command. watch(done) is called after each sample."""
    torch.set_num_threads(1)
    resuming = (folder / RUN_FILE).exists()
    writer = RunWriter.resume(folder, CONFIG) if resuming else RunWriter.create(folder, meta(samples))
    target = SimpleNamespace(model=FakeModel(), device=torch.device("cpu"), decode=lambda ids: " ".join(map(str, ids)))
    methods = [
        Built(label, FakeMethod(step, pause_s), True, None, {}) for label, step in (("standard", 1), ("fastvlm", 4))
    ]
    runner = Runner(target, methods, Clock(), max_new_tokens=LIMIT)  # type: ignore[arg-type]
    runner.inputs = lambda sample: {"input_ids": torch.tensor([[int(sample.sample_id)]])}  # type: ignore[method-assign]
    suite = SimpleNamespace(name="s", samples=[Sample(f"{i:05d}", "", Path(), "", ()) for i in range(samples)])
    runner.run(suite, 1, writer, lambda group: None if watch is None else watch(group.done))  # type: ignore[arg-type]
    writer.finish("success")
    return 0
