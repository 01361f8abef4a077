"""Builds a method from its specification: finds its draft and checks that the draft fits the target."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastvlm_bench.decoding.control import Control
from fastvlm_bench.decoding.early_exit import EarlyExit
from fastvlm_bench.decoding.fastvlm import FastVLM
from fastvlm_bench.decoding.hf_generate import HfGenerate
from fastvlm_bench.decoding.layerskip import LayerSkip
from fastvlm_bench.decoding.standard import Standard
from fastvlm_bench.drafts.imitation_head import Draft
from fastvlm_bench.drafts.manifest import choose_draft
from fastvlm_bench.engine.method import Method
from fastvlm_bench.errors import UsageError
from fastvlm_bench.machine.clock import Clock
from fastvlm_bench.method_spec import METHODS, MethodSpec
from fastvlm_bench.models.load import Target


@dataclass
class Built:
    """A method ready to decode. `described` is its entry of `methods` in run.json."""

    label: str
    method: Method
    lossless: bool
    exit_layer: int | None
    described: dict[str, Any]


def build(spec: MethodSpec, target: Target, drafts: Path | None, clock: Clock) -> Built:
    """Build one method on a loaded target. UsageError where no draft fits, or the exit layer is out of range.

    drafts: a draft folder or a folder of draft folders; None where there is none.
    """
    options: dict[str, Any] = dict(spec.options)
    draft: Draft | None = None
    method: Method
    if spec.name in ("fastvlm", "early-exit"):
        wish = {key: options.get(key) for key in ("head", "exit_layer", "draft")}
        folder = choose_draft(drafts, model=target.id, **wish)
        draft = Draft.load(folder, target.model)
        options |= {"head": draft.manifest.head if draft.manifest else None, "exit_layer": draft.exit_layer}
    if spec.name == "fastvlm" and draft is not None:
        method = FastVLM(draft, gamma=options["gamma"], stop_below=options["stop_below"], clock=clock)
    elif spec.name == "layerskip":
        count = len(target.layers)
        if not 1 <= options["exit_layer"] < count:
            raise UsageError(f"exit_layer={options['exit_layer']} is not within 1 .. {count - 1} of {target.id}")
        method = LayerSkip(options["exit_layer"], gamma=options["gamma"], stop_below=options["stop_below"], clock=clock)
    elif spec.name == "early-exit" and draft is not None:
        method = EarlyExit(draft, clock=clock)
    elif spec.name == "hf-generate":
        method = HfGenerate(clock=clock)
    elif spec.name == "control":
        method = Control(gamma=options["gamma"], clock=clock)
    else:
        method = Standard(clock=clock)
    described = {
        "label": spec.label, "name": spec.name, "spec": str(spec), "lossless": METHODS[spec.name].lossless,
        "options": options, "draft": vars(draft.manifest) if draft and draft.manifest else None,
        "extra_bytes": draft.weight_bytes if draft else 0,
    }  # fmt: skip
    return Built(spec.label, method, METHODS[spec.name].lossless, options.get("exit_layer"), described)
