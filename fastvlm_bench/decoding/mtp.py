"""Drafts with the layer for multi-token prediction in the target's own checkpoint, chained on its own output.

Checkpoints of the Qwen3.5 family carry one (`mtp.*`), which transformers leaves out when it loads them. See
docs/methods/mtp.md.
"""

from pathlib import Path
from typing import Any

from fastvlm_bench.drafters.from_states import FromStates
from fastvlm_bench.drafts.fitting import MTP_PREFIX
from fastvlm_bench.drafts.mtp_head import MtpHead, load_mtp
from fastvlm_bench.errors import UsageError
from fastvlm_bench.machine.clock import Clock
from fastvlm_bench.method_spec import MAX_GAMMA, MethodKind, Option
from fastvlm_bench.models.hub import checkpoint_folder
from fastvlm_bench.models.load import Target

METHOD = MethodKind(
    "drafts with the mtp layer in the target's own checkpoint (Qwen3.5 and kin)", lossless=True, group="drafts",
    options={
        "gamma": Option(int, 3, "most tokens drafted per round", low=1, high=MAX_GAMMA),
        "stop_below": Option(float, 0.0, "drafting stops before a token less probable than this", low=0, below=1),
    },
)  # fmt: skip


class MtpMethod(FromStates):
    """To be passed to `generate` as `custom_generate`: MtpMethod(folder="folder of the checkpoint", gamma=3).

    draft: a loaded layer. The layer is loaded now if `target` is given, else from `folder` at the first call.
    """

    def __init__(
        self, *, gamma: int = 3, stop_below: float = 0.0, target: Target | None = None,
        folder: str | Path | None = None, draft: MtpHead | None = None, clock: Clock | None = None,
    ) -> None:  # fmt: skip
        super().__init__(gamma=gamma, stop_below=stop_below, clock=clock)
        self.folder = None if folder is None else Path(folder)
        self.head, self.source = draft, str(folder)
        if target is not None and draft is None:
            self.source = target.id
            self.folder = checkpoint_folder(target.id, target.commit)
            self.head = load_mtp(self.folder, target.model, target.id)

    def head_for(self, model: Any) -> MtpHead:
        if self.head is None:
            if self.folder is None:
                raise UsageError("the method mtp needs the folder of the target's checkpoint: MtpMethod(folder=…)")
            self.head = load_mtp(self.folder, model, type(model).__name__)
        assert isinstance(self.head, MtpHead)
        return self.head

    @property
    def drafter(self) -> dict[str, Any] | None:
        return {"kind": "mtp", "name": MTP_PREFIX + "*", "source": self.source} if self.folder is not None else None
