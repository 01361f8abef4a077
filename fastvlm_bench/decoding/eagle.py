"""Drafts with an EAGLE-1 or EAGLE-2 head (arXiv 2401.15077, 2406.16858): one layer on embedding and last state.

It predicts the target's last state at the next position, from which the target's own LM head drafts. See
docs/methods/eagle.md.
"""

from pathlib import Path
from typing import Any

from fastvlm_bench.drafters.eagle_method import EagleMethod
from fastvlm_bench.drafts.state_heads import Eagle
from fastvlm_bench.machine.clock import Clock
from fastvlm_bench.method_spec import EAGLE_OPTIONS, MethodKind, Option
from fastvlm_bench.models.load import Target

METHOD = MethodKind(
    "drafts with an EAGLE-1/2 head that reads the target's last state, as a chain or a tree", lossless=True,
    group="drafts",
    options={
        "draft": Option(str, None, "the head", source=True, needed=True), **EAGLE_OPTIONS,
    },
)  # fmt: skip


class Eagle1Method(EagleMethod):
    """To be passed to `generate` as `custom_generate`: Eagle1Method("folder", gamma=5)."""

    kind = "eagle"

    def __init__(
        self, draft: str | Path | Eagle, *, gamma: int = 5, topk: int = 1, depth: int | None = None, nodes: int = 59,
        stop_below: float = 0.0, images: str = "merged", target: Target | None = None, clock: Clock | None = None,
    ) -> None:  # fmt: skip
        shape: dict[str, Any] = {"gamma": gamma, "topk": topk, "depth": depth, "nodes": nodes}
        super().__init__(draft, images=images, target=target, stop_below=stop_below, clock=clock, **shape)
