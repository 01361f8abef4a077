"""Drafts with an EAGLE-3 head (arXiv 2503.01840), as `speculators`, SpecForge, AngelSlim and the authors publish them.

The head is one decoder layer that reads three states of the target beside the embedding of the next token. They leave
the verification, so drafting runs no layer of the target. See docs/methods/eagle3.md.
"""

from pathlib import Path
from typing import Any

from fastvlm_bench.drafters.eagle_method import EagleMethod
from fastvlm_bench.drafts.state_heads import Eagle
from fastvlm_bench.machine.clock import Clock
from fastvlm_bench.method_spec import EAGLE_OPTIONS, MethodKind, Option
from fastvlm_bench.models.load import Target

METHOD = MethodKind(
    "drafts with an EAGLE-3 head that reads three states of the target, as a chain or a tree", lossless=True,
    group="drafts",
    options={
        "draft": Option(str, None, "the head: speculators' or the authors' spelling", source=True, needed=True),
        **EAGLE_OPTIONS,
        "aux": Option(str, None, "the states to read, as in 2-16-29: i is what enters layer i; by default the head's"),
    },
)  # fmt: skip


class Eagle3Method(EagleMethod):
    """To be passed to `generate` as `custom_generate`: Eagle3Method("folder", gamma=5)."""

    kind = "eagle3"

    def __init__(
        self, draft: str | Path | Eagle, *, gamma: int = 5, topk: int = 1, depth: int | None = None, nodes: int = 59,
        stop_below: float = 0.0, images: str = "merged", aux: str | None = None, target: Target | None = None,
        clock: Clock | None = None,
    ) -> None:  # fmt: skip
        shape: dict[str, Any] = {"gamma": gamma, "topk": topk, "depth": depth, "nodes": nodes}
        super().__init__(
            draft, images=images, aux=aux, target=target, stop_below=stop_below, clock=clock, **shape
        )  # fmt: skip
