"""Drafts with the raw exit, without an imitation head, as LayerSkip does (arXiv 2404.16710): the head's ablation."""

from fastvlm_bench.decoding.fastvlm import FastVLM
from fastvlm_bench.drafts.imitation_head import Draft
from fastvlm_bench.machine.clock import Clock
from fastvlm_bench.method_spec import BRANCH_ABOVE, GAMMA, NODES, STOP_BELOW, TOPK, MethodKind, Option
from fastvlm_bench.models.load import Target

METHOD = MethodKind(
    "as fastvlm, but drafts with the raw exit: what the imitation head is worth", lossless=True, group="baselines",
    options={
        "gamma": GAMMA,
        "exit_layer": Option(int, 2, "target layers run while drafting", low=1),
        "stop_below": STOP_BELOW,
        "topk": TOPK, "nodes": NODES, "branch_above": BRANCH_ABOVE,
    },
)  # fmt: skip


class LayerSkip(FastVLM):
    """The same loop as FastVLM; the exit's states go straight to the target's final norm and LM head."""

    def __init__(
        self, exit_layer: int, *, gamma: int = 10, stop_below: float = 0.0, topk: int | None = None,
        nodes: int | None = None, branch_above: float | None = None, target: Target | None = None,
        clock: Clock | None = None,
    ) -> None:  # fmt: skip
        super().__init__(
            Draft(exit_layer, None), gamma=gamma, stop_below=stop_below, topk=topk, nodes=nodes,
            branch_above=branch_above, target=target, clock=clock,
        )  # fmt: skip
