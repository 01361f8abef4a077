"""The group `settings` of a row: what was measured, and how the model ran."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fastvlm_bench.analysis.arms import Arm
from fastvlm_bench.analysis.batches import batch_size
from fastvlm_bench.method_spec import CONTROL, METHODS
from fastvlm_bench.records.record import Run


@dataclass(frozen=True)
class Settings:
    """What the user chose for a suite and a method, and what the run recorded of it.

    method_name: the name alone, where the row's `method` is the label as typed. lossless: whether greedy output must
    equal the reference's. max_new_tokens: the limit of an answer; with `ignore_eos` every answer has that length.
    temperature: 0 where decoding is greedy, and then top_p and top_k are None. batch_size: samples decoded at a time.
    engine: how passes ran, eager or graphs.
    gamma, exit_layer, head, stop_below: of the method, None where it has no such option; options: all of them, as
    "name=value". draft: the name of its folder; draft_id: the first eight digits of the SHA-256 of its weights, or of
    its manifest where an older record has no other. hardware: name of the GPU, or of the CPU where there is none.
    commit, tool: the code that ran. started_at: UTC.
    """

    suite_version: str
    split: str
    source: str
    method_name: str
    lossless: bool
    dtype: str
    device: str
    attention: str
    threads: int | None
    max_new_tokens: int
    ignore_eos: bool
    temperature: float
    top_p: float | None
    top_k: int | None
    batch_size: int
    engine: str
    gamma: int | None
    exit_layer: int | None
    head: str | None
    stop_below: float | None
    draft: str | None
    draft_id: str | None
    options: tuple[str, ...]
    hardware: str | None
    commit: str | None
    tool: str | None
    started_at: str | None

    @property
    def foreign(self) -> bool:
        """Whether it is another library's loop, whose faults do not touch the numbers of the other methods."""
        kind = METHODS.get(self.method_name)
        return kind is not None and kind.foreign

    @property
    def drafts(self) -> bool:
        """Whether it is a method that drafts, also where it tested no draft; of a method whose file is not here, its
        option says so."""
        kind = METHODS.get(self.method_name)
        return self.gamma is not None if kind is None else kind.drafts

    @property
    def compared(self) -> bool:
        """Whether anybody asks if it is faster or better. Words for `control` would cost the other methods theirs."""
        return self.method_name != CONTROL

    @property
    def sampled(self) -> bool:
        """Whether tokens were drawn. Two runs of the target itself then differ in their tokens and their lengths."""
        return bool(self.temperature)


def settings_of(run: Run, arm: Arm) -> Settings:
    """The settings of an arm, from its entries in `run.json`."""
    model, method, suite, config = run.meta["model"], arm.method, arm.suite, run.meta["config"]
    environment, options, draft = run.meta.get("environment", {}), method.get("options") or {}, method.get("draft")
    threads = environment.get("threads")
    return Settings(
        suite_version=str(suite["version"]),
        split=suite["split"],
        source=suite["source"],
        method_name=method["name"],
        lossless=bool(method["lossless"]),
        dtype=model["dtype"],
        device=model["device"],
        attention=model["attention"],
        threads=threads if isinstance(threads, int) else None,
        max_new_tokens=suite["max_new_tokens"],
        ignore_eos=bool(config.get("ignore_eos")),
        temperature=float(config.get("temperature") or 0),
        top_p=config.get("top_p"),
        top_k=config.get("top_k"),
        batch_size=batch_size(run),
        engine=engine_of(run),
        gamma=options.get("gamma"),
        exit_layer=options.get("exit_layer"),
        head=options.get("head"),
        stop_below=options.get("stop_below"),
        draft=draft.get("name") if draft else None,
        draft_id=draft_id(draft) if draft else None,
        options=tuple(f"{name}={value}" for name, value in options.items() if value is not None),
        hardware=environment.get("gpu") or environment.get("cpu"),
        commit=environment.get("commit"),
        tool=environment.get("tool"),
        started_at=run.meta.get("started_at"),
    )


def engine_of(run: Run) -> str:
    """The engine of all methods of a run: what `auto` stood for, and whether parts of the layers were compiled.

    Older records do not name it: there was one.
    """
    environment = run.meta.get("environment") or {}
    used = str(environment.get("engine") or run.meta["config"].get("engine") or "eager")
    return f"{used}, compiled" if environment.get("compiled") else used


def draft_id(draft: Mapping[str, Any]) -> str:
    """Eight hexadecimal digits that tell drafts apart."""
    known = draft.get("sha256") or hashlib.sha256(json.dumps(draft, sort_keys=True).encode()).hexdigest()
    return str(known)[:8]
